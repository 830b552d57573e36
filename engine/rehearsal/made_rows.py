"""Rows of a job whose data are not on this machine: of its task, in its columns. What is in the
real ones is not tried, and is said to be so."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.job.spec import JobSpec
from engine.rehearsal.own_rows import Own, wanted_of
from engine.rows.sources.source_row import BadRow
from engine.stages.prompts.reading import read_prompts

_THINGS = ("apples", "lamps", "letters", "boats", "chairs", "maps", "stones", "keys")
_FIRST = {"train": 1, "validation": 1001}  # no row is in both
_LABELS = ("entailment", "neutral", "contradiction")


def _math(number: int) -> tuple[str, str]:
    thing = _THINGS[number % len(_THINGS)]
    return f"Ann has {number} {thing} and buys {number + 3}. How many?", str(2 * number + 3)


def _qa(number: int) -> tuple[str, str]:
    thing = _THINGS[number % len(_THINGS)]
    return f"The box of shelf {number} holds {thing}. What is in it?", thing


def _nli(number: int) -> tuple[str, str]:
    thing = _THINGS[number % len(_THINGS)]
    text = f"Premise: There are {number} {thing} here.\nHypothesis: There are {thing} here."
    return text, _LABELS[number % len(_LABELS)]


def _summarization(number: int) -> tuple[str, str]:
    thing = _THINGS[number % len(_THINGS)]
    text = f"Sum this up: Shop {number} sold {thing} for years. In spring it closed. Nobody knew."
    return text, f"Shop {number}, which sold {thing}, closed."


def _conversation(number: int) -> tuple[str, str]:
    thing = _THINGS[number % len(_THINGS)]
    return f"My order {number} of {thing} did not come.", f"I am sorry. I look for order {number}."


TASKS: dict[str, Callable[[int], tuple[str, str]]] = {
    "math": _math,
    "qa": _qa,
    "nli": _nli,
    "summarization": _summarization,
    "conversation": _conversation,
}


def made_rows(job: JobSpec, split: str, folder: Path) -> Own:
    """Write rows of the job's task for a split, with all columns that the job names."""
    first = _FIRST[split]
    lines = []
    for number in range(wanted_of(job, split)):
        row = _row(job, first + number)
        lines.append(json.dumps(row))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-0.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = read_prompts(path, job.prompts, job.task, split)
    prompts = [prompt for _, prompt in made if not isinstance(prompt, BadRow)]
    return Own([str(path)], prompts)


def _row(job: JobSpec, number: int) -> dict[str, Any]:
    fields = job.prompts.fields
    question, answer = TASKS[job.task](number)
    if fields.labels:
        names = list(fields.labels)
        answer = names[number % len(names)]
    row: dict[str, Any] = {fields.reference: answer}
    if fields.id:
        row[fields.id] = f"row-{number}"
    if fields.system:
        row[fields.system] = "Answer briefly."
    columns = (job.generate.route_by, job.evaluate.cluster_by, job.prompts.split_by)
    for column in columns:
        if column and column not in ("task", "source", "near_duplicates"):
            row[column] = _value(job, number)
    if job.prompts.template:
        formatter = string.Formatter()
        for _, name, _, _ in formatter.parse(job.prompts.template):
            if name:
                row[name] = question
        return row
    if job.task == "conversation":
        row[fields.messages] = [
            {"role": "user", "content": f"Good day, {number}."},
            {"role": "assistant", "content": "Good day!"},
            {"role": "user", "content": question},
        ]
    else:
        row[fields.prompt] = question
    return row


def _value(job: JobSpec, number: int) -> str:
    """One that a teacher takes, each in its turn."""
    values: list[str] = []
    for teacher in job.generate.teachers:
        values += teacher.routes
    if not values:
        values = ["a", "b", "c", "d"]
    return values[number % len(values)]
