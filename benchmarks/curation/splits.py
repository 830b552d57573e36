"""Is validation measured on what was learnt? Dialogues, one prompt per turn, split row by row and
by `prompts.split_by`. Who has a twin is counted here with sets of words, by nothing of
engine/curation.

A validation prompt has a twin if a training prompt holds 0.3 of its rare runs of five words; rare
is what at most ten dialogues of validation say.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.curation import sets
from benchmarks.result import Found, Ratios, bounded
from engine.job.spec import PromptsSpec
from engine.rows.records import Prompt
from engine.rows.tables import read_tables, to_rows
from engine.rows.words import words
from engine.run.context import Context
from engine.stages import prompts

SEEDS = (0, 1, 2)
FRACTION = 0.05
AT_LEAST = 0.3
RARE = 10
RUN = 5
SERVICES = 12  # of made-up dialogues
# How prompts are split -> the fields of the block `prompts` that say so.
WAYS: dict[str, dict[str, Any]] = {
    "by_row": {},
    "by_dialogue": {"split_by": "dialogue_id"},
    "turns_each": {"turns": "each"},
    "turns_each_by_dialogue": {"turns": "each", "split_by": "dialogue_id"},
    "turns_each_by_near_duplicates": {"turns": "each", "split_by": "near_duplicates"},
}


Rows = Iterable[dict[str, Any]]


class Split(NamedTuple):
    """What a way of splitting gives."""

    training: int
    validation: int
    left: int  # validation prompts that had a twin, and left
    with_twin: int  # that still have one


def run(options: argparse.Namespace) -> Found:
    """`options.data`: a folder of data sets with one `sgd`; none: made-up dialogues."""
    return measure(options.data)


def measure(
    data: Path | None,
    ways: Sequence[str] = tuple(WAYS),
    *,
    seeds: Sequence[int] = SEEDS,
    made_up: int = 200,
) -> Found:
    """The same, summed over the job's seeds; `made_up` dialogues where there are no others."""
    dialogues = list(_dialogues(data, made_up))
    raw: dict[str, Any] = {}
    totals: dict[str, Counter[str]] = {}
    for way in ways:
        totals[way] = Counter()
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                found = _split(dialogues, Path(folder), WAYS[way], seed)
            totals[way].update(found._asdict())
        raw[f"splits_{way}"] = dict(totals[way])
    ratios: Ratios = {}
    for way, total in totals.items():
        share = total["with_twin"] / max(1, total["validation"])
        if "split_by" in WAYS[way]:
            ratios[f"splits_{way}_with_twin"] = bounded(share, "<=", 0.0)
        elif way == "by_row":  # else nothing would be shown
            ratios[f"splits_{way}_with_twin"] = bounded(share, ">=", 0.8)
    by_dialogue = totals["by_dialogue"]
    left = by_dialogue["left"] / (by_dialogue["left"] + by_dialogue["validation"])
    ratios["splits_by_dialogue_left_validation"] = bounded(left, "<=", 0.25)
    return ratios, raw


def _split(rows: Rows, folder: Path, fields: dict[str, Any], seed: int) -> Split:
    source = folder / "source.jsonl"
    if "turns" not in fields:
        rows = _turns(rows)
    with source.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    spec = PromptsSpec(
        train=str(source), validation_fraction=FRACTION, on_conflict="first", **fields
    )
    counts = prompts.run(spec, {}, folder, Context(job="b", task="conversation", seed=seed))
    kept: dict[str, list[Prompt]] = {"train": [], "validation": []}
    for split, rows_of_split in kept.items():
        paths = [folder / name for name in counts.files if name.startswith(f"data/{split}")]
        for table in read_tables(paths):
            rows_of_split += to_rows(table, Prompt)
    return Split(
        len(kept["train"]),
        len(kept["validation"]),
        counts.dropped.get("twin_in_training", 0),
        _with_twin(kept["train"], kept["validation"]),
    )


def _dialogues(data: Path | None, made_up: int) -> Iterator[dict[str, Any]]:
    """Rows of `messages` and `dialogue_id`."""
    if data is None:
        yield from _made_up_dialogues(made_up)
        return
    for name, turns in sets.dialogues(data):
        messages = []
        for turn in turns:
            role = {"USER": "user", "SYSTEM": "assistant"}[turn["speaker"]]
            messages.append({"role": role, "content": turn["utterance"]})
        yield {"dialogue_id": name, "messages": messages}


def _made_up_dialogues(count: int) -> Iterator[dict[str, Any]]:
    """Of a few services: the sentences of a service are the same, the names in them are not."""
    draw = random.Random(0)
    names = [f"name{number}" for number in range(3000)]
    for number in range(count):
        service = random.Random(f"service {number % SERVICES}")
        messages = []
        for turn in range(draw.randint(4, 12)):
            said = [f"word{service.randrange(4000)}" for _ in range(10)]
            if turn == 0 and number % 3 == 0:  # many open nearly alike
                said += draw.sample(names, 2)
            else:
                said += draw.sample(names, 8)
                draw.shuffle(said)
            messages.append({"role": ("user", "assistant")[turn % 2], "content": " ".join(said)})
        yield {"dialogue_id": f"d{number}", "messages": messages}


def _turns(rows: Rows) -> Iterator[dict[str, Any]]:
    """A row for each turn of a user, as sets for customer support are made."""
    for row in rows:
        for at, message in enumerate(row["messages"]):
            if message["role"] == "user":
                yield {**row, "messages": row["messages"][: at + 1]}


def _with_twin(training: list[Prompt], validation: list[Prompt]) -> int:
    """How many validation prompts a training prompt covers."""
    runs = [_runs(prompt) for prompt in validation]
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for prompt, found in zip(validation, runs, strict=True):
        dialogue = json.loads(prompt.meta)["dialogue_id"]
        for run in found:
            groups[run].add(dialogue)
    items: dict[tuple[str, ...], list[int]] = defaultdict(list)
    rare = Counter[int]()
    for item, found in enumerate(runs):
        for run in found:
            if len(groups[run]) <= RARE:
                items[run].append(item)
                rare[item] += 1
    twins: set[int] = set()
    for prompt in training:
        shared = Counter[int]()
        for run in _runs(prompt):
            shared.update(items.get(run, ()))
        twins |= {item for item, count in shared.items() if count >= AT_LEAST * rare[item]}
    return len(twins)


def _runs(prompt: Prompt) -> set[tuple[str, ...]]:
    said = words("\n".join(message["content"] for message in prompt.messages))
    return {said[at : at + RUN] for at in range(len(said) - RUN + 1)}
