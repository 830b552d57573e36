"""The first rows of a job's own files, as they are written there: its columns, references, routes
and templates are what a rehearsal tries.

Rows that become no prompt are left out; so are those that are too long for a small model, as long
as others are there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError
from engine.job.spec import JobSpec
from engine.rows.records import Prompt
from engine.rows.sources.readers import read_rows
from engine.rows.sources.source_row import BadRow, Row
from engine.stages.prompts.reading import files_of, read_prompts

ROWS = {"train": 16, "validation": 8}  # prompts of each split, 24 in all
_HEAD = 200  # rows of a file that are looked at
_FILES = 8  # of a split: a folder may hold thousands


@dataclass(frozen=True)
class Own:
    """The rows of one split, in files as the job's are, and the prompts that they become."""

    files: list[str]
    prompts: list[Prompt]

    @property
    def texts(self) -> list[str]:
        """What stands in them, for a tokenizer to learn from."""
        return [text for prompt in self.prompts for text in texts_of(prompt)]


def texts_of(prompt: Prompt) -> list[str]:
    """A prompt's turns and right answers."""
    turns = [str(message["content"]) for message in prompt.messages]
    return turns + prompt.right_answers


@dataclass(frozen=True)
class _Line:
    """A line of a source, and the prompts that it becomes: several of a dialogue."""

    path: Path
    number: int
    prompts: list[Prompt]

    @property
    def length(self) -> int:
        """Characters of the longest."""
        return max(prompt.characters for prompt in self.prompts)


def own_rows(job: JobSpec, split: str, folder: Path, longest: int) -> Own | None:
    """Write the split's first rows to `folder`: those of at most `longest` characters, or the
    shortest where none is so short. None where the split's files are not on this machine."""
    try:
        files = files_of(job.prompts, split, [])
    except InputError:
        return None
    if not files:
        return None
    found: list[_Line] = []
    for path in files[:_FILES]:
        found += _lines_of(path, job, split)
    short = [line for line in found if line.length <= longest]
    if not short:
        short = sorted(found, key=attrgetter("length"))
    chosen: dict[Path, set[int]] = {}
    prompts: list[Prompt] = []
    for line in short:
        if len(prompts) >= wanted_of(job, split):
            break
        numbers = chosen.setdefault(line.path, set())
        numbers.add(line.number)
        prompts += line.prompts
    written = []
    for path, numbers in chosen.items():
        target = folder / f"{split}-{len(written)}"
        written.append(_written(path, numbers, target))
    return Own(written, prompts)


def wanted_of(job: JobSpec, split: str) -> int:
    """Prompts of a split; all of them where validation is taken out of training."""
    if job.prompts.validation is None:
        return sum(ROWS.values())
    return ROWS[split]


def _lines_of(path: Path, job: JobSpec, split: str) -> list[_Line]:
    """The lines of a file's head that become prompts."""
    head = job.prompts.model_copy(update={"limit": _HEAD})
    by_number: dict[int, _Line] = {}
    for number, prompt in read_prompts(path, head, job.task, split):
        if isinstance(prompt, BadRow):
            continue
        if number not in by_number:
            by_number[number] = _Line(path, number, [])
        by_number[number].prompts.append(prompt)
    return list(by_number.values())


def _written(source: Path, numbers: set[int], target: Path) -> str:
    """These rows of a file, in a file of their own beside nothing else."""
    rows: list[Row] = []
    for number, row in islice(read_rows(source), _HEAD):
        if number in numbers:
            rows.append(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    batches = [row for row in rows if isinstance(row, pa.RecordBatch)]
    if batches:
        path = target.with_suffix(".parquet")
        pq.write_table(pa.Table.from_batches(batches), path)
        return str(path)
    path = target.with_suffix(".jsonl")
    path.write_bytes(b"".join(map(_line, rows)))
    return str(path)


def _line(row: Row) -> bytes:
    if isinstance(row, bytes):
        return row.rstrip() + b"\n"
    return json.dumps(row).encode() + b"\n"
