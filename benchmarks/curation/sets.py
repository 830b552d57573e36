"""Real texts of ../shared/data, which lies beside the checkout, by set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[3] / "shared" / "data"


def _json_lines(path: str) -> Iterator[dict[str, Any]]:
    with (DATA / path).open() as lines:
        yield from map(json.loads, lines)


def _gsm8k() -> Iterator[str]:
    for row in _json_lines("gsm8k/train.jsonl"):
        yield row["question"]


def _nli(part: str) -> Iterator[str]:
    with (DATA / f"nli_cad/original_{part}.tsv").open(newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield f"{row['sentence1']}\n{row['sentence2']}"


def _scitldr(part: str) -> Iterator[str]:
    for row in _json_lines(f"scitldr/{part}.jsonl"):
        yield " ".join(row["source"])


def dialogues() -> Iterator[list[dict[str, Any]]]:
    """The turns of each SGD dialogue: `speaker` and `utterance`."""
    for path in sorted((DATA / "sgd").glob("*.json")):
        for dialogue in json.loads(path.read_text()):
            yield dialogue["turns"]


def _sgd() -> Iterator[str]:
    for turns in dialogues():
        yield "\n".join(turn["utterance"] for turn in turns)


# Prompts: of each, what a teacher would be asked.
PROMPTS: dict[str, Callable[[], Iterator[str]]] = {
    "gsm8k": _gsm8k,
    "nli_cad": lambda: _nli("train"),
    "nli_cad_dev": lambda: _nli("dev"),
    "scitldr": lambda: _scitldr("train"),
    "scitldr_dev": lambda: _scitldr("dev"),
    "sgd": _sgd,
}


def all_texts() -> Iterator[tuple[str, str]]:
    """Every string value of every row of every set, joined by row: the set's name and the text."""
    for path in sorted(DATA.glob("*/*")):
        name = path.parent.name
        if path.suffix == ".jsonl":
            for row in _json_lines(f"{name}/{path.name}"):
                yield name, "\n".join(_strings(row))
        elif path.suffix == ".json":
            rows = json.loads(path.read_text())
            if isinstance(rows, dict):
                rows = list(rows.values())
            for row in rows:
                yield name, "\n".join(_strings(row))
        elif path.suffix == ".tsv":
            for line in path.read_text().splitlines():
                yield name, line


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
