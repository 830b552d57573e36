"""Is anything personal left where it matters, in the blocks that a student is trained on? Planted
values in prompts and answers go through `curate` and the packing of `train`; then the blocks are
read, token by token."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from transformers import AutoTokenizer

from benchmarks.curation.planted import Planted
from benchmarks.result import Found, bounded
from engine.curation.privacy import pii_in
from engine.job.spec import CurateSpec, PiiSpec, TrainSpec
from engine.rows.ids import prompt_hash, prompt_id_of, tokenizer_fingerprint
from engine.rows.records import PROMPT, SCHEMA_VERSION, Completion, Prompt, completion_schema
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import GenerateInfo, PromptsInfo
from engine.run.manifests import Counts, finished, publish
from engine.stages import curate
from engine.training.blocks import Blocks
from engine.training.data import load_sequences
from engine.training.packing import write_blocks

TOKENIZER = Path(__file__).parents[2] / "jobs/quickstart/teacher"
BLOCK_TOKENS = 16_384  # no row is longer
SPLIT = "train"


def packed(values: Sequence[Planted], texts: Sequence[str]) -> Found:
    """`values` in prompts and answers by turns. Redacted, none is in a block; marked only, all are:
    else the reading of blocks would show nothing."""
    tokenizer: Any = AutoTokenizer.from_pretrained(TOKENIZER)
    rows = list(_rows(values, texts, tokenizer))
    left = {}
    for action in ("redact", "flag"):
        with TemporaryDirectory() as folder:
            left[action] = _in_blocks(rows, action, tokenizer, Path(folder))
    ratios = {
        "pii_in_packed_blocks": bounded(left["redact"].total(), "<=", 0),
        "pii_in_packed_blocks_unredacted": bounded(left["flag"].total(), ">=", len(values)),
    }
    return ratios, {name: dict(found) for name, found in left.items()}


def _rows(
    values: Sequence[Planted], texts: Sequence[str], tokenizer: Any
) -> Iterator[tuple[Prompt, Completion]]:
    """Of a teacher whose tokens the student could take as they are."""
    draw = random.Random(0)
    for number, value in enumerate(values):
        asked = [draw.choice(texts), str(number)]
        said = [draw.choice(texts)]
        (said if number % 2 else asked).append(value.text)
        messages = [{"role": "user", "content": "\n".join(asked)}]
        answer = "\n".join(said)
        sha256 = prompt_hash(messages)
        prompt_id = prompt_id_of(sha256)
        prompt = Prompt(
            prompt_id, sha256, f"planted:{number}", messages, "conversation", "planted", SPLIT
        )
        opening = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        yield (
            prompt,
            Completion(
                *(prompt_id, "t", 0, SPLIT, 0, "ok", "stop"),
                text=answer,
                prompt_token_ids=opening,
                token_ids=ids,
                prompt_tokens=len(opening),
                completion_tokens=len(ids),
            ),
        )


def _in_blocks(
    rows: Sequence[tuple[Prompt, Completion]],
    action: Literal["redact", "flag"],
    tokenizer: Any,
    folder: Path,
) -> Counter[str]:
    """What is found in the blocks, by its kind."""
    prompts = [prompt for prompt, _ in rows]
    answers = [answer for _, answer in rows]
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "teacher": "t",
        "top_k": 0,
        "vocab_size": len(tokenizer),
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer.get_vocab()),
    }
    tables = {
        "prompts": to_table(prompts, PROMPT),
        "generate": to_table(answers, completion_schema(), metadata),
    }
    count = len(rows)
    infos = {
        "prompts": PromptsInfo(train=count, validation=0),
        "generate": GenerateInfo(
            prompts=count,
            completions=count,
            tokens_in=0,
            tokens_out=0,
            tokens_per_second=None,
            status={"ok": count},
        ),
    }
    inputs = {}
    for stage, table in tables.items():
        name = "data/train-00000.parquet"
        (folder / stage / "data").mkdir(parents=True)
        write_parquet(table, folder / stage / name)
        counts = Counts(count, count, {name: count}, info=infos[stage])
        publish(folder / stage, stage, {}, counts, 0.0)
        inputs[stage] = finished(folder / stage)
    out = folder / "curate"
    out.mkdir()
    spec = CurateSpec(pii=PiiSpec(action=action))
    counts = curate.run(spec, inputs, out, Context("planted", "conversation", 0))
    publish(out, "curate", {}, counts, 0.0)
    examples = finished(out).files(SPLIT)
    train = TrainSpec(student=str(TOKENIZER))
    sequences = load_sequences(examples, train, tokenizer, len(tokenizer))
    made = write_blocks(sequences, folder / "blocks", SPLIT, room=BLOCK_TOKENS, seed=0)
    if made.sequences < count:
        raise RuntimeError(f"{made.sequences} of {count} rows came as far as a block: {counts}")
    return _found_in(Blocks(folder / "blocks", SPLIT), tokenizer)


def _found_in(blocks: Blocks, tokenizer: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(len(blocks)):
        (ids,) = blocks.batch([number]).input_ids_BL.tolist()
        start = 0
        for length in blocks.lengths([number]).tolist():
            text = tokenizer.decode(ids[start : start + length])
            found.update(each.kind for each in pii_in(text))
            start += length
    return found
