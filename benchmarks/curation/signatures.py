"""Seconds of one core that signatures of some texts take, one way after the other; it runs in the
environment of whoever is measured, so it imports nothing of ours but where it is our turn.

    python -m benchmarks.curation.signatures FOLDER WAY
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

Sign = Callable[[list[str]], object]


def ours() -> Sign:
    """Shingles and the keys of 20 bands of 6, from an Arrow column."""
    import pyarrow as pa

    from engine.curation.minhash import band_keys
    from engine.curation.shingles import shingles_of

    return lambda texts: band_keys(shingles_of(pa.array(texts)))


def datatrove() -> Sign:
    """Its signature step, 14 buckets of 8 hashes as it comes, with words cut at white space: its
    own English tokenizer (spaCy) is slower."""
    from datatrove.pipeline.dedup import minhash

    class Spaces:
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    minhash.load_word_tokenizer = lambda language: Spaces()
    step = minhash.MinhashDedupSignature("memory://signatures")

    def sign(texts: list[str]) -> list:
        found = map(step.get_shingles, texts)
        return [step.get_signature(shingles) for shingles in found if shingles.size]

    return sign


def datasketch() -> Sign:
    """As many hashes as ours have, of runs of five words, by its fastest way: all at once."""
    from datasketch import MinHash

    word = re.compile(r"\w+")

    def runs(text: str) -> list[bytes]:
        said = word.findall(text.lower())
        places = range(max(1, len(said) - 4))
        return [" ".join(said[place : place + 5]).encode() for place in places]

    def sign(texts: list[str]) -> list:
        return [found.hashvalues for found in MinHash.generator(map(runs, texts), num_perm=120)]

    return sign


WAYS = {"ours": ours, "datatrove": datatrove, "datasketch": datasketch}


def main() -> None:
    """Rows per second of processor, after a hundred rows that are not counted."""
    folder = Path(sys.argv[1])
    texts = json.loads((folder / "texts.json").read_text())
    sign = WAYS[sys.argv[2]]()
    sign(texts[:100])
    started = time.process_time()
    sign(texts)
    seconds = time.process_time() - started
    (folder / "figures.json").write_text(json.dumps({"rows_per_s": len(texts) / seconds}))


if __name__ == "__main__":
    main()
