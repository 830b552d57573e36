"""Parts and commit records: how answers become visible, row-exact, while replicas and drivers may
die at any moment.

A part is an attempt-unique Parquet file. The small JSON record written after it names the part's
exact rows and makes them visible; a file without a record does not exist. Fencing: a starting
driver writes an epoch file that lists every earlier record that it accepts, so a late writer of an
older epoch is ignored for ever. Rows of many parts are handled as columns, never one by one: a run
may have millions.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.rows.records import STATUSES
from engine.rows.tables import parquet_bytes, read_tables
from engine.run.manifests import FileEntry
from engine.store.files import file_sha256, publish_durable, write_atomic
from engine.store.paths import Folder

Key = tuple[int, int]  # prompt_id, sample_index
_CODES = {status: code for code, status in enumerate(STATUSES)}
_ERROR = _CODES["error"]
_UNTOLD = -1
COLUMNS = {  # field of a record: column of its part, and type in memory
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
    # What tries without an answer may have cost, of the requests answered here.
    lost_usd: float = 0.0
    batch: bool = False  # whether a batch API answered, at its price

    def tokens(self) -> tuple[int, int]:
        """Tokens in and out of all rows, as far as they are known."""
        tokens_in = self.tokens_in.clip(0).sum()
        tokens_out = self.tokens_out.clip(0).sum()
        return int(tokens_in), int(tokens_out)


def open_epoch(folder: Folder) -> int:
    """Start a new epoch in `folder`: accept what is committed so far, shut out every older writer.
    Returns its number."""
    commits = folder / "commits"
    for name in ("commits", "data", "attempts", "receipts"):
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
    number = newest_epoch(folder) + 1
    accepted = _accepted_names(commits)
    return claim_epoch(commits, number, accepted)


def claim_epoch(commits: Folder, number: int, accepted: Sequence[str]) -> int:
    """Write the epoch file, then look: StageError if another driver claimed the same number."""
    unique = uuid.uuid4().hex
    path = commits / f"epoch-{number:05d}-{unique}.json"
    text = json.dumps({"accepted": accepted})
    write_atomic(path, text)
    claims = list(commits.glob(f"epoch-{number:05d}-*.json"))
    if len(claims) > 1:
        raise StageError(
            f"two drivers opened epoch {number} in {commits} at the same time; both stop: run the"
            " command again, once"
        )
    return number


def newest_epoch(folder: Folder) -> int:
    """Number of the newest epoch of `folder`: a writer of an older one is shut out."""
    claimed = (folder / "commits").glob("epoch-*.json")
    newest = 0
    for path in claimed:
        _, number, *_ = path.name.split("-")
        newest = max(newest, int(number))
    return newest


def _accepted_names(commits: Folder) -> list[str]:
    """Records that the newest epoch's driver found when it started, and those written since."""
    newest = newest_epoch(commits.parent)
    listed: set[str] = set()
    for path in commits.glob(f"epoch-{newest:05d}-*.json"):
        epoch = _load_json(path)
        listed.update(epoch["accepted"])
    own_start = f"record-{newest:05d}-"
    names: list[str] = []
    for path in commits.glob("record-*.json"):
        name = path.name
        if name in listed or name.startswith(own_start):
            names.append(name)
    return sorted(names)


def accepted_records(folder: Folder) -> list[Record]:
    """Records that count: those that the newest epoch lists, and its own; by name, so by epoch and
    then by time."""
    commits = folder / "commits"
    names = _accepted_names(commits)
    return [_load_record(commits / name) for name in names]


def _load_json(path: Folder) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path} cannot be read ({error}); delete it to have its rows made again"
        ) from error


def _load_record(path: Folder) -> Record:
    stored = _load_json(path)
    columns: dict[str, Any] = {}
    try:
        for name, (_, dtype) in COLUMNS.items():
            # As arrays: a million rows as lists take 200 MB.
            values = stored.pop(name)
            coded = _coded(name, values)
            columns[name] = np.array(coded, dtype)
        return Record(name=path.name, **columns, **stored)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise StageError(
            f"commit record {path} is damaged ({error}); delete it to have its rows made again"
        ) from error


def _coded(name: str, values: list[Any]) -> list[Any]:
    """The values of a record's column as numbers."""
    if name == "status":
        return [_CODES[status] for status in values]
    if name in ("tokens_in", "tokens_out"):
        return [_UNTOLD if tokens is None else tokens for tokens in values]
    return values


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
        return self._keys(teacher, self.status != _ERROR)

    def ended(self, teacher: str, *, in_error: bool) -> set[Key]:
        """The teacher's rows that ended in `error`, or the others."""
        is_error = self.status == _ERROR
        prompt_ids, samples = self._keys(teacher, is_error == in_error)
        pairs = zip(prompt_ids.tolist(), samples.tolist(), strict=True)
        return set(pairs)

    def _keys(self, teacher: str, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = -1
        if teacher in self.teachers:
            number = self.teachers.index(teacher)
        is_mine = self.teacher == number
        chosen = wanted & is_mine
        return self.prompt_id[chosen], self.sample_index[chosen]

    def failed(self) -> int:
        """Rows that ended in `error`."""
        is_error = self.status == _ERROR
        return int(is_error.sum())


def final_rows(records: Sequence[Record]) -> Rows:
    """Each row once: where it was answered twice, an answer wins over `error`, then the
    earliest."""
    teachers = sorted({record.teacher for record in records})
    lengths: list[int] = []
    numbers: list[int] = []
    for record in records:
        lengths.append(len(record.prompt_id))
        numbers.append(teachers.index(record.teacher))
    columns: dict[str, np.ndarray] = {}
    for name in ("prompt_id", "sample_index", "status"):
        _, dtype = COLUMNS[name]
        of_records = [getattr(record, name) for record in records]
        columns[name] = _joined(of_records, dtype)
    teacher_of_row = np.repeat(numbers, lengths)
    columns["teacher"] = teacher_of_row.astype(np.int16)
    places = np.arange(len(records))
    record_of_row = np.repeat(places, lengths)
    columns["record"] = record_of_row.astype(np.int32)
    del teacher_of_row, record_of_row  # eight bytes a row each
    columns["row"] = _joined(map(np.arange, lengths), np.int32)
    key = (columns["sample_index"], columns["prompt_id"], columns["teacher"])
    is_error = columns["status"] == _ERROR
    # Records are in the order of their commits, so the earliest comes first among equals.
    order = np.lexsort((columns["record"], is_error, *key))
    is_first = np.zeros(len(order), bool)
    is_first[:1] = True
    for column in key:
        ordered = column[order]
        is_first[1:] |= ordered[1:] != ordered[:-1]
    chosen = order[is_first]
    for name, column in columns.items():
        columns[name] = column[chosen]
    return Rows(teachers, **columns)


def _joined(columns: Iterable[np.ndarray], dtype: Any) -> np.ndarray:
    nothing = np.zeros(0, dtype)  # so that there is always one to join
    joined = np.concatenate([nothing, *columns])
    return joined.astype(dtype, copy=False)


@dataclass
class Sums:
    """One teacher's final rows: how many, their tokens as far as they are known, and statuses."""

    rows: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    untold: int = 0  # rows without token counts, because their API gave none
    status: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, keep: np.ndarray) -> None:
        """Count the rows `keep` of a record."""
        tokens_in = record.tokens_in[keep]
        tokens_out = record.tokens_out[keep]
        is_untold = tokens_out == _UNTOLD
        self.rows += len(keep)
        self.tokens_in += int(tokens_in.clip(0).sum())
        self.tokens_out += int(tokens_out.clip(0).sum())
        self.untold += int(is_untold.sum())
        statuses = record.status[keep]
        codes, counts = np.unique(statuses, return_counts=True)
        for code, count in zip(codes, counts, strict=True):
            name = STATUSES[code]
            self.status[name] += int(count)


@dataclass(frozen=True)
class Settled:
    """The final rows of a folder: disjoint files, and sums over their rows by teacher."""

    files: dict[str, FileEntry]
    teachers: dict[str, Sums]
    failed: int

    @property
    def status(self) -> dict[str, int]:
        """Rows by status, in the order of STATUSES."""
        totals: Counter[str] = Counter()
        for sums in self.teachers.values():
            totals.update(sums.status)
        return {name: totals[name] for name in STATUSES if totals[name]}

    def total(self, name: str) -> int:
        """The sum over teachers of rows, tokens_in, tokens_out or untold."""
        return sum(getattr(sums, name) for sums in self.teachers.values())


def final_files(folder: Folder) -> Settled:
    """Fix the result: each row once. A part with rows that lost is rewritten without them, under a
    new name."""
    records = accepted_records(folder)
    rows = final_rows(records)
    by_record = np.argsort(rows.record, kind="stable")
    record_of_row = rows.record[by_record]
    places = np.arange(len(records) + 1)
    edges = np.searchsorted(record_of_row, places)
    files: dict[str, FileEntry] = {}
    teachers: dict[str, Sums] = {}
    for number, record in enumerate(records):
        of_record = slice(edges[number], edges[number + 1])
        mine = by_record[of_record]
        keep = np.sort(rows.row[mine])
        if not len(keep):
            continue
        if len(keep) == len(record.prompt_id):
            # Hashed when it was written: hundreds of gigabytes are not read again for it.
            name = record.file
            entry = FileEntry(
                rows=len(keep),
                size_bytes=record.size_bytes,
                sha256=record.sha256,
            )
        else:
            name, entry = _without_losers(folder, record, keep)
        files[name] = entry
        sums = teachers.setdefault(record.teacher, Sums())
        sums.add(record, keep)
    return Settled(files, teachers, rows.failed())


def _without_losers(folder: Folder, record: Record, keep: np.ndarray) -> tuple[str, FileEntry]:
    """A file with the rows `keep` of a part; named by them, because a later manifest may keep
    others."""
    row_list = str(keep.tolist())
    digest = hashlib.sha256(row_list.encode()).hexdigest()
    ending = f"-{digest[:8]}.parquet"
    kept = record.file.replace("/part-", "/kept-")
    name = kept.replace(".parquet", ending)
    path = folder / name
    if path.exists():  # a manifest may name it already
        data_sha256 = file_sha256(path)
        size_bytes = path.stat().st_size
    else:
        (table,) = read_tables([folder / record.file])
        kept_table = table.take(pa.array(keep))
        data = parquet_bytes(kept_table)
        publish_durable(path, data)
        data_sha256 = hashlib.sha256(data).hexdigest()
        size_bytes = len(data)
    entry = FileEntry(
        rows=len(keep),
        size_bytes=size_bytes,
        sha256=data_sha256,
    )
    return name, entry


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
    unique = uuid.uuid4().hex
    path = folder / "attempts" / f"open-{epoch:05d}-{shard}-{unique}.json"
    write_atomic(path, json.dumps(keys))


def end_attempts(folder: Folder, epoch: int, shard: str) -> None:
    """The shard is done: its rows are visible, and if Ray lost the receipt with an actor and has it
    made again, this tells so."""
    receipt = _receipt(folder, epoch, shard)
    receipt.write_text("")
    attempts = folder / "attempts"
    for path in attempts.glob(f"open-{epoch:05d}-{shard}-*.json"):
        path.unlink()


def _receipt(folder: Folder, epoch: int, shard: str) -> Folder:
    return folder / "receipts" / f"{epoch:05d}-{shard}"


def resume_shard(
    folder: Folder,
    epoch: int,
    shard: str,
    teacher: str,
    prompt_ids: Sequence[int],
) -> tuple[set[Key], Counter[Key]]:
    """Of a shard: the rows that are done already, and how often each other row was in an engine
    when it died.

    An open attempt tells that the shard's replica died. What a killed driver leaves open is not the
    rows' fault: a new epoch counts from nothing.
    """
    attempts = folder / "attempts"
    name = f"-{epoch:05d}-{shard}-"
    for path in attempts.glob(f"open{name}*.json"):
        # Renamed, so that the next look counts this death once and not again.
        dead_name = path.name.replace("open-", "dead-")
        dead = path.with_name(dead_name)
        write_atomic(dead, path.read_text())
        path.unlink()
    deaths: Counter[Key] = Counter()
    for path in attempts.glob(f"dead{name}*.json"):
        text = path.read_text()
        keys = json.loads(text)
        for prompt_id, sample in keys:
            deaths[prompt_id, sample] += 1
    if not deaths and not _receipt(folder, epoch, shard).exists():
        return set(), deaths  # its first time, as nearly always: nothing of it can be there
    rows = final_rows(accepted_records(folder))  # the records are let go: they are large
    ids, samples = rows.answered(teacher)
    wanted_ids = np.asarray(prompt_ids, np.int64)
    is_wanted = np.isin(ids, wanted_ids)
    done_ids = ids[is_wanted].tolist()
    done_samples = samples[is_wanted].tolist()
    done = set(zip(done_ids, done_samples, strict=True))
    return done, deaths
