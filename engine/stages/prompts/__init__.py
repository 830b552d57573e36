"""Stage 1, source files -> prompts: normalised, with stable ids, de-duplicated, split and sharded.

Every good line is kept, every other one counted by reason. The stage writes prompts only; it asks
no model anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from engine.errors import InputError
from engine.job.spec import PromptsSpec
from engine.rows.ids import derive_seed
from engine.rows.records import PROMPT, Prompt
from engine.rows.sources.readers import require_one_schema
from engine.rows.sources.source_row import BadRow
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import PromptsInfo
from engine.run.manifests import Counts, Finished
from engine.stages.prompts.ledger import Ledger
from engine.stages.prompts.reading import SPLITS, files_of, listed, read_prompts
from engine.stages.prompts.rows import DIALOGUE, UNLEARNT

_QUARANTINE = "data/quarantine.parquet"


def run(spec: PromptsSpec, inputs: Mapping[str, Finished], out: Path, ctx: Context) -> Counts:
    """Read all sources once. InputError: nothing usable, contradictory rows, or (`ctx.strict`) any
    bad line."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    skipped: list[Path] = []
    sources = {split: files_of(spec, split, skipped) for split in SPLITS}
    for paths in sources.values():
        require_one_schema(paths)
    intake = _Intake(spec, ctx, out)
    for split, paths in sources.items():
        for path in paths:
            for line, prompt in read_prompts(path, spec, ctx.task, split):
                intake.add(prompt, path, line)
    intake.write_rest()
    kept = {split: _rows_of(intake.files, split) for split in ("train", "validation")}
    warnings = []
    if intake.quarantine:
        warnings.append(_quarantine(intake, out, ctx))
    warnings += _doubts(intake, spec) + _empty_splits(kept, intake, spec)
    info = PromptsInfo(
        train=kept["train"],
        validation=kept["validation"],
        labels=spec.fields.labels,
        warnings=warnings,
    )
    if spec.turns == "each":
        info = info.model_copy(update={"cluster_by": DIALOGUE})
    if skipped:
        info = info.model_copy(update={"skipped_files": sorted(set(map(str, skipped)))})
    return Counts(intake.rows_in, sum(kept.values()), intake.files, intake.dropped, info)


class _Intake:
    """What became of the rows read so far. A shard is written as soon as it is full."""

    def __init__(self, spec: PromptsSpec, ctx: Context, out: Path) -> None:
        self._spec = spec
        self._ctx = ctx
        self._out = out
        self._ledger = Ledger(spec)
        self._waiting: dict[str, list[Prompt]] = {"train": [], "validation": []}
        self.files: dict[str, int] = {}
        self.quarantine: list[dict[str, str | int]] = []  # places and reasons, never the content
        self.dropped: Counter[str] = Counter()
        self.rows_in = 0
        self.several = 0  # rows of several right answers
        self.unlearnt = 0  # rows with answers that are not to be learnt

    def add(self, prompt: Prompt | BadRow, path: Path, line: int) -> None:
        """One row, or what is wrong with it."""
        self.rows_in += 1
        if self.rows_in % 1000 == 0:
            self._ctx.progress.update(done=self.rows_in)
        if isinstance(prompt, BadRow):
            self.quarantine.append({"file": str(path), "line": line, "reason": str(prompt)})
        elif reason := self._ledger.reason_to_drop(prompt, path, line):
            self.dropped[reason] += 1
        else:
            self._keep(prompt)

    def _keep(self, prompt: Prompt) -> None:
        self.several += len(prompt.references) > 1
        self.unlearnt += UNLEARNT in prompt.meta
        split = _split_of(prompt, self._spec, self._ctx.seed)
        prompts = self._waiting[split]
        prompts.append(replace(prompt, split=split))
        if len(prompts) == self._spec.shard_rows:
            self._write_shard(split)

    def write_rest(self) -> None:
        """Write the shards that are not full."""
        for split, prompts in self._waiting.items():
            if prompts:
                self._write_shard(split)

    def _write_shard(self, split: str) -> None:
        prompts = self._waiting[split]
        number = sum(split in name for name in self.files)
        name = f"data/{split}-{number:05d}.parquet"
        write_parquet(to_table(prompts, PROMPT), self._out / name)
        self.files[name] = len(prompts)
        prompts.clear()


def _rows_of(files: dict[str, int], split: str) -> int:
    return sum(rows for name, rows in files.items() if split in name)


def _quarantine(intake: _Intake, out: Path, ctx: Context) -> str:
    """Write the lines that give no prompt, and warn of them. InputError in a strict run."""
    rows = intake.quarantine
    path = out / _QUARANTINE
    write_parquet(pa.Table.from_pylist(rows), path)
    intake.files[_QUARANTINE] = len(rows)
    reasons = Counter(str(row["reason"]) for row in rows)
    intake.dropped += reasons
    message = (
        f"{len(rows)} of {intake.rows_in} lines went to quarantine ({listed(reasons)}): {path}"
    )
    if ctx.strict:
        first = "{file}:{line}: {reason}".format(**rows[0])
        raise InputError(
            f"prompts: {message}; correct them (first {first}), or run without --strict to"
            " leave them out"
        )
    return f"{message}; --strict makes this an error"


def _doubts(intake: _Intake, spec: PromptsSpec) -> list[str]:
    """What is usable, but may not be meant."""
    warnings = []
    if intake.several:
        warnings.append(
            f"{intake.several:,} rows have several right answers in {spec.fields.reference!r}; each"
            " of them counts"
        )
    if intake.unlearnt:
        warnings.append(
            f"{intake.unlearnt:,} conversations hold answers of weight 0, which only"
            " train.learn_turns: all would learn; leave it at `last`"
        )
    return warnings


def _empty_splits(kept: dict[str, int], intake: _Intake, spec: PromptsSpec) -> list[str]:
    """Warnings of a split without a prompt. InputError where the job needs it or names its
    files."""
    warnings = []
    dropped = listed(intake.dropped)
    for split, rows in kept.items():
        if rows:
            continue
        message = f"none of {intake.rows_in} rows is a {split} prompt (dropped: {dropped})"
        if split == "train" or spec.validation:
            raise InputError(
                f"prompts.{split}: {message}; correct the files, or map their columns in"
                " prompts.fields"
            )
        warnings.append(
            f"{message}, so evaluate has nothing to score; raise prompts.validation_fraction"
        )
    return warnings


def _split_of(prompt: Prompt, spec: PromptsSpec, seed: int) -> str:
    """Without validation files the prompt alone decides, or the dialogue that it is of, so that
    neither order nor number of rows moves it."""
    if spec.validation:
        return prompt.split
    whole: int | str = prompt.prompt_id
    if spec.turns == "each":
        whole = json.loads(prompt.meta)[DIALOGUE]
    drawn = derive_seed(seed, "validation", whole)
    if drawn < spec.validation_fraction * 2**31:
        return "validation"
    return "train"
