"""Tables of prompts -> files of equally many rows, whatever tables they came in."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from engine.rows.tables import write_parquet
from engine.store.paths import Folder


class Shards:
    """Files `<name>-00000.parquet`, … in a folder. One is written as soon as it is full."""

    def __init__(self, folder: Folder, rows: int) -> None:
        self._folder = folder
        self._rows = rows
        self._waiting: dict[str, list[pa.Table]] = {}
        self._written: Counter[str] = Counter()
        self.files: dict[str, int] = {}  # rows of each

    def add(self, name: str, table: pa.Table) -> None:
        """Rows behind those of the same name."""
        waiting = self._waiting.setdefault(name, [])
        waiting.append(table)
        rows = sum(map(len, waiting))
        if rows < self._rows:
            return
        every = pa.concat_tables(waiting)
        full = rows - rows % self._rows
        for start in range(0, full, self._rows):
            shard = every.slice(start, self._rows)
            self._write(name, shard)
        self._waiting[name] = [every.slice(full)]

    def finish(self) -> None:
        """Write the files that are not full."""
        for name, waiting in self._waiting.items():
            rest = pa.concat_tables(waiting)
            if len(rest):
                self._write(name, rest)
        self._waiting.clear()

    def _write(self, name: str, table: pa.Table) -> None:
        number = self._written[name]
        self._written[name] += 1
        path = f"{name}-{number:05d}.parquet"
        whole = table.combine_chunks()
        write_parquet(whole, self._folder / path)
        self.files[path] = len(table)
