"""Source files -> prompts, each with its line, and what is wrong with the others.

What is read of a part of a file depends on that part alone, so that parts may be read in any
process.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from engine.job.spec import PromptsSpec
from engine.rows.ids import canonical_json
from engine.rows.records import PROMPT, Prompt
from engine.rows.sources.columns import columns_of
from engine.rows.sources.held_out import held_out_texts
from engine.rows.sources.parts import Part, read_part
from engine.rows.sources.readers import source_files
from engine.rows.sources.source_row import BadRow
from engine.rows.tables import to_table
from engine.stages.prompts.dialogue import columns_of_text
from engine.stages.prompts.ledger import entry_of
from engine.stages.prompts.rows import DIALOGUE, prompts_of

# in the order of reading: a prompt that is in both stays in validation
SPLITS = ("validation", "train")
BATCH_ROWS = 2048
# A prompt, and what is asked of it before it is written: its line, the hash of its right answers,
# the dialogue that it is a turn of, and its value of `prompts.split_by`.
MORE = pa.schema(
    [
        ("line", pa.int64()),
        ("answers", pa.int64()),
        ("dialogue", pa.string()),
        ("group", pa.string()),
    ]
)
READ = pa.unify_schemas([PROMPT, MORE])


class Batch(NamedTuple):
    """Prompts of one file in its order (READ), and (line, reason) of its bad rows."""

    path: Path
    table: pa.Table
    bad: list[tuple[int, str]]


def files_of(spec: PromptsSpec, split: str, skipped: list[Path]) -> list[Path]:
    """The source files of a split (see `source_files`)."""
    return source_files(f"prompts.{split}", getattr(spec, split), skipped)


def texts_of_files(spec: PromptsSpec, most_rows: int | None = None) -> dict[str, list[str | None]]:
    """The job's files of test data, a text per line. InputError for one without readable text."""
    if spec.decontaminate is None:
        return {}
    return held_out_texts(
        "prompts.decontaminate.against",
        spec.decontaminate.against,
        columns_of_text(spec),
        most_rows=most_rows,
    )


def batches_of(part: Part, split: str, spec: PromptsSpec, task: str) -> Iterator[Batch]:
    """All of a part, some thousand rows at a time."""
    found = _prompts(part, spec, task, split)
    while some := list(islice(found, BATCH_ROWS)):
        good: list[tuple[int, Prompt]] = []
        bad: list[tuple[int, str]] = []
        for line, prompt in some:
            if isinstance(prompt, BadRow):
                bad.append((line, str(prompt)))
            else:
                good.append((line, prompt))
        yield Batch(part.path, _table(good, spec), bad)


def _table(good: list[tuple[int, Prompt]], spec: PromptsSpec) -> pa.Table:
    """READ of prompts behind their lines."""
    prompts = [prompt for _, prompt in good]
    more = []
    for line, prompt in good:
        columns: dict[str, int | str | None] = {"line": line}
        columns["answers"] = entry_of(prompt, line).answers
        if spec.turns == "each":
            columns["dialogue"] = value_of(prompt, DIALOGUE)
        if spec.split_column is not None:
            columns["group"] = value_of(prompt, spec.split_column)
        more.append(columns)
    table = to_table(prompts, PROMPT)
    beside = pa.Table.from_pylist(more, MORE)
    return pa.Table.from_arrays(
        [*table.columns, *beside.columns],
        schema=READ,
    )


def value_of(prompt: Prompt, column: str) -> str | None:
    """What a prompt has in a column of `meta`, as text; an empty one is none."""
    value = json.loads(prompt.meta).get(column)
    if value is not None and not isinstance(value, str):
        value = canonical_json(value)
    return value or None


def split_problem(spec: PromptsSpec, missing: int, rows: int, of: str) -> str | None:
    """What to do where half of some rows have nothing in the column of `split_by`."""
    if not rows or 2 * missing < rows:
        return None
    return (
        f"{lacking(spec, missing, rows, of)}; name a column of the source files that is neither"
        " prompt nor reference, or near_duplicates, or leave split_by out"
    )


def lacking(spec: PromptsSpec, missing: int, rows: int, of: str) -> str:
    """How many rows have nothing there."""
    column = spec.split_column
    return f"prompts.split_by={column}: {missing:,} {of} {rows:,} prompts have no {column!r}"


def read_prompts(
    path: Path, spec: PromptsSpec, task: str, split: str
) -> Iterator[tuple[int, Prompt | BadRow]]:
    """The prompts of one file with their lines (rows of Parquet count from 1), several of a
    dialogue under `turns: each`, and a BadRow for every line that gives none."""
    return _prompts(Part(path), spec, task, split)


def _prompts(
    part: Part, spec: PromptsSpec, task: str, split: str
) -> Iterator[tuple[int, Prompt | BadRow]]:
    for line, row in islice(read_part(part), spec.limit):
        try:
            columns = columns_of(row, spec.fields.prompt)
            prompts = prompts_of(columns, part.path, line, spec, task, split)
        except BadRow as bad:
            yield line, bad
        except UnicodeError:
            # also a lone surrogate: `\ud800` in JSON, or a byte of a CSV file that is not UTF-8
            yield line, BadRow("invalid_utf8")
        except (ValueError, RecursionError):  # not JSON, or a number too long for Python
            yield line, BadRow("broken_json")
        else:
            for prompt in prompts:
                yield line, prompt


def listed(counts: Counter[str]) -> str:
    """Reasons and how often, in their order."""
    ordered = sorted(counts.items())
    return ", ".join(f"{reason} {count}" for reason, count in ordered) or "none"
