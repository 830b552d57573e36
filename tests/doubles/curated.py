"""Prompts, completions and finished stages by hand, for tests of curate."""

import random

import numpy as np
import pyarrow.parquet as pq

from engine.backends.processes import here
from engine.job.spec import CurateSpec
from engine.rows.records import PROMPT, Completion, Prompt, completion_schema
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import CurateInfo, GenerateInfo, PromptsInfo
from engine.run.manifests import Counts, finished, publish
from engine.stages import curate

CTX = Context(job="t", task="math", seed=0)


def ask(number, split="train"):
    messages = [{"role": "user", "content": f"{number}+1?"}]
    return Prompt(
        number, f"{number:064x}", f"a:{number}", messages, "math", "a", split, str(number + 1)
    )


def reply(number, split="train", status="ok", text=None, tokens=3, sample=0, teacher="t"):
    k, rng = 2, np.random.default_rng(number)
    return Completion(
        number,
        teacher,
        sample,
        split,
        0,
        status,
        text=str(number + 1) if text is None else text,
        completion_tokens=tokens,
        prompt_token_ids=[1, 2],
        token_ids=rng.integers(0, 99, tokens),
        topk_ids=rng.integers(0, 99, tokens * k),
        topk_logprobs=-rng.random(tokens * k).astype(np.float16),
        tail=rng.random(tokens).astype(np.float32),
        topk_packed=rng.bytes(tokens),
    )


INFO_OF = {
    "prompts": PromptsInfo(),
    "generate": GenerateInfo(
        prompts=0, completions=0, tokens_in=0, tokens_out=0, tokens_per_second=None, status={}
    ),
    "curate": CurateInfo(funnel=[]),
}


def publish_stage(folder, stage, tables):
    (folder / "data").mkdir(parents=True)
    for name, table in tables.items():
        write_parquet(table, folder / name)
    rows = {name: len(table) for name, table in tables.items()}
    total = sum(rows.values())
    publish(folder, stage, {}, Counts(total, total, rows, info=INFO_OF[stage]), 0.0)
    return finished(folder)


def data_files(counts):
    """Rows of each file of examples."""
    rows = counts.rows_of_files()
    return {name: rows[name] for name in rows if name.startswith("data/")}


def finish(tmp_path, prompts, parts, metadata=None):
    """The two stages before, `parts` being lists of completions, one per file."""
    metadata = metadata or [{"top_k": 2, "vocab_size": 99, "tokenizer_fingerprint": "f"}] * len(
        parts
    )
    by_split = {
        f"data/{split}-00000.parquet": to_table([p for p in prompts if p.split == split], PROMPT)
        for split in ("train", "validation")
    }
    files = {
        f"data/part-{n}.parquet": to_table(rows, completion_schema(), meta)
        for n, (rows, meta) in enumerate(zip(parts, metadata, strict=True))
    }
    return {
        "prompts": publish_stage(tmp_path / "prompts", "prompts", by_split),
        "generate": publish_stage(tmp_path / "generate", "generate", files),
    }


SIZES = {"bucket_bytes": curate.BUCKET_BYTES, "group_rows": 16_384, "spread": here, "stream": None}


def run(tmp_path, prompts, parts, metadata=None, keeps=(), **options):
    """Curate `parts`; gives counts and the examples by split."""
    inputs = finish(tmp_path, prompts, parts, metadata)
    out = tmp_path / "curate"
    out.mkdir()
    sizes = {name: options.pop(name, usual) for name, usual in SIZES.items()}
    counts = curate.run(CurateSpec(**options), inputs, out, CTX, **sizes)
    publish(out, "curate", {}, counts, 0.0)
    assert counts.rows_in == counts.rows_out + sum(counts.dropped.values())
    examples = {
        split: [
            row
            for file in data_files(counts)
            if split in file
            for row in pq.read_table(out / file).to_pylist()
        ]
        for split in ("train", "validation")
    }
    assert len(examples["train"]) == counts.rows_out
    left = sorted(path.name for path in out.iterdir() if path.name not in keeps)
    assert left == ["data", "manifest.json", "verdicts"]
    return counts, examples, out


def verdicts_in(out):
    """Every row of the verdict table."""
    rows = []
    for path in sorted((out / "verdicts").iterdir()):
        rows += pq.read_table(path).to_pylist()
    return rows


def many(prompts=30, samples=3):
    """Prompts with ids in no order, every fourth of validation, and answers of which some are equal
    and some wrong."""
    rng = random.Random(0)
    asked, answers = [], []
    for place in range(prompts):
        split = "validation" if place % 4 == 0 else "train"
        asked.append(ask(rng.randrange(10**6), split))
        for sample in range(samples):
            number = asked[-1].prompt_id
            text = rng.choice([str(number + 1), f"It is {number + 1}", "0"])
            tokens = rng.randrange(1, 40)
            answers.append(reply(number, split, text=text, tokens=tokens, sample=sample))
    return asked, answers


def files_of(out):
    return {path.name: path.read_bytes() for path in (out / "data").iterdir()}


def key(row):
    return row["prompt_id"], row["teacher"], row["sample_index"]
