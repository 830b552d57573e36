"""Prompts and their answers as the stages before `curate` leave them: files of 4,096 prompts, parts
of 512 answers, each with its token ids and a signal.

An answer repeats some sentences of its prompt and states a number, which is the right one in four
of five. So answers to one prompt may be equal, and prompts that are nearly the same have answers
that are. What an answer is depends on its prompt and sample, not on the file that it lies in.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.curation.corpus import SENTENCE, Corpus
from engine.backends.spread import spread_for
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import PROMPT, SCHEMA_VERSION, Completion, Prompt, completion_schema
from engine.rows.tables import to_table, write_parquet
from engine.run.facts import GenerateInfo, PromptsInfo
from engine.run.manifests import Counts, publish

PROMPTS_PER_FILE = 4096  # prompts.shard_rows
ANSWERS_PER_FILE = 512  # generate.part_rows
ONE_IN_VALIDATION = 100  # prompts; each is answered once
REPEATED = 0.5  # of a prompt's sentences
RIGHT = 0.8  # of the answers
TOKENS_PER_WORD = 1.3
TOP_K = 8
VOCABULARY = 32_000
SOURCE = "made-up"
_QUESTION = " How many are"
_DRAWN = 1 << 20
_METADATA = {
    "schema_version": SCHEMA_VERSION,
    "teacher": "t",
    "codec": "plain",
    "top_k": TOP_K,
    "vocab_size": VOCABULARY,
    "tokenizer_fingerprint": "t",
}


def prompts_of(corpus: Corpus, count: int) -> list[Prompt]:
    """As many prompts, each the only one of its words."""
    return [_prompt(number, text) for number, text in enumerate(corpus.first(count))]


def _prompt(number: int, text: str) -> Prompt:
    messages = [{"role": "user", "content": f"{text}{_QUESTION} {number} and 1?"}]
    sha256 = prompt_hash(messages)
    split = "train" if number % ONE_IN_VALIDATION else "validation"
    prompt_id = prompt_id_of(sha256)
    right = str(number + 1)
    name = f"{SOURCE}:{number}"
    return Prompt(prompt_id, sha256, name, messages, "math", SOURCE, split, right)


def write_prompts(prompts: Sequence[Prompt], folder: Path) -> None:
    """A finished stage `prompts`."""
    (folder / "data").mkdir(parents=True)
    files = {}
    of_split = {}
    for split in ("train", "validation"):
        mine = [prompt for prompt in prompts if prompt.split == split]
        of_split[split] = len(mine)
        for number, first in enumerate(range(0, len(mine), PROMPTS_PER_FILE)):
            some = mine[first : first + PROMPTS_PER_FILE]
            name = f"data/{split}-{number:05d}.parquet"
            write_parquet(to_table(some, PROMPT), folder / name)
            files[name] = len(some)
    count = len(prompts)
    publish(folder, "prompts", {}, Counts(count, count, files, info=PromptsInfo(**of_split)), 0.0)


@dataclass(frozen=True)
class _Part:
    path: Path
    answers: list[tuple[Prompt, int]]


def write_answers(
    prompts: Sequence[Prompt], samples: int, folder: Path, shuffled_by: int | None = None
) -> int:
    """A finished stage `generate`; returns how many answers it has. In the order of the prompts, or
    shuffled by a seed, so that each part has answers to any."""
    (folder / "data").mkdir(parents=True)
    wanted = []
    for prompt in prompts:
        times = samples if prompt.split == "train" else 1
        wanted += [(prompt, sample) for sample in range(times)]
    if shuffled_by is not None:
        random.Random(shuffled_by).shuffle(wanted)
    parts = []
    for number, first in enumerate(range(0, len(wanted), ANSWERS_PER_FILE)):
        path = folder / f"data/part-{number:06d}.parquet"
        parts.append(_Part(path, wanted[first : first + ANSWERS_PER_FILE]))
    with spread_for(None, len(parts)) as spread:
        counts = list(spread(_write_part, parts))
    files = {f"data/{part.path.name}": rows for part, rows in zip(parts, counts, strict=True)}
    count = len(wanted)
    info = GenerateInfo(
        prompts=len(prompts),
        completions=count,
        tokens_in=0,
        tokens_out=0,
        tokens_per_second=None,
        status={"ok": count},
    )
    publish(folder, "generate", {}, Counts(count, count, files, info=info), 0.0)
    return count


def _write_part(part: _Part) -> int:
    rows = [_answer(prompt, sample) for prompt, sample in part.answers]
    write_parquet(to_table(rows, completion_schema(), _METADATA), part.path)
    return len(rows)


def _answer(prompt: Prompt, sample: int) -> Completion:
    draw = random.Random(prompt.prompt_id + sample)
    asked, _, _ = prompt.messages[-1]["content"].rpartition(_QUESTION)
    said = [sentence for sentence in SENTENCE.split(asked) if draw.random() < REPEATED]
    states = prompt.reference if draw.random() < RIGHT else draw.randrange(VOCABULARY)
    said.append(f"The answer is {states}.")
    text = " ".join(said)
    tokens_in = _tokens(asked)
    tokens = _tokens(text)
    drawn = _drawn()
    first = draw.randrange(_DRAWN - TOP_K * max(tokens, tokens_in))
    own = slice(first, first + tokens)
    of_top = slice(first, first + TOP_K * tokens)
    return Completion(
        prompt.prompt_id,
        "t",
        sample,
        prompt.split,
        seed=sample,
        status="ok",
        finish_reason="stop",
        text=text,
        prompt_token_ids=drawn.ids[first : first + tokens_in],
        token_ids=drawn.ids[own],
        prompt_tokens=tokens_in,
        completion_tokens=tokens,
        token_logprobs=drawn.logprobs[own],
        topk_ids=drawn.ids[of_top],
        topk_logprobs=drawn.logprobs[of_top],
        tail=drawn.logprobs[own],
    )


def _tokens(text: str) -> int:
    return round(TOKENS_PER_WORD * len(text.split()))


class _Drawn(NamedTuple):
    """Numbers of which each answer has a stretch."""

    ids: np.ndarray
    logprobs: np.ndarray


@functools.cache
def _drawn() -> _Drawn:
    draw = np.random.default_rng(0)
    ids = draw.integers(VOCABULARY, size=_DRAWN, dtype=np.int32)
    return _Drawn(ids, -draw.exponential(size=_DRAWN).astype(np.float32))
