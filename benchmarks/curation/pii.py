"""Is personal data found, and nothing else? Planted values of every kind, and all rows of
the data sets, in which only some telephone numbers and e-mail addresses are any."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.curation.packed import packed
from benchmarks.curation.planted import Planted, planted
from benchmarks.curation.sets import TRAINED, prompts, rows
from benchmarks.result import Found, Ratios, bounded
from engine.curation.privacy import KINDS, Pii, pii_in, redacted

SEED = 20
EACH = 40  # of fourteen kinds: 560 values
# Read by eye: service numbers, made-up customers, and letters that the tasks ask for.
EXPECTED = {
    ("sgd", "phone"),
    ("abcd", "phone"),
    ("abcd", "email"),
    ("self_instruct", "phone"),
    ("self_instruct", "email"),
}


def pii(data: Path | None) -> Found:
    """Ratios, and counts by kind with what was found and should not have been, or was missed."""
    values = planted(SEED, EACH)
    texts = prompts("gsm8k", data)
    ratios, raw = _recall(values, texts)
    more, figures = _false_hits(data)
    started = time.process_time()
    pii_in("1" * 10_000_000)
    seconds = time.process_time() - started
    more["pii_seconds_for_10_mb_of_digits"] = bounded(seconds, "<=", 30)
    in_blocks, left = packed(values, texts)
    return ratios | more | in_blocks, {"pii": raw | figures | {"in_blocks": left}}


def _recall(values: list[Planted], texts: list[str]) -> tuple[Ratios, dict[str, Any]]:
    draw = random.Random(SEED)
    missed = []
    left = []
    for value in values:
        text, start = _inside(value, draw.choice(texts), draw)
        span = (start, start + len(value.shown))
        if not any(_covers(found, value.kind, span) for found in pii_in(text)):
            missed.append((value.kind, value.text))
        clean = redacted(text)
        if value.shown in clean or pii_in(clean) or redacted(clean) != clean:
            left.append((value.kind, value.text))
    recall = 1 - len(missed) / len(values)
    ratios = {
        "pii_planted": bounded(len(values), ">=", 500),
        "pii_recall": bounded(recall, ">=", 1.0),
        "pii_left_after_redaction": bounded(len(left), "<=", 0),
    }
    return ratios, {"missed": missed, "left": left}


def _inside(value: Planted, text: str, draw: random.Random) -> tuple[str, int]:
    """The value between two words of a text, and where it starts."""
    words = text.split(" ")
    place = draw.randrange(len(words) + 1)
    before = " ".join(words[:place]) + "\n" + value.before
    return before + value.shown + value.after + "\n" + " ".join(words[place:]), len(before)


def _covers(found: Pii, kind: str, span: tuple[int, int]) -> bool:
    return found.kind == kind and found.start <= span[0] and found.end >= span[1]


def _false_hits(data: Path | None) -> tuple[Ratios, dict[str, Any]]:
    seen: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    false = []
    seconds = 0.0
    for name, text in _texts(data):
        started = time.process_time()
        found = pii_in(text)
        seconds += time.process_time() - started
        seen[name] += 1
        for kind, start, end in found:
            hits[f"{name} {kind}"] += 1
            if (name, kind) not in EXPECTED:
                false.append((name, kind, text[start:end]))
    ratios = {
        "pii_false_hits": bounded(len(false), "<=", 0),
        "pii_rows_per_second": bounded(seen.total() / seconds, ">=", 0.0),
    }
    figures = {"rows": dict(seen), "hits": dict(hits), "false": false, "kinds": len(KINDS)}
    return ratios, figures


def _texts(data: Path | None) -> Iterator[tuple[str, str]]:
    if data is not None:
        yield from rows(data)
        return
    for name in TRAINED:
        for text in prompts(name, data):
            yield name, text
