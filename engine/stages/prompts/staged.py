"""All prompts that were read, in files in their order, before it is known which of them stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from engine.rows.tables import read_tables
from engine.store.paths import Folder

_NARROW = (
    "prompt_id",
    "source_id",
    "split",
    "dialogue",
    "group",
)


class Staged:
    """Files of READ (reading.py). A row is known by its number among all of them."""

    def __init__(self, paths: Sequence[Folder], rows: Sequence[int]) -> None:
        self.paths = list(paths)
        # the number of each file's first row, and of all rows
        self.starts = np.cumsum([0, *rows])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def narrow(self) -> pa.Table:
        """What is known of all rows without their texts."""
        tables = read_tables(self.paths, _NARROW)
        every = pa.concat_tables(tables)
        return every.combine_chunks()

    def texts_of(self, is_wanted_N: np.ndarray) -> Iterator[pa.Array]:
        """The texts (see `compared_texts`) of these rows, file by file; files without one are not
        read."""
        for path, is_wanted in self.orders(is_wanted_N):
            if not is_wanted.any():
                continue
            texts = texts_in(path)
            mask = pa.array(is_wanted)
            yield texts.filter(mask)

    def orders(self, said_N: np.ndarray) -> list[tuple[Folder, np.ndarray]]:
        """Each file with what is said of its rows."""
        places = self.starts[1:-1]
        parts = np.split(said_N, places)
        return list(zip(self.paths, parts, strict=True))

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """Each file with the number of its first row."""
        tables = read_tables(self.paths)
        yield from zip(self.starts.tolist(), tables, strict=False)


def texts_in(path: Folder) -> pa.Array:
    """The texts of one file."""
    (table,) = read_tables([path], ["messages"])
    return compared_texts(table)


def compared_texts(table: pa.Table) -> pa.Array:
    """What is compared of prompts: all turns but the system's, which many prompts share."""
    import pyarrow.compute as pc  # takes a while, and `check` and `plan` need none of it

    messages = table["messages"].combine_chunks()
    turns = messages.flatten()
    lengths = np.diff(messages.offsets)
    row_of_turn = np.repeat(np.arange(len(messages)), lengths)
    roles = turns.field("role")
    is_said = roles.to_numpy(zero_copy_only=False) != "system"
    mask = pa.array(is_said)
    contents = turns.field("content").filter(mask)
    counts = np.bincount(row_of_turn[is_said], minlength=len(messages))
    starts = np.cumsum([0, *counts])
    by_row = pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()),
        contents,
    )
    newline = pa.scalar("\n")
    return pc.call_function("binary_join", [by_row, newline])
