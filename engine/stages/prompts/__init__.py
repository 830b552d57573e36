"""Stage 1, source files -> prompts: normalised, with stable ids, de-duplicated, split and sharded.

Every good line is kept, every other one counted by reason. The stage writes prompts only; it asks
no model anything.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from engine.errors import InputError
from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.ids import derive_seed
from engine.rows.records import PROMPT, Prompt
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.manifests import Counts
from engine.stages.prompts.readers import BadRow, read_rows, require_one_schema, source_files
from engine.stages.prompts.rows import UNLEARNT, columns_of, columns_read, prompt_of

_SPLITS = (
    "validation",
    "train",
)  # in the order of reading: a prompt that is in both stays in validation
_HEAD_FILES = 8  # per split: a folder may hold thousands
_HEAD_ROWS = 200
_SHOWN_FILES = 5


def run(spec: PromptsSpec, inputs: dict[str, Path], out: Path, ctx: Context) -> Counts:
    """Read all sources once. InputError: nothing usable, contradictory rows, or (`ctx.strict`) any
    bad line."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    ledger = Ledger(spec)
    waiting: dict[str, list[Prompt]] = {"train": [], "validation": []}
    files: dict[str, int] = {}
    quarantine: list[dict[str, str | int]] = []  # places and reasons, never the content
    dropped: Counter[str] = Counter()
    rows_in = several = unlearnt = 0
    skipped: list[Path] = []
    sources = {split: source_files(spec, split, skipped) for split in _SPLITS}
    for paths in sources.values():
        require_one_schema(paths)
    for source, path in [(split, path) for split, paths in sources.items() for path in paths]:
        for line, prompt in load_prompts(path, spec, ctx.task, source):
            rows_in += 1
            if rows_in % 1000 == 0:
                ctx.progress.update(done=rows_in)
            if isinstance(prompt, BadRow):
                quarantine.append({"file": str(path), "line": line, "reason": str(prompt)})
            elif reason := ledger.reason_to_drop(prompt, path, line):
                dropped[reason] += 1
            else:
                several += (
                    spec.fields.reference in prompt.meta
                    and spec.fields.reference in json.loads(prompt.meta)
                )
                unlearnt += UNLEARNT in prompt.meta
                prompts = waiting[split := _split_of(prompt, spec, ctx.seed)]
                prompts.append(replace(prompt, split=split))
                if len(prompts) == spec.shard_rows:
                    _write_shard(prompts, out, files)
    for prompts in waiting.values():
        _write_shard(prompts, out, files)
    kept = {split: sum(rows for name, rows in files.items() if split in name) for split in waiting}
    warnings = []
    if quarantine:
        path = out / "data/quarantine.parquet"
        write_parquet(pa.Table.from_pylist(quarantine), path)
        files["data/quarantine.parquet"] = len(quarantine)
        reasons = Counter(str(row["reason"]) for row in quarantine)
        dropped += reasons
        message = (
            f"{len(quarantine)} of {rows_in} lines went to quarantine ({_listed(reasons)}): {path}"
        )
        if ctx.strict:
            first = "{file}:{line}: {reason}".format(**quarantine[0])
            raise InputError(
                f"prompts: {message}; correct them (first {first}), or run without --strict to"
                " leave them out"
            )
        warnings.append(f"{message}; --strict makes this an error")
    if several:
        warnings.append(
            f"{several:,} rows have several right answers in {spec.fields.reference!r}; the first"
            " is the reference, all are in meta"
        )
    if unlearnt:
        warnings.append(
            f"{unlearnt:,} conversations hold answers of weight 0, which only train.learn_turns:"
            " all would learn; leave it at `last`"
        )
    for split in waiting:
        if not kept[split]:
            message = f"none of {rows_in} rows is a {split} prompt (dropped: {_listed(dropped)})"
            if split == "train" or spec.validation:
                raise InputError(
                    f"prompts.{split}: {message}; correct the files, or map their columns in"
                    " prompts.fields"
                )
            warnings.append(
                f"{message}, so evaluate has nothing to score; raise prompts.validation_fraction"
            )
    skipped_files = {"skipped_files": sorted({str(path) for path in skipped})} if skipped else {}
    return Counts(
        rows_in, sum(kept.values()), files, dropped, {**kept, **skipped_files, "warnings": warnings}
    )


@dataclass(frozen=True)
class Head:
    """What the first rows of a source file give, each with its line, and the columns that no prompt
    reads."""

    path: Path
    good: list[tuple[int, Prompt]]
    bad: list[tuple[int, str]]  # reasons
    unread: list[str]

    def line(self, task: str, *, used: Collection[str] = ()) -> str:
        """What becomes of the rows in one sentence; columns that something else than the prompt
        uses are `used`."""
        from engine.rows.metrics import (
            usable_reference,
        )  # its metrics are libraries that a job without problems need not wait for

        given = [prompt.reference for _, prompt in self.good if prompt.reference is not None]
        reasons = Counter(reason for _, reason in self.bad)
        readable = sum(usable_reference(task, reference) is not None for reference in given)
        unread = [name for name in self.unread if name not in used]
        rows = len(self.good) + len(self.bad)
        told = [
            f"{len(self.good)} of its first {rows} rows become prompts"
            + (f" ({_listed(reasons)})" if reasons else "")
        ]
        told.append(f"{len(given)} have a reference, of which task {task} can read {readable}")
        if unread:
            told.append(f"not used: {', '.join(unread)}")
        return f"{self.path}: {'; '.join(told)}"


def heads(spec: PromptsSpec, split: str) -> list[Head]:
    """The head of each file of a split. InputError where the files of a source cannot be read
    together."""
    files = source_files(spec, split, [])[:_HEAD_FILES]
    require_one_schema(files)
    head = spec.model_copy(update={"limit": min(_HEAD_ROWS, spec.limit or _HEAD_ROWS)})
    known = columns_read(spec) | {UNLEARNT}
    found = []
    for path in files:
        rows = list(load_prompts(path, head, "", split))
        bad = [(line, str(prompt)) for line, prompt in rows if isinstance(prompt, BadRow)]
        good = [(line, prompt) for line, prompt in rows if isinstance(prompt, Prompt)]
        columns = dict.fromkeys(name for _, prompt in good for name in json.loads(prompt.meta))
        found.append(Head(path, good, bad, [name for name in columns if name not in known]))
    return found


def head_problems(spec: PromptsSpec) -> list[str]:
    """What is wrong with the sources, as far as their first rows tell; each message has place and
    remedy."""
    problems: list[str] = []
    prompts: list[Prompt] = []
    ledger, fields = Ledger(spec), spec.fields
    for split in _SPLITS:
        try:
            for head in heads(spec, split):
                for line, prompt in head.good:
                    ledger.reason_to_drop(prompt, head.path, line)
                prompts += [prompt for _, prompt in head.good]
                if not head.good:
                    line, reason = head.bad[0] if head.bad else (1, "no rows")
                    problems.append(
                        f"{head.path}:{line}: {reason}, and none of the first {_HEAD_ROWS} rows can"
                        " be used; correct the file, or map"
                        f" its columns in prompts.fields (now {fields.prompt!r} or"
                        f" {fields.messages!r}){_found_columns(head.path, spec)}"
                    )
        except InputError as error:
            problems.append(str(error))
    if (
        not problems
        and fields.reference != FieldMap().reference
        and all(prompt.reference is None for prompt in prompts)
    ):
        problems.append(
            f"prompts.fields.reference: no row has a {fields.reference!r}; correct the name of the"
            " column"
        )
    return problems


def holds_unlearnt(spec: PromptsSpec) -> bool:
    """Whether the first rows hold answers inside a conversation that are marked as not to be
    learnt; what cannot be read holds none."""
    with suppress(InputError):
        return any(
            UNLEARNT in prompt.meta
            for split in _SPLITS
            for head in heads(spec, split)
            for _, prompt in head.good
        )
    return False


def head_lines(spec: PromptsSpec, task: str, used: Collection[str]) -> list[str]:
    """A sentence per source file: what its first rows become, which references the task can read,
    and which columns nothing reads."""
    lines = [head.line(task, used=used) for split in _SPLITS for head in heads(spec, split)]
    skipped: list[Path] = []
    more = sum(max(0, len(source_files(spec, split, skipped)) - _HEAD_FILES) for split in _SPLITS)
    if more:
        lines.append(f"{more:,} more files were not looked at")
    if skipped:
        shown = ", ".join(map(str, skipped[:_SHOWN_FILES])) + (
            ", …" if len(skipped) > _SHOWN_FILES else ""
        )
        lines.append(f"{len(skipped):,} other files in these folders are not read: {shown}")
    return lines


def load_prompts(
    path: Path, spec: PromptsSpec, task: str, split: str
) -> Iterator[tuple[int, Prompt | BadRow]]:
    """The prompts of one file with their lines (rows of Parquet count from 1), and a BadRow for
    every line that gives none."""
    for line, row in islice(read_rows(path), spec.limit):
        try:
            yield (
                line,
                prompt_of(columns_of(row, spec.fields.prompt), path, line, spec, task, split),
            )
        except BadRow as bad:
            yield line, bad
        except (
            UnicodeError
        ):  # also a lone surrogate: `\ud800` in JSON, or a byte of a CSV file that is not UTF-8
            yield line, BadRow("invalid_utf8")
        except (ValueError, RecursionError):  # not JSON, or a number too long for Python
            yield line, BadRow("broken_json")


def _found_columns(path: Path, spec: PromptsSpec) -> str:
    """The columns of a file's first row that can be read, as the end of a sentence."""
    for _, row in islice(read_rows(path), _HEAD_ROWS):
        try:
            return f"; columns found: {', '.join(map(repr, columns_of(row)))}"
        except (BadRow, ValueError, RecursionError):
            continue
    return ""


class Seen(NamedTuple):
    """What is remembered of a row: enough to compare it with a later one."""

    sha256: bytes
    reference: int  # hash
    split: str
    file: int  # number in Ledger
    line: int


class Ledger:
    """What was read so far: finds repeated prompts and rows that contradict each other.

    It is a table of SQLite, which beyond a cache lies on disk: in dicts, ten million prompts take 4
    GB of the driver. Rows are small, because what does not fit the cache costs time.
    """

    def __init__(self, spec: PromptsSpec) -> None:
        self._spec = spec
        self._files: dict[Path, int] = {}
        self._seen = sqlite3.connect(
            "", isolation_level=None
        )  # "": a temporary file that goes with the connection
        columns = "sha256 BLOB, reference INTEGER, split TEXT, file INTEGER, line INTEGER"
        self._seen.executescript(
            # nobody reads it after a crash
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;"
            f"CREATE TABLE prompts (id INTEGER PRIMARY KEY, {columns});"
            f"CREATE TABLE source_ids (id TEXT PRIMARY KEY, {columns}) WITHOUT ROWID; BEGIN"
        )

    def reason_to_drop(self, prompt: Prompt, path: Path, line: int) -> str | None:
        """None for a new prompt. InputError where this row contradicts an earlier one."""
        file = self._files.setdefault(path, len(self._files))
        mine = Seen(
            bytes.fromhex(prompt.prompt_sha256), hash(prompt.reference), prompt.split, file, line
        )
        if column := self._spec.fields.id:
            first = self._first("source_ids", f"{prompt.split} {prompt.source_id}", mine)
            if first[:2] != mine[:2]:
                raise InputError(
                    f"{self._places(first, mine)}: a duplicate id with other content"
                    f" ({column}={prompt.source_id!r});"
                    " make the ids unique, or leave prompts.fields.id out"
                )
        first = self._first("prompts", prompt.prompt_id, mine)
        if first is mine:
            return None
        places = self._places(first, mine)
        if first.sha256 != mine.sha256:
            raise InputError(
                f"{places}: two prompts share the 63-bit id {prompt.prompt_id}; change one of them"
                " by a space"
            )
        if first.reference != mine.reference and self._spec.on_conflict == "error":
            raise InputError(
                f"{places}: equal messages, different references; correct one, or set"
                " prompts.on_conflict: first"
            )
        if first.split != mine.split:
            return "in_validation"
        return "duplicate" if first.reference == mine.reference else "other_reference"

    def _first(self, table: str, key: int | str, mine: Seen) -> Seen:
        """The first row of that key, which is `mine` if there was none."""
        if self._seen.execute(
            f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?, ?)", (key, *mine)
        ).rowcount:
            return mine
        return Seen(
            *self._seen.execute(
                f"SELECT sha256, reference, split, file, line FROM {table} WHERE id = ?", (key,)
            ).fetchone()
        )

    def _places(self, *rows: Seen) -> str:
        files = list(self._files)
        return " and ".join(f"{files[row.file]}:{row.line}" for row in rows)


def _write_shard(prompts: list[Prompt], out: Path, files: dict[str, int]) -> None:
    """Empty `prompts`, all of one split, into its next file."""
    if prompts:
        split = prompts[0].split
        name = f"data/{split}-{sum(split in file for file in files):05d}.parquet"
        write_parquet(to_table(prompts, PROMPT), out / name)
        files[name] = len(prompts)
        prompts.clear()


def _split_of(prompt: Prompt, spec: PromptsSpec, seed: int) -> str:
    """Without validation files the prompt alone decides, so that neither order nor number of rows
    moves it."""
    if spec.validation:
        return prompt.split
    return (
        "validation"
        if derive_seed(seed, "validation", prompt.prompt_id) < spec.validation_fraction * 2**31
        else "train"
    )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "none"
