"""All prompts that were read, in files in their order, before it is known which of them stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.rows.tables import read_tables
from engine.store.paths import Folder

_NARROW = ("prompt_id", "source_id", "split", "dialogue", "group")


class Staged:
    """Files of READ (reading.py). A row is known by its number among all of them."""

    def __init__(self, paths: Sequence[Folder], rows: Sequence[int]) -> None:
        self.paths = list(paths)
        self.starts = np.cumsum([0, *rows])  # number of each file's first row, and of all rows

    def __len__(self) -> int:
        return int(self.starts[-1])

    def narrow(self) -> pa.Table:
        """What is known of all rows without their texts."""
        tables = list(read_tables(self.paths, _NARROW))
        return pa.concat_tables(tables).combine_chunks()

    def texts_of(self, is_wanted_N: np.ndarray) -> Iterator[pa.Array]:
        """The texts (see `compared_texts`) of these rows, file by file; files without one are not
        read."""
        for path, wanted in self.orders(is_wanted_N):
            if wanted.any():
                (table,) = read_tables([path], ["messages"])
                yield compared_texts(table.filter(pa.array(wanted)))

    def orders(self, is_wanted_N: np.ndarray) -> list[tuple[Folder, np.ndarray]]:
        """Each file with what is said of its rows."""
        parts = np.split(is_wanted_N, self.starts[1:-1])
        return list(zip(self.paths, parts, strict=True))

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """Each file with the number of its first row."""
        for path, start in zip(self.paths, self.starts[:-1], strict=True):
            (table,) = read_tables([path])
            yield int(start), table


def texts_in(path: Folder) -> pa.Array:
    """The texts of one file."""
    (table,) = read_tables([path], ["messages"])
    return compared_texts(table)


def compared_texts(table: pa.Table) -> pa.Array:
    """What is compared of prompts: all turns but the system's, which many prompts share."""
    messages = table["messages"].combine_chunks()
    turns = messages.flatten()
    row_of_turn = np.repeat(np.arange(len(messages)), np.diff(messages.offsets))
    is_said = turns.field("role").to_numpy(zero_copy_only=False) != "system"
    counts = np.bincount(row_of_turn[is_said], minlength=len(messages))
    starts = pa.array(np.cumsum([0, *counts]), pa.int32())
    contents = turns.field("content").filter(pa.array(is_said))
    by_row = pa.ListArray.from_arrays(starts, contents)
    return pc.call_function("binary_join", [by_row, pa.scalar("\n")])
