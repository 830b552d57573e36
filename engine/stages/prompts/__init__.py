"""Stage 1, source files -> prompts: normalised, with stable ids, de-duplicated, split and sharded.

Every good line is kept, every other one counted by reason. The stage writes prompts only; it asks
no model anything. Rows are read once. Where prompts are compared with each other or with test data
they are put aside first, and written when it is known which of them stay (choosing.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.errors import InputError
from engine.job.spec import PromptsSpec
from engine.rows.records import PROMPT
from engine.rows.sources.readers import require_one_schema
from engine.rows.tables import write_parquet
from engine.run.context import Context
from engine.run.facts import PromptsInfo
from engine.run.manifests import QUARANTINE, Counts, Finished
from engine.stages.prompts.drawing import is_for_validation
from engine.stages.prompts.intake import Intake
from engine.stages.prompts.reading import SPLITS, Batch, files_of, listed
from engine.stages.prompts.rows import DIALOGUE
from engine.stages.prompts.shards import Shards
from engine.stages.prompts.side_by_side import batches, spread_for
from engine.stages.prompts.staged import Staged
from engine.store.paths import Folder, remove_tree

if TYPE_CHECKING:
    from engine.stages.prompts.choosing import Chosen

_TWINS = "twins.parquet"
_STAGED_ROWS = 8192


def run(spec: PromptsSpec, inputs: Mapping[str, Finished], out: Folder, ctx: Context) -> Counts:
    """Read all sources once. InputError: nothing usable, contradictory rows, test data or columns
    that are named and not there, or (`ctx.strict`) any bad line."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    skipped: list[Path] = []
    sources = {split: files_of(spec, split, skipped) for split in SPLITS}
    for paths in sources.values():
        require_one_schema(paths)
    intake = Intake(spec)
    shards = Shards(out, spec.shard_rows)
    chosen: Chosen | None = None
    with _scratch(out) as scratch, spread_for(spec, sources) as spread:
        read = batches(sources, spec, ctx.task, scratch, spread)
        tables = _kept(intake, read, ctx)
        if spec.is_choosy:
            from engine.stages.prompts.choosing import choose  # `check` and `plan` need none of it

            staged = _put_aside(tables, scratch)
            chosen = choose(staged, spec, ctx.seed, spread)
            _write_chosen(shards, staged, chosen)
        else:
            for table in tables:
                _write(shards, table, is_for_validation(table, spec, ctx.seed))
    shards.finish()
    return _counts(spec, out, ctx, intake, shards.files, chosen, skipped)


@contextmanager
def _scratch(out: Folder) -> Generator[Folder]:
    """A folder for what was read, which goes with the block; that of a run that was killed too."""
    folder = out / "read"
    if folder.exists():
        remove_tree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            remove_tree(folder)


def _kept(intake: Intake, read: Iterable[Batch], ctx: Context) -> Iterator[pa.Table]:
    for batch in read:
        yield intake.kept(batch)
        ctx.progress.update(done=intake.rows_in)


def _put_aside(tables: Iterable[pa.Table], scratch: Folder) -> Staged:
    aside = Shards(scratch, _STAGED_ROWS)
    for table in tables:
        aside.add("prompts", table)
    aside.finish()
    paths = [scratch / name for name in aside.files]
    return Staged(paths, list(aside.files.values()))


def _write_chosen(shards: Shards, staged: Staged, chosen: Chosen) -> None:
    for start, table in staged.tables():
        rows = slice(start, start + len(table))
        is_kept = chosen.is_kept_N[rows]
        kept = table.filter(pa.array(is_kept))
        _write(shards, kept, chosen.is_validation_N[rows][is_kept])


def _write(shards: Shards, table: pa.Table, is_validation_N: np.ndarray) -> None:
    place = PROMPT.get_field_index("split")
    for split, wanted in (("validation", is_validation_N), ("train", ~is_validation_N)):
        part = table.filter(pa.array(wanted)).select(PROMPT.names)
        if len(part):
            column = pa.array([split] * len(part))
            part = part.set_column(place, PROMPT.field(place), column)
            # Parquet has other names inside a list's type, which would be written too
            shards.add(f"data/{split}", part.cast(PROMPT))


def _counts(
    spec: PromptsSpec,
    out: Folder,
    ctx: Context,
    intake: Intake,
    files: dict[str, int],
    chosen: Chosen | None,
    skipped: list[Path],
) -> Counts:
    """What is published, with all that is doubtful."""
    kept = {split: _rows_of(files, split) for split in ("train", "validation")}
    warnings = []
    if intake.quarantine:
        warnings.append(_quarantine(intake, out, ctx))
        files[QUARANTINE] = len(intake.quarantine)
    warnings += _doubts(intake, spec)
    info = PromptsInfo(
        train=kept["train"],
        validation=kept["validation"],
        labels=spec.fields.labels,
        cluster_by=_cluster_column(spec),
        skipped_files=sorted(set(map(str, skipped))),
    )
    if chosen is not None:
        intake.dropped += chosen.dropped
        warnings += chosen.warnings
        info = info.model_copy(update={"contaminated_by": dict(chosen.contaminated_by)})
        if len(chosen.twins):
            write_parquet(chosen.twins, out / _TWINS)
            files[_TWINS] = len(chosen.twins)
    warnings += _empty_splits(kept, intake, spec)
    info = info.model_copy(update={"warnings": warnings})
    return Counts(intake.rows_in, sum(kept.values()), files, intake.dropped, info)


def _cluster_column(spec: PromptsSpec) -> str | None:
    """What `evaluate` counts as one."""
    if spec.split_column is not None:
        return spec.split_column
    return DIALOGUE if spec.turns == "each" else None


def _rows_of(files: Mapping[str, int], split: str) -> int:
    return sum(rows for name, rows in files.items() if split in name)


def _quarantine(intake: Intake, out: Folder, ctx: Context) -> str:
    """Write the lines that give no prompt, and warn of them. InputError in a strict run."""
    rows = intake.quarantine
    path = out / QUARANTINE
    write_parquet(pa.Table.from_pylist(rows), path)
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


def _doubts(intake: Intake, spec: PromptsSpec) -> list[str]:
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


def _empty_splits(kept: dict[str, int], intake: Intake, spec: PromptsSpec) -> list[str]:
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
