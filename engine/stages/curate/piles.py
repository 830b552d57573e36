"""Rows of many tables, sorted into numbered piles: in memory while they fit, else spilled to disk.

It knows neither what the rows are nor how a pile is used. What is spilled is nobody's result: a
killed driver's leftovers go when the stage starts again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.store.paths import Folder, StorePath


@contextmanager
def spill_folder(out: Folder) -> Generator[Path]:
    """A folder that goes with the block: in `out`, or on the local disk where `out` is a store."""
    if isinstance(out, StorePath):
        with tempfile.TemporaryDirectory(prefix="distill-curate-") as folder:
            yield Path(folder)
        return
    folder = out / "spill"
    _remove(folder)
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


class Piles:
    """Tables by the number of their pile. Beyond `most_bytes` in memory, all are spilled to
    `folder`, one file a pile."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._held: dict[int, list[pa.Table]] = defaultdict(list)
        self._held_bytes = 0
        self._numbers: set[int] = set()

    def add(self, table: pa.Table, numbers: np.ndarray) -> None:
        """Lay each row on the pile that `numbers` of shape (rows,) tells."""
        order = np.argsort(numbers, kind="stable")
        grouped = table.take(order)
        for number, start, end in stretches(numbers[order]):
            rows = grouped.slice(start, end - start)
            self._held[number].append(rows)
            self._numbers.add(number)
        self._held_bytes += grouped.nbytes
        if self._held_bytes > self._most_bytes:
            self._spill()

    def numbers(self) -> list[int]:
        """The piles that have rows, in order."""
        return sorted(self._numbers)

    def take(self, number: int) -> pa.Table:
        """All rows of a pile, in one chunk and in no order. The pile is empty from then on."""
        tables = list(self._load(number))
        tables += self._held.pop(number, [])
        self._numbers.remove(number)
        return pa.concat_tables(tables).combine_chunks()

    def _spill(self) -> None:
        """Append to each pile's file. One file a table would be a million of them, and one that
        stays open more than a process may have."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, tables in self._held.items():
            with (
                pa.OSFile(str(self._file(number)), "ab") as file,
                pa.ipc.new_stream(file, tables[0].schema) as stream,
            ):
                for table in tables:
                    stream.write_table(table)
        self._held.clear()
        self._held_bytes = 0

    def _load(self, number: int) -> Iterator[pa.Table]:
        path = self._file(number)
        if not path.exists():
            return
        with pa.OSFile(str(path), "rb") as file:
            while file.tell() < file.size():
                yield pa.ipc.open_stream(file).read_all()
        path.unlink()

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.arrows"


def stretches(values: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Each stretch of equal values in a row: the value, where it starts and where it ends."""
    borders = np.flatnonzero(np.diff(values)) + 1
    starts = [0, *borders.tolist()]
    ends = [*borders.tolist(), len(values)]
    for start, end in zip(starts, ends, strict=True):
        if start < end:
            yield int(values[start]), start, end
