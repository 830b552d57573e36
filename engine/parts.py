"""Parts and commit records: how answers become visible, row-exact, while replicas and drivers may die at any moment.

A part is an attempt-unique Parquet file. The small JSON record written after it names the part's exact rows and makes
them visible; a file without a record does not exist. Fencing: a starting driver writes an epoch file that lists every
earlier record that it accepts, so a late writer of an older epoch is ignored for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.records import STATUSES, Completion, parquet_bytes, read_tables, to_table, write_parquet
from engine.rundir import write_atomic, write_durable

Key = tuple[str, int, int]  # teacher, prompt_id, sample_index


@dataclass(frozen=True)
class Record:
    """One committed part and its rows, column by column."""

    name: str
    file: str
    epoch: int
    teacher: str
    prompt_id: list[int]
    sample_index: list[int]
    status: list[str]
    tokens_in: list[int]
    tokens_out: list[int]
    size_bytes: int
    sha256: str

    def keys(self) -> Iterable[Key]:
        return zip([self.teacher] * len(self.prompt_id), self.prompt_id, self.sample_index, strict=True)


def open_epoch(folder: Path) -> int:
    """Start a new epoch in `folder`: accept what is committed so far, shut out every older writer. Returns its number."""
    commits = folder / "commits"
    for path in (commits, folder / "data", folder / "attempts"):
        path.mkdir(parents=True, exist_ok=True)
    accepted = [record.name for record in accepted_records(folder)]
    return claim_epoch(commits, _last_epoch(commits) + 1, accepted)


def claim_epoch(commits: Path, number: int, accepted: Sequence[str]) -> int:
    """Write the epoch file, then look: StageError if another driver claimed the same number."""
    write_atomic(commits / f"epoch-{number:05d}-{uuid.uuid4().hex}.json", json.dumps({"accepted": accepted}))
    if len(list(commits.glob(f"epoch-{number:05d}-*.json"))) > 1:
        raise StageError(f"two drivers opened epoch {number} in {commits} at the same time; both stop: run the command again, once")
    return number


def _last_epoch(commits: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in commits.glob("epoch-*.json")), default=0)


def accepted_records(folder: Path) -> list[Record]:
    """Records that count: those that the newest epoch lists, and its own; by name, so by epoch and then by time."""
    commits = folder / "commits"
    newest = _last_epoch(commits)
    listed: set[str] = set()
    for path in commits.glob(f"epoch-{newest:05d}-*.json"):
        listed |= set(json.loads(path.read_text())["accepted"])
    own = {path.name for path in commits.glob(f"record-{newest:05d}-*.json")}
    return [_load_record(commits / name) for name in sorted(listed | own) if (commits / name).exists()]


def _load_record(path: Path) -> Record:
    try:
        return Record(name=path.name, **json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StageError(f"commit record {path} cannot be read ({error}); delete it to have its rows made again") from error


def committed(folder: Path) -> dict[Key, str]:
    """Status of every visible row; where a row was answered twice, an answer wins over `error`, then the earliest."""
    return _winners(accepted_records(folder))


def _winners(records: Iterable[Record]) -> dict[Key, str]:
    statuses: dict[Key, str] = {}
    for record in records:
        for key, status in zip(record.keys(), record.status, strict=True):
            if statuses.get(key, "error") == "error":
                statuses[key] = status
    return statuses


@dataclass(frozen=True)
class Settled:
    """The final rows of a folder: disjoint files with their rows, and sums over the rows."""

    files: dict[str, int]
    status: dict[str, int]
    tokens_in: int
    tokens_out: int
    errors: list[Key]


def settle(folder: Path) -> Settled:
    """Fix the result: each row once. A part with rows that lost is rewritten without them, under a new name."""
    records = accepted_records(folder)
    winners = _winners(records)
    taken: set[Key] = set()
    files: dict[str, int] = {}
    status: Counter[str] = Counter()
    tokens_in = tokens_out = 0
    for record in records:
        keys = list(record.keys())
        keep = [
            row for row, (key, state) in enumerate(zip(keys, record.status, strict=True))
            if key not in taken and winners[key] == state and not taken.add(key)  # type: ignore[func-returns-value]
        ]
        if not keep:
            continue
        name = record.file
        if len(keep) < len(keys):
            chosen = hashlib.sha256(str(keep).encode()).hexdigest()[:8]  # a later manifest may keep other rows: another file
            name = name.replace("/part-", "/kept-").replace(".parquet", f"-{chosen}.parquet")
            (table,) = read_tables([folder / record.file])
            write_parquet(table.take(pa.array(keep)), folder / name)
        files[name] = len(keep)
        status.update(record.status[row] for row in keep)
        tokens_in += sum(record.tokens_in[row] for row in keep)
        tokens_out += sum(record.tokens_out[row] for row in keep)
    errors = [key for key, state in winners.items() if state == "error"]
    return Settled(files, {s: status[s] for s in STATUSES if status[s]}, tokens_in, tokens_out, errors)


def begin_attempt(folder: Path, epoch: int, shard: str) -> int:
    """Note that a shard's rows are about to enter an engine; returns which attempt of this epoch it is, from 1."""
    attempts = folder / "attempts"
    number = len(list(attempts.glob(f"{epoch:05d}-{shard}-*"))) + 1
    (attempts / f"{epoch:05d}-{shard}-{uuid.uuid4().hex[:8]}").write_text("")
    return number


class PartWriter:
    """Collects finished answers of one replica and commits them: at `max_rows`, at `max_seconds`, or when asked to.

    `finish` turns collected items into Completions in bulk (decoding is cheaper that way).
    """

    def __init__(
        self, folder: Path, epoch: int, teacher: str, schema: pa.Schema, metadata: dict[str, Any],
        finish: Callable[[Sequence[Any]], list[Completion]], *, max_rows: int, max_seconds: float,
    ) -> None:
        self._folder, self._epoch, self._teacher = folder, epoch, teacher
        self._schema, self._metadata, self._finish = schema, metadata, finish
        self._max_rows, self._max_seconds = max_rows, max_seconds
        self._items: list[Any] = []
        self._oldest = 0.0
        self._lock = asyncio.Lock()

    async def add(self, item: Any) -> None:
        """Take one finished answer; returns before it is committed unless it fills the part."""
        if not self._items:
            self._oldest = time.monotonic()
        self._items.append(item)
        if len(self._items) >= self._max_rows:
            await self.commit()

    async def commit(self) -> None:
        """When this returns, everything added before the call is visible."""
        async with self._lock:
            items, self._items = self._items, []
            if items:
                try:
                    await asyncio.to_thread(self._write, items)
                except BaseException:
                    self._items = [*items, *self._items]  # a full disk loses no answer that the next commit can write
                    raise

    async def commit_old(self) -> None:
        """Commit what is older than `max_seconds`, again and again; runs beside the work until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._max_seconds / 4))
            if self._items and time.monotonic() - self._oldest >= self._max_seconds:
                await self.commit()

    def _write(self, items: Sequence[Any]) -> None:
        rows = self._finish(items)
        # Time first, so that names sort by it; random last, so that no two attempts share a name.
        unique = f"{self._epoch:05d}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        file = f"data/part-{unique}.parquet"
        data = parquet_bytes(to_table(rows, self._schema, self._metadata))
        write_durable(self._folder / file, data)
        record = {
            "file": file, "epoch": self._epoch, "teacher": self._teacher,
            "size_bytes": data.size, "sha256": hashlib.sha256(data).hexdigest(),
            "prompt_id": [row.prompt_id for row in rows], "sample_index": [row.sample_index for row in rows],
            "status": [row.status for row in rows], "tokens_in": [row.prompt_tokens for row in rows],
            "tokens_out": [row.completion_tokens for row in rows],
        }
        write_atomic(self._folder / "commits" / f"record-{unique}.json", json.dumps(record))


def prompt_keys(files: Sequence[Path]) -> dict[Path, tuple[np.ndarray, np.ndarray]]:
    """Per prompt file: prompt_id (rows,) and whether the row is of the validation split (rows,)."""
    tables = dict(zip(files, read_tables(files, ["prompt_id", "split"]), strict=True))
    return {
        file: (table["prompt_id"].to_numpy(), np.asarray(table["split"].to_pylist()) == "validation") for file, table in tables.items()
    }
