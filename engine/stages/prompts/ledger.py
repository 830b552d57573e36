"""Which prompts were read already: repeated ones are told apart from those that contradict each
other."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import NamedTuple

from engine.errors import InputError
from engine.job.spec import PromptsSpec
from engine.rows.ids import canonical_json
from engine.rows.records import Prompt


class Entry(NamedTuple):
    """What is compared of a row."""

    prompt_id: int
    sha256: str  # hex
    answers: int  # hash of all that are right
    split: str
    source_id: str
    line: int


class Seen(NamedTuple):
    """What is remembered of a row: enough to compare it with a later one."""

    sha256: bytes
    answers: int
    split: str
    file: int  # number in Ledger
    line: int


def entry_of(prompt: Prompt, line: int) -> Entry:
    """The same in every process."""
    answers = canonical_json(prompt.right_answers).encode()
    digest = hashlib.blake2b(answers, digest_size=8).digest()
    number = int.from_bytes(digest, "big", signed=True)
    return Entry(
        prompt.prompt_id, prompt.prompt_sha256, number, prompt.split, prompt.source_id, line
    )


class Ledger:
    """What was read so far: finds repeated prompts and rows that contradict each other.

    It is a table of SQLite, which beyond a cache lies on disk: in dicts, ten million prompts take 4
    GB of the driver. Rows are small, because what does not fit the cache costs time.
    """

    def __init__(self, spec: PromptsSpec) -> None:
        self._spec = spec
        self._files: dict[Path, int] = {}
        # "": a temporary file that goes with the connection
        self._seen = sqlite3.connect("", isolation_level=None)
        columns = "sha256 BLOB, answers INTEGER, split TEXT, file INTEGER, line INTEGER"
        self._seen.executescript(
            # nobody reads it after a crash
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;"
            f"CREATE TABLE prompts (id INTEGER PRIMARY KEY, {columns});"
            f"CREATE TABLE source_ids (id TEXT PRIMARY KEY, {columns}) WITHOUT ROWID; BEGIN"
        )

    def reason_to_drop(self, entry: Entry, path: Path) -> str | None:
        """None for a new prompt. InputError where this row contradicts an earlier one."""
        sha256 = bytes.fromhex(entry.sha256)
        file = self._files.setdefault(path, len(self._files))
        mine = Seen(sha256, entry.answers, entry.split, file, entry.line)
        if column := self._spec.fields.id:
            first = self._first("source_ids", f"{entry.split} {entry.source_id}", mine)
            if first[:2] != mine[:2]:
                raise InputError(
                    f"{self._places(first, mine)}: a duplicate id with other content"
                    f" ({column}={entry.source_id!r});"
                    " make the ids unique, or leave prompts.fields.id out"
                )
        first = self._first("prompts", entry.prompt_id, mine)
        if first is mine:
            return None
        places = self._places(first, mine)
        if first.sha256 != mine.sha256:
            raise InputError(
                f"{places}: two prompts share the 63-bit id {entry.prompt_id}; change one of them"
                " by a space"
            )
        # dialogues may open alike, and go on differently
        is_fault = self._spec.on_conflict == "error" and self._spec.turns == "last"
        if first.answers != mine.answers and is_fault:
            raise InputError(
                f"{places}: equal messages, different references; correct one, or set"
                " prompts.on_conflict: first"
            )
        if first.split != mine.split:
            return "in_validation"
        if first.answers != mine.answers:
            return "other_reference"
        return "duplicate"

    def _first(self, table: str, key: int | str, mine: Seen) -> Seen:
        """The first row of that key, which is `mine` if there was none."""
        inserted = self._seen.execute(
            f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?, ?)", (key, *mine)
        )
        if inserted.rowcount:
            return mine
        rows = self._seen.execute(
            f"SELECT sha256, answers, split, file, line FROM {table} WHERE id = ?", (key,)
        )
        return Seen(*rows.fetchone())

    def _places(self, *rows: Seen) -> str:
        files = list(self._files)
        return " and ".join(f"{files[row.file]}:{row.line}" for row in rows)
