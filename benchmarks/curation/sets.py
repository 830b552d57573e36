"""Texts by set: the data sets of a folder, or made-up ones where there is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.curation.corpus import made_up_texts

TRAINED = {"gsm8k": 7473, "nli_cad": 1666, "scitldr": 1992, "sgd": 384}  # sets, and their rows
HELD_OUT = {"nli_cad_dev": 200, "scitldr_dev": 619}


def prompts(name: str, data: Path | None) -> list[str]:
    """The prompts of a set of TRAINED or HELD_OUT; of `sgd` a dialogue is one."""
    if data is None:
        sizes = TRAINED | HELD_OUT
        return made_up_texts(sizes[name], list(sizes).index(name))
    return list(_READERS[name](data))


def rows(data: Path) -> Iterator[tuple[str, str]]:
    """Set and text of every row of every file: all its strings, a line each."""
    for path in sorted(data.glob("*/*")):
        for row in _rows(path):
            yield path.parent.name, "\n".join(_strings(row))


def dialogues(data: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and turns of each dialogue of `sgd`: `speaker` and `utterance`."""
    for path in sorted((data / "sgd").glob("*.json")):
        for dialogue in _rows(path):
            yield f"{path.stem} {dialogue['dialogue_id']}", dialogue["turns"]


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".jsonl":
        with path.open() as lines:
            yield from map(json.loads, lines)
    elif path.suffix == ".tsv":
        with path.open(newline="") as lines:
            yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    elif path.suffix == ".json":
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            found = list(found.values())
        yield from found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _gsm8k(data: Path) -> Iterator[str]:
    for row in _rows(data / "gsm8k" / "train.jsonl"):
        yield row["question"]


def _nli(path: Path) -> Iterator[str]:
    for row in _rows(path):
        yield f"{row['sentence1']}\n{row['sentence2']}"


def _scitldr(path: Path) -> Iterator[str]:
    for row in _rows(path):
        yield " ".join(row["source"])


def _sgd(data: Path) -> Iterator[str]:
    for _, turns in dialogues(data):
        yield "\n".join(turn["utterance"] for turn in turns)


_READERS = {
    "gsm8k": _gsm8k,
    "nli_cad": lambda data: _nli(data / "nli_cad" / "original_train.tsv"),
    "nli_cad_dev": lambda data: _nli(data / "nli_cad" / "original_dev.tsv"),
    "scitldr": lambda data: _scitldr(data / "scitldr" / "train.jsonl"),
    "scitldr_dev": lambda data: _scitldr(data / "scitldr" / "dev.jsonl"),
    "sgd": _sgd,
}
