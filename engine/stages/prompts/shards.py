"""Tables of prompts -> files of equally many rows, whatever tables they came in."""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa

from engine.rows.tables import write_parquet
from engine.store.paths import Folder


class Shards:
    """Files `<name>-00000.parquet`, … in a folder. One is written as soon as it is full."""

    def __init__(self, folder: Folder, rows: int) -> None:
        self._folder = folder
        self._rows = rows
        self._waiting: dict[str, list[pa.Table]] = defaultdict(list)
        self._number: dict[str, int] = defaultdict(int)
        self.files: dict[str, int] = {}  # rows of each

    def add(self, name: str, table: pa.Table) -> None:
        """Rows behind those of the same name."""
        waiting = self._waiting[name]
        waiting.append(table)
        while sum(map(len, waiting)) >= self._rows:
            every = pa.concat_tables(waiting)
            self._write(name, every.slice(0, self._rows))
            waiting[:] = [every.slice(self._rows)]

    def finish(self) -> None:
        """Write the files that are not full."""
        for name, waiting in self._waiting.items():
            rest = pa.concat_tables(waiting)
            if len(rest):
                self._write(name, rest)
        self._waiting.clear()

    def _write(self, name: str, table: pa.Table) -> None:
        path = f"{name}-{self._number[name]:05d}.parquet"
        self._number[name] += 1
        write_parquet(table.combine_chunks(), self._folder / path)
        self.files[path] = len(table)
