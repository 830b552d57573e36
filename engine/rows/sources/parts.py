"""A large file in parts that can be read side by side: lines of JSONL, row groups of Parquet.

A row has the same line whether its file is read whole or in parts. Other kinds, and what is
compressed, are read whole: where a row begins there is known only to who read what is before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from engine.rows.sources.readers import (
    encoding_of,
    kind_of,
    read_rows,
    rows_of_groups,
    rows_of_lines,
    told,
)
from engine.rows.sources.source_row import NumberedRows

_BLOCK = 2**20


class Part(NamedTuple):
    """Rows of a file: those of bytes `start` to `stop`, or of row groups; all of it without a
    stop."""

    path: Path
    start: int = 0
    stop: int | None = None
    rows_before: int = 0  # lines, or rows of Parquet


def parts_of(path: Path, part_bytes: int) -> list[Part]:
    """The parts of a file in order, of about `part_bytes` each; one that is not read in parts, or
    is small, is one."""
    if path.stat().st_size <= part_bytes:
        return [Part(path)]
    if path.suffix.lower() in (".jsonl", ".ndjson") and encoding_of(path) is None:
        return list(_parts_of_lines(path, part_bytes))
    if path.suffix.lower() == ".parquet":
        return list(_parts_of_parquet(path, part_bytes))
    return [Part(path)]


def read_part(part: Part) -> NumberedRows:
    """The part's rows with their lines in the whole file. InputError as `read_rows` has it."""
    if part.stop is None:
        return read_rows(part.path)
    if kind_of(part.path) == ".parquet":
        rows = rows_of_groups(part.path, range(part.start, part.stop), part.rows_before)
    else:
        rows = rows_of_lines(part.path, part.start, part.stop, part.rows_before)
    return told(part.path, rows)


def _parts_of_lines(path: Path, part_bytes: int) -> Iterator[Part]:
    size = path.stat().st_size
    start = 0
    before = 0  # lines
    with path.open("rb") as file:
        while start < size:
            lines = _count_lines(file, part_bytes)
            rest = file.readline()  # of the line that the bytes end in
            lines += rest.endswith(b"\n")
            stop = file.tell()
            yield Part(path, start, stop, before)
            start = stop
            before += lines


def _count_lines(file: BinaryIO, size_bytes: int) -> int:
    lines = 0
    while size_bytes > 0:
        block = file.read(min(_BLOCK, size_bytes))
        if not block:
            break
        lines += block.count(b"\n")
        size_bytes -= len(block)
    return lines


def _parts_of_parquet(path: Path, part_bytes: int) -> Iterator[Part]:
    described = pq.read_metadata(path)
    groups = described.num_row_groups
    start = before = rows = size = 0
    for group in range(groups):
        rows += described.row_group(group).num_rows
        size += described.row_group(group).total_byte_size
        if size >= part_bytes or group == groups - 1:
            yield Part(path, start, group + 1, before)
            start = group + 1
            before += rows
            rows = size = 0
