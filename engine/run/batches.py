"""Batches of requests at a vendor, as a stage's folder remembers them: so that a killed driver or
replica finds them again, and nothing is paid twice.

A file per batch in `batches/`: written before the vendor is asked to make it, again with the
vendor's id, and again when its results were read. Answers are in parts (parts.py), never here.
"""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import StageError
from engine.run import parts
from engine.run.parts import Key
from engine.store.files import write_atomic
from engine.store.paths import Folder, files_in

NEVER_MADE = "never made"
FAILED = "failed"
_ANSWERS_NOTHING = (NEVER_MADE, FAILED)


@dataclass(frozen=True)
class Batch:
    """One batch: its name is ours, and begins the custom id of each of its requests.

    `most_usd` is by row. `vendor_id` is None until the vendor told it: then it may be there all the
    same. `ended` is the vendor's word, None until it has ended there.
    """

    name: str
    teacher: str
    rows: list[Key]
    most_usd: list[float]
    created: float  # seconds since the epoch, just before the vendor was asked
    vendor_id: str | None = None
    ended: str | None = None

    @property
    def may_answer(self) -> bool:
        """Whether the vendor has, or may have, answers to its rows."""
        return self.ended not in _ANSWERS_NOTHING


def new_name() -> str:
    """Of a batch; no two share one."""
    return uuid.uuid4().hex[:12]


def custom_id(batch: str, row: Key) -> str:
    """A request's name at the vendor: at most 64 letters, digits and hyphens."""
    prompt_id, sample = row
    return f"{batch}-{prompt_id:x}-{sample}"


def row_of(custom: str) -> Key | None:
    """The row that a custom id names; None where it is not one of ours."""
    try:
        _, prompt_id, sample = custom.split("-")
        return int(prompt_id, 16), int(sample)
    except ValueError:
        return None


class BatchLedger:
    """The batches of one teacher in a stage's folder; written by the one replica that asks it."""

    def __init__(self, folder: Folder, epoch: int, teacher: str) -> None:
        self._stage = folder
        self._epoch = epoch
        self._teacher = teacher

    def begin(self, name: str, rows: Sequence[Key], most_usd: Sequence[float]) -> Batch:
        """Note a batch that the vendor is asked for next. StageError where another driver has
        taken over, which would have it made again."""
        if parts.newest_epoch(self._stage) > self._epoch:
            raise StageError(f"another driver has opened {self._stage}: this one makes no batch")
        batch = Batch(
            name,
            self._teacher,
            list(rows),
            list(most_usd),
            created=time.time(),
        )
        folder = self._stage / "batches"
        folder.mkdir(parents=True, exist_ok=True)
        self.write(batch)
        return batch

    def write(self, batch: Batch) -> None:
        """Note what is known of a batch now."""
        noted = dataclasses.asdict(batch)
        text = json.dumps(noted)
        write_atomic(self.path(batch), text)

    def path(self, batch: Batch) -> Folder:
        """The file that remembers it."""
        return self._stage / "batches" / f"{batch.name}.json"

    def load(self) -> list[Batch]:
        """The teacher's batches, the oldest first."""
        return _of(self._teacher, self._stage)

    def rows(self) -> parts.Rows:
        """The final rows of the stage so far."""
        records = parts.accepted_records(self._stage)
        return parts.final_rows(records)


def load_batches(stage: Folder) -> list[Batch]:
    """Every teacher's batches, the oldest first. StageError where a file cannot be read."""
    folder = stage / "batches"
    batches: list[Batch] = []
    for name in files_in(folder):
        if name.endswith(".json"):
            batches.append(_load(folder / name))
    return sorted(batches, key=lambda batch: batch.created)


def _of(teacher: str, stage: Folder) -> list[Batch]:
    return [batch for batch in load_batches(stage) if batch.teacher == teacher]


def _load(path: Folder) -> Batch:
    try:
        text = path.read_text()
        stored: dict[str, Any] = json.loads(text)
        rows = [(prompt_id, sample) for prompt_id, sample in stored.pop("rows")]
        return Batch(rows=rows, **stored)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StageError(
            f"{path} cannot be read ({error}): it names a batch that was paid for; put it back, or"
            " delete it to have its rows asked and paid again"
        ) from error


def under_way(stage: Folder) -> list[Batch]:
    """Batches that have not ended at the vendor, as far as anybody has heard."""
    return [batch for batch in load_batches(stage) if batch.ended is None]


def told(batches: Sequence[Batch]) -> str:
    """How many, which and with how many requests: `2 batches with 1,234 requests (a, b)`."""
    if not batches:
        return "no batch"
    requests = sum(len(batch.rows) for batch in batches)
    ids = [batch.vendor_id or f"{batch.name}, not confirmed" for batch in batches]
    several = "es" if len(batches) > 1 else ""
    return f"{len(batches)} batch{several} with {requests:,} requests ({', '.join(ids)})"


def uncollected(stage: Folder, teacher: str, rows: parts.Rows) -> list[Batch]:
    """A teacher's batches with answers that are paid for and in no part yet, by `rows`."""
    batches = _of(teacher, stage)
    if not batches:
        return []
    kept = rows.ended(teacher, in_error=False)
    kept |= rows.ended(teacher, in_error=True)
    left: list[Batch] = []
    for batch in batches:
        is_kept = batch.ended is not None and kept.issuperset(batch.rows)
        if batch.may_answer and not is_kept:
            left.append(batch)
    return left
