"""Parts and commit records: how answers become visible, row-exact, while replicas and drivers may
die at any moment.

A part is an attempt-unique Parquet file. The small JSON record written after it names the part's
exact rows and makes them visible; a file without a record does not exist. Fencing: a starting
driver writes an epoch file that lists every earlier record that it accepts, so a late writer of an
older epoch is ignored for ever. Rows of many parts are handled as columns, never one by one: a run
may have millions.
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
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.rows.records import STATUSES
from engine.rows.tables import parquet_bytes, read_tables
from engine.store.files import publish_durable, write_atomic
from engine.store.paths import Folder

Key = tuple[int, int]  # prompt_id, sample_index
_CODES = {status: code for code, status in enumerate(STATUSES)}
_ERROR = _CODES["error"]
_UNTOLD = -1
_COLUMNS = {  # field of a record: column of its part, and type in memory
    "prompt_id": ("prompt_id", np.int64),
    "sample_index": ("sample_index", np.int32),
    "status": ("status", np.int8),
    "tokens_in": ("prompt_tokens", np.int32),
    "tokens_out": ("completion_tokens", np.int32),
}


@dataclass(frozen=True)
class Record:
    """One committed part: its file, and its rows column by column."""

    name: str
    file: str
    epoch: int
    teacher: str
    prompt_id: np.ndarray
    sample_index: np.ndarray
    status: np.ndarray  # index into records.STATUSES
    tokens_in: np.ndarray  # -1 where an API did not say
    tokens_out: np.ndarray
    size_bytes: int
    sha256: str
    lost_usd: float = (
        0.0  # what tries without an answer may have cost, of the requests answered here
    )

    def tokens(self) -> tuple[int, int]:
        """Tokens in and out of all rows, as far as they are known."""
        return int(self.tokens_in.clip(0).sum()), int(self.tokens_out.clip(0).sum())


def open_epoch(folder: Folder) -> int:
    """Start a new epoch in `folder`: accept what is committed so far, shut out every older writer.
    Returns its number."""
    commits = folder / "commits"
    for path in (commits, folder / "data", folder / "attempts", folder / "receipts"):
        path.mkdir(parents=True, exist_ok=True)
    return claim_epoch(commits, newest_epoch(folder) + 1, _accepted_names(commits))


def claim_epoch(commits: Folder, number: int, accepted: Sequence[str]) -> int:
    """Write the epoch file, then look: StageError if another driver claimed the same number."""
    write_atomic(
        commits / f"epoch-{number:05d}-{uuid.uuid4().hex}.json", json.dumps({"accepted": accepted})
    )
    if len(list(commits.glob(f"epoch-{number:05d}-*.json"))) > 1:
        raise StageError(
            f"two drivers opened epoch {number} in {commits} at the same time; both stop: run the"
            " command again, once"
        )
    return number


def newest_epoch(folder: Folder) -> int:
    """Number of the newest epoch of `folder`: a writer of an older one is shut out."""
    return max(
        (int(path.name.split("-")[1]) for path in (folder / "commits").glob("epoch-*.json")),
        default=0,
    )


def _accepted_names(commits: Folder) -> list[str]:
    newest = newest_epoch(commits.parent)
    listed: set[str] = set()
    for path in commits.glob(f"epoch-{newest:05d}-*.json"):
        listed |= set(_load_json(path)["accepted"])
    existing = {path.name for path in commits.glob("record-*.json")}
    return sorted(
        (listed & existing)
        | {name for name in existing if name.startswith(f"record-{newest:05d}-")}
    )


def accepted_records(folder: Folder) -> list[Record]:
    """Records that count: those that the newest epoch lists, and its own; by name, so by epoch and
    then by time."""
    commits = folder / "commits"
    return [_load_record(commits / name) for name in _accepted_names(commits)]


def _load_json(path: Folder) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path} cannot be read ({error}); delete it to have its rows made again"
        ) from error


def _load_record(path: Folder) -> Record:
    record = _load_json(path)
    try:
        record["status"] = [_CODES[status] for status in record["status"]]
        for name in ("tokens_in", "tokens_out"):
            record[name] = [_UNTOLD if tokens is None else tokens for tokens in record[name]]
        columns = {
            name: np.array(record[name], dtype) for name, (_, dtype) in _COLUMNS.items()
        }  # a million rows as lists: 200 MB
        return Record(name=path.name, **record | columns)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise StageError(
            f"commit record {path} is damaged ({error}); delete it to have its rows made again"
        ) from error


@dataclass(frozen=True)
class Rows:
    """The one row that counts of every (teacher, prompt, sample), as columns of equal length in no
    order."""

    teachers: list[str]
    teacher: np.ndarray  # index into teachers
    prompt_id: np.ndarray
    sample_index: np.ndarray
    status: np.ndarray  # index into records.STATUSES
    record: np.ndarray  # index of the accepted record
    row: np.ndarray  # row in the record's part

    def answered(self, teacher: str) -> tuple[np.ndarray, np.ndarray]:
        """prompt_id and sample_index of the teacher's rows that need no further try."""
        wanted = (self.status != _ERROR) & (
            self.teacher == (self.teachers.index(teacher) if teacher in self.teachers else -1)
        )
        return self.prompt_id[wanted], self.sample_index[wanted]

    def failed(self) -> int:
        """Rows that ended in `error`."""
        return int((self.status == _ERROR).sum())


def final_rows(records: Sequence[Record]) -> Rows:
    """Each row once: where it was answered twice, an answer wins over `error`, then the
    earliest."""
    teachers = sorted({record.teacher for record in records})
    lengths = [len(record.prompt_id) for record in records]

    def joined(columns: Iterable[np.ndarray], dtype: Any) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *columns]).astype(dtype, copy=False)

    columns = {
        "teacher": np.repeat(
            [teachers.index(record.teacher) for record in records], lengths
        ).astype(np.int16),
        "prompt_id": joined((record.prompt_id for record in records), np.int64),
        "sample_index": joined((record.sample_index for record in records), np.int32),
        "status": joined((record.status for record in records), np.int8),
        "record": np.repeat(np.arange(len(records)), lengths).astype(np.int32),
        "row": joined((np.arange(length) for length in lengths), np.int32),
    }
    key = (columns["sample_index"], columns["prompt_id"], columns["teacher"])
    order = np.lexsort((columns["record"], columns["status"] == _ERROR, *key))
    first = np.ones(len(order), bool)
    first[1:] = np.any([column[order][1:] != column[order][:-1] for column in key], axis=0)
    return Rows(teachers, **{name: column[order[first]] for name, column in columns.items()})


@dataclass(frozen=True)
class Settled:
    """The final rows of a folder: disjoint files with their rows, and sums over the rows, also by
    teacher.

    `untold` rows have no token counts, because their API gave none: the sums leave them out.
    """

    files: dict[str, int]
    status: dict[str, int]
    tokens_in: int
    tokens_out: int
    teachers: dict[str, dict[str, Any]]
    failed: int
    untold: int = 0


def settle(folder: Folder) -> Settled:
    """Fix the result: each row once. A part with rows that lost is rewritten without them, under a
    new name."""
    records = accepted_records(folder)
    rows = final_rows(records)
    by_record = np.argsort(rows.record, kind="stable")
    edges = np.searchsorted(rows.record[by_record], np.arange(len(records) + 1))
    files: dict[str, int] = {}
    teachers: dict[str, dict[str, Any]] = {}
    untold = 0
    for number, record in enumerate(records):
        keep = np.sort(rows.row[by_record[edges[number] : edges[number + 1]]])
        if not len(keep):
            continue
        name = record.file
        if len(keep) < len(record.prompt_id):
            chosen = hashlib.sha256(str(keep.tolist()).encode()).hexdigest()[
                :8
            ]  # a later manifest may keep other rows: another file
            name = name.replace("/part-", "/kept-").replace(".parquet", f"-{chosen}.parquet")
            if not (folder / name).exists():  # else a manifest may name it already
                (table,) = read_tables([folder / record.file])
                publish_durable(folder / name, parquet_bytes(table.take(pa.array(keep))))
        files[name] = len(keep)
        sums = teachers.setdefault(
            record.teacher, {"rows": 0, "tokens_in": 0, "tokens_out": 0, "status": Counter()}
        )
        sums["rows"] += len(keep)
        codes, counts = np.unique(record.status[keep], return_counts=True)
        sums["status"].update(
            {STATUSES[code]: int(count) for code, count in zip(codes, counts, strict=True)}
        )
        for tokens in ("tokens_in", "tokens_out"):
            sums[tokens] += int(getattr(record, tokens)[keep].clip(0).sum())
        untold += int((record.tokens_out[keep] == _UNTOLD).sum())
    status: Counter[str] = sum((sums["status"] for sums in teachers.values()), Counter())
    return Settled(
        files,
        {name: status[name] for name in STATUSES if status[name]},
        sum(sums["tokens_in"] for sums in teachers.values()),
        sum(sums["tokens_out"] for sums in teachers.values()),
        teachers,
        rows.failed(),
        untold,
    )


def ask_to_stop(folder: Folder, epoch: int) -> None:
    """Tell the replicas of this epoch to ask nothing more, to wait for what is open, and to commit
    it."""
    _stop_file(folder, epoch).write_text("")


def is_asked_to_stop(folder: Folder, epoch: int) -> bool:
    """Whether the driver of this epoch was interrupted."""
    return _stop_file(folder, epoch).exists()


def is_asking(folder: Folder, epoch: int) -> bool:
    """Whether rows of this epoch have entered an engine, and no receipt for them has come."""
    return any((folder / "attempts").glob(f"open-{epoch:05d}-*"))


def _stop_file(folder: Folder, epoch: int) -> Folder:
    return folder / "receipts" / f"{epoch:05d}-stop"


def begin_attempt(folder: Folder, epoch: int, shard: str, keys: Sequence[Key]) -> None:
    """Note which rows of a shard are about to enter an engine. The driver ends the attempt when it
    has the receipt."""
    write_atomic(
        folder / "attempts" / f"open-{epoch:05d}-{shard}-{uuid.uuid4().hex}.json", json.dumps(keys)
    )


def end_attempts(folder: Folder, epoch: int, shard: str) -> None:
    """The shard is done: its rows are visible, and if Ray lost the receipt with an actor and has it
    made again, this tells so."""
    _receipt(folder, epoch, shard).write_text("")
    for path in (folder / "attempts").glob(f"open-{epoch:05d}-{shard}-*.json"):
        path.unlink()


def _receipt(folder: Folder, epoch: int, shard: str) -> Folder:
    return folder / "receipts" / f"{epoch:05d}-{shard}"


def take_over(
    folder: Folder, epoch: int, shard: str, teacher: str, prompt_ids: Sequence[int]
) -> tuple[set[Key], Counter[Key]]:
    """Of a shard: the rows that are done already, and how often each other row was in an engine
    when it died.

    An open attempt tells that the shard's replica died. What a killed driver leaves open is not the
    rows' fault: a new epoch counts from nothing.
    """
    attempts, name = folder / "attempts", f"-{epoch:05d}-{shard}-"
    for path in attempts.glob(f"open{name}*.json"):
        write_atomic(path.with_name(path.name.replace("open-", "dead-")), path.read_text())
        path.unlink()
    deaths = Counter(
        tuple(key)
        for path in attempts.glob(f"dead{name}*.json")
        for key in json.loads(path.read_text())
    )
    if not deaths and not _receipt(folder, epoch, shard).exists():
        return set(), deaths  # its first time, as nearly always: nothing of it can be there
    ids, samples = final_rows(accepted_records(folder)).answered(teacher)
    mine = np.isin(ids, np.asarray(prompt_ids, np.int64))
    return set(zip(ids[mine].tolist(), samples[mine].tolist(), strict=True)), deaths


class PartWriter:
    """Collects finished answers of one replica and commits them: at `max_rows`, `max_bytes` or
    `max_seconds`, or when asked to.

    `finish` turns collected items into a table of Completions in bulk (decoding is cheaper that
    way), `lost_usd` sums what their lost tries may have cost; `on_step` is told where in a commit
    the writer is, for fault tests.
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
        lost_usd: Callable[[Sequence[Any]], float] = lambda items: 0.0,
        on_step: Callable[[str, Folder, pa.Buffer], None] = lambda step, path, data: None,
    ) -> None:
        self._folder, self._epoch, self._teacher = folder, epoch, teacher
        self._finish, self._lost_usd, self._on_step = finish, lost_usd, on_step
        self._max_rows, self._max_seconds, self._max_bytes = max_rows, max_seconds, max_bytes
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
            self._oldest, self._size_bytes = time.monotonic(), 0
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
            items, self._items = self._items, []
            if not items:
                return
            try:
                self.committed.update(await asyncio.to_thread(self._write, items))
                self._failure = None
            except BaseException as error:
                self._items = [
                    *items,
                    *self._items,
                ]  # a full disk loses no answer that the next commit can write
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
        data, lost_usd = parquet_bytes(table), self._lost_usd(items)
        record = {
            "file": file,
            "epoch": self._epoch,
            "teacher": self._teacher,
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            **{name: table[column].to_pylist() for name, (column, _) in _COLUMNS.items()},
        } | ({"lost_usd": lost_usd} if lost_usd else {})
        path = self._folder / file
        for step in ("before_part", "mid_part"):
            self._on_step(step, path, data)
        publish_durable(path, data)
        self._on_step("before_record", path, data)
        write_atomic(self._folder / "commits" / f"record-{unique}.json", json.dumps(record))
        self._on_step("after_record", path, data)
        return Counter(record["status"])
