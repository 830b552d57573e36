"""Stage 1, source files -> prompts: normalised, with stable ids, de-duplicated, split and sharded.

Every good line is kept, every other one counted by reason. The stage writes prompts only; it asks no model anything.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import pyarrow as pa

from engine.errors import InputError
from engine.progress import Context
from engine.records import PROMPT, Prompt, derive_seed, to_table, write_parquet
from engine.rundir import Counts
from engine.spec import FieldMap, PromptsSpec
from engine.stages.prompts.sources import BadRow, build_prompt, load_prompts, load_rows, source_files

logger = logging.getLogger(__name__)

_QUARANTINE = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string())])  # never the content
_HEAD_FILES = 8


def run(spec: PromptsSpec, inputs: dict[str, Path], out: Path, ctx: Context) -> Counts:
    """Read all sources once. InputError: nothing usable, contradictory rows, or (`ctx.strict`) any bad line."""
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(spec)
    shards = {split: Shards(data, split, spec.shard_rows) for split in ("train", "validation")}
    quarantine: list[tuple[str, int, str]] = []
    dropped: Counter[str] = Counter()
    rows_in = 0
    for split, path in _sources(spec):
        for line, prompt in load_prompts(path, spec, ctx.task, split):
            rows_in += 1
            if rows_in % 1000 == 0:
                ctx.progress.update(done=rows_in)
            if isinstance(prompt, BadRow):
                quarantine.append((str(path), line, str(prompt)))
            elif reason := ledger.reason_to_drop(prompt, path, line):
                dropped[reason] += 1
            else:
                shards["validation" if split == "validation" or _is_held_out(prompt, spec, ctx.seed) else "train"].add(prompt)
    files = {name: rows for split in shards.values() for name, rows in split.close().items()}
    reasons = Counter(reason for _, _, reason in quarantine)
    if quarantine:
        files["data/quarantine.parquet"] = len(quarantine)
        _report_quarantine(quarantine, reasons, rows_in, data / "quarantine.parquet", ctx.strict)
    if not shards["train"].rows:
        raise InputError(
            f"prompts.train: none of {rows_in} rows is a training prompt (dropped: {dict(dropped + reasons)}); correct the files,"
            f" or map their columns in prompts.fields (prompt={spec.fields.prompt!r}, messages={spec.fields.messages!r})"
        )
    if not shards["validation"].rows:
        message = f"prompts: no validation prompt among {rows_in} rows (dropped: {dict(dropped + reasons)})"
        if spec.validation is not None:
            raise InputError(f"{message}; correct prompts.validation")
        logger.warning("%s; evaluate has nothing to score: raise prompts.validation_fraction or give prompts.validation", message)
    kept = {split: written.rows for split, written in shards.items()}
    return Counts(rows_in, sum(kept.values()), files, dict(dropped + reasons), {**kept, "quarantined": len(quarantine)})


def head_problems(spec: PromptsSpec, rows: int = 100) -> list[str]:
    """What is wrong with the sources, as far as their first `rows` rows tell; each message has place and remedy."""
    problems = []
    for split, source in (("validation", spec.validation), ("train", spec.train)):
        try:
            files = source_files(source, f"prompts.{split}") if source is not None else []
        except InputError as error:
            problems.append(str(error))
            continue
        ledger = Ledger(spec)
        for path in files[:_HEAD_FILES]:  # a folder may hold thousands
            try:
                problems += _head_of(path, spec, split, ledger, rows)
            except InputError as error:
                problems.append(str(error))
    return problems


class Ledger:
    """What was read so far: finds repeated prompts and rows that contradict each other."""

    def __init__(self, spec: PromptsSpec) -> None:
        self._on_conflict, self._id_column = spec.on_conflict, spec.fields.id
        self._by_prompt: dict[int, tuple[str, int, str, Path, int]] = {}  # prompt_id -> sha256, hash of reference, split, place
        self._by_source_id: dict[tuple[str, str], tuple[int, Path, int]] = {}

    def reason_to_drop(self, prompt: Prompt, path: Path, line: int) -> str | None:
        """None for a new prompt. InputError where this row contradicts an earlier one."""
        if self._id_column:
            content = hash((prompt.prompt_sha256, prompt.reference))
            first = self._by_source_id.setdefault((prompt.split, prompt.source_id), (content, path, line))
            if first[0] != content:
                raise InputError(
                    f"{first[1]}:{first[2]} and {path}:{line}: a duplicate id with other content"
                    f" ({self._id_column}={prompt.source_id!r}); make the ids unique, or leave prompts.fields.id out"
                )
        mine = (prompt.prompt_sha256, hash(prompt.reference), prompt.split, path, line)
        sha256, reference, split, *place = self._by_prompt.setdefault(prompt.prompt_id, mine)
        if tuple(place) == (path, line):
            return None
        places = f"{place[0]}:{place[1]} and {path}:{line}"
        if sha256 != mine[0]:
            raise InputError(f"{places}: two prompts share the 63-bit id {prompt.prompt_id}; change one of them by a space")
        if reference != mine[1] and self._on_conflict == "error":
            raise InputError(f"{places}: equal messages, different references; correct one, or set prompts.on_conflict: first")
        if split != prompt.split:
            return "in_validation"
        return "duplicate" if reference == mine[1] else "other_reference"


class Shards:
    """One split's prompts, written as numbered Parquet files of `shard_rows` rows."""

    def __init__(self, data: Path, split: str, shard_rows: int) -> None:
        self._data, self._split, self._shard_rows = data, split, shard_rows
        self._waiting: list[Prompt] = []
        self._files: dict[str, int] = {}
        self.rows = 0

    def add(self, prompt: Prompt) -> None:
        self._waiting.append(prompt if prompt.split == self._split else dataclasses.replace(prompt, split=self._split))
        self.rows += 1
        if len(self._waiting) == self._shard_rows:
            self._write()

    def close(self) -> dict[str, int]:
        """Files written, relative to the stage's folder, with their rows."""
        if self._waiting:
            self._write()
        return self._files

    def _write(self) -> None:
        name = f"{self._split}-{len(self._files):05d}.parquet"
        write_parquet(to_table(self._waiting, PROMPT), self._data / name)
        self._files[f"data/{name}"] = len(self._waiting)
        self._waiting = []


def _sources(spec: PromptsSpec) -> list[tuple[str, Path]]:
    """(split, file), validation first: a prompt that is in both stays there."""
    named = (("validation", spec.validation), ("train", spec.train))
    return [(split, path) for split, source in named if source is not None for path in source_files(source, f"prompts.{split}")]


def _is_held_out(prompt: Prompt, spec: PromptsSpec, seed: int) -> bool:
    """Decided by the prompt alone, so that neither order nor number of rows moves it."""
    return spec.validation is None and derive_seed(seed, "validation", prompt.prompt_id) < spec.validation_fraction * 2**31


def _report_quarantine(rows: list[tuple[str, int, str]], reasons: Counter[str], rows_in: int, path: Path, strict: bool) -> None:
    write_parquet(pa.Table.from_pylist([dict(zip(_QUARANTINE.names, row, strict=True)) for row in rows], _QUARANTINE), path)
    first = "{}:{}: {}".format(*rows[0])
    message = f"prompts: {len(rows)} of {rows_in} lines cannot be used {dict(reasons)}, the first is {first}; {path} lists all"
    if strict:
        raise InputError(f"{message}. Correct them, or run without --strict to leave them out")
    logger.warning("%s", message)


def _head_of(path: Path, spec: PromptsSpec, split: str, ledger: Ledger, rows: int) -> list[str]:
    columns: set[str] = set()
    first_bad: tuple[int, str] | None = None
    good = 0
    for line, values in load_rows(path, min(rows, spec.limit or rows)):
        try:
            if isinstance(values, BadRow):
                raise values
            columns |= values.keys()
            prompt = build_prompt(values, path, line, spec, "", split)
            ledger.reason_to_drop(prompt, path, line)
            good += 1
        except BadRow as bad:
            first_bad = first_bad or (line, str(bad))
    fields, found = spec.fields, f"columns found: {', '.join(sorted(map(str, columns))) or 'none'}"
    if not first_bad and not good:
        return [f"{path}:1: no rows; fill the file, or take it out of prompts.{split}"]
    problems = []
    if columns and not columns & {fields.prompt, fields.messages}:
        return [f"{path}:1: no column {fields.prompt!r} or {fields.messages!r}; map them in prompts.fields ({found})"]
    if not good:
        line, reason = first_bad
        problems.append(f"{path}:{line}: {reason}, and none of the first {rows} rows can be used; correct the file ({found})")
    for name in ("id", "system", "reference"):
        column = getattr(fields, name)
        if columns and column not in (None, getattr(FieldMap(), name), *columns):
            problems.append(f"{path}:1: no column {column!r}, but prompts.fields.{name} names it; correct the name ({found})")
    return problems
