"""The writer of one replica's parts: it collects finished answers and commits them in time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from engine.rows.tables import parquet_bytes
from engine.run.parts import COLUMNS
from engine.store.files import publish_durable, write_atomic
from engine.store.paths import Folder


class PartWriter:
    """Collects finished answers of one replica and commits them: at `max_rows`, `max_bytes` or
    `max_seconds`, or when asked to.

    `finish` turns collected items into a table of Completions in bulk (decoding is cheaper that
    way), `lost_usd` sums what their lost tries may have cost; `batch` says that a batch API
    answers, at its price; `on_step` is told where in a commit the writer is, for fault tests.
    """

    def __init__(
        self,
        folder: Folder,
        epoch: int,
        teacher: str,
        finish: Callable[[Sequence[Any]], pa.Table],
        *,
        max_rows: int,
        max_seconds: float,
        max_bytes: int = 128_000_000,
        batch: bool = False,
        lost_usd: Callable[[Sequence[Any]], float] = lambda items: 0.0,
        on_step: Callable[[str, Folder, pa.Buffer], None] = lambda step, path, data: None,
    ) -> None:
        self._folder, self._epoch, self._teacher = folder, epoch, teacher
        self._finish, self._lost_usd, self._on_step = finish, lost_usd, on_step
        self._max_rows, self._max_seconds, self._max_bytes = max_rows, max_seconds, max_bytes
        self._batch = batch
        self._items: list[Any] = []
        self._size_bytes = 0
        self._oldest = 0.0
        self._added = 0
        self.committed = Counter[str]()  # rows that are visible, by status
        self._failure: BaseException | None = None
        self._lock = asyncio.Lock()
        self._news = asyncio.Condition()

    async def add(self, item: Any, size_bytes: int = 0) -> None:
        """Take one finished answer; returns before it is committed unless it fills the part."""
        if not self._items:
            self._oldest = time.monotonic()
            self._size_bytes = 0
        self._items.append(item)
        self._added += 1
        self._size_bytes += size_bytes
        if len(self._items) >= self._max_rows or self._size_bytes >= self._max_bytes:
            await self.commit()

    async def visible(self) -> None:
        """Wait until everything added before the call is committed; raises what a commit raised."""
        mark = self._added
        async with self._news:
            await self._news.wait_for(lambda: self.committed.total() >= mark or self._failure)
        if self._failure and self.committed.total() < mark:
            raise self._failure

    async def commit(self) -> None:
        """When this returns, everything added before the call is visible."""
        async with self._lock:
            items = self._items
            self._items = []
            if not items:
                return
            try:
                self.committed.update(await asyncio.to_thread(self._write, items))
                self._failure = None
            except BaseException as error:
                # A full disk loses no answer that the next commit can write.
                self._items = [*items, *self._items]
                self._failure = error
                raise
            finally:
                async with self._news:
                    self._news.notify_all()

    def is_old(self) -> bool:
        """Whether an answer has waited `max_seconds` to become visible."""
        return bool(self._items) and time.monotonic() - self._oldest >= self._max_seconds

    def _write(self, items: Sequence[Any]) -> Counter[str]:
        """Statuses of the rows, which are visible now."""
        table = self._finish(items)
        # Time first, so that names sort by it; random last, so that no two attempts share a name.
        unique = f"{self._epoch:05d}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        file = f"data/part-{unique}.parquet"
        data = parquet_bytes(table)
        record: dict[str, Any] = {
            "file": file,
            "epoch": self._epoch,
            "teacher": self._teacher,
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for name, (column, _) in COLUMNS.items():
            record[name] = table[column].to_pylist()
        if lost_usd := self._lost_usd(items):
            record["lost_usd"] = lost_usd
        if self._batch:
            record["batch"] = True
        path = self._folder / file
        for step in ("before_part", "mid_part"):
            self._on_step(step, path, data)
        publish_durable(path, data)
        self._on_step("before_record", path, data)
        # The record makes the rows visible: a part without one does not exist.
        write_atomic(self._folder / "commits" / f"record-{unique}.json", json.dumps(record))
        self._on_step("after_record", path, data)
        return Counter(record["status"])
