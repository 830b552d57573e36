"""What the first rows of a job's sources say of its work: how many rows, and how long their prompts
are. Nothing is read whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from engine.errors import InputError
from engine.job.spec import JobSpec
from engine.machines.work import CHARACTERS, Seen
from engine.rows.records import Prompt
from engine.rows.sources.readers import kind_of
from engine.stages.prompts.heads import heads
from engine.stages.prompts.reading import files_of

_COUNTED_BYTES = 64 * 2**20  # of a file whose lines are counted; longer ones are estimated
_LINES = {".jsonl", ".ndjson", ".csv", ".tsv"}


def seen_data(job: JobSpec) -> Seen:
    """Rows and lengths; nothing of a split whose files are not there."""
    rows, tokens = _of_split(job, "train")
    validation, _ = _of_split(job, "validation")
    if rows is None:
        return Seen()
    if job.prompts.validation is None:
        validation = round(rows * job.prompts.validation_fraction)
        rows -= validation
    return Seen(rows, validation, tokens)


def _of_split(job: JobSpec, split: str) -> tuple[int | None, float | None]:
    """Rows and mean tokens of a prompt."""
    try:
        found = heads(job.prompts, split)
        files = files_of(job.prompts, split, [])
    except InputError:
        return None, None
    prompts: list[Prompt] = []
    of_heads = 0
    for head in found:
        prompts += [prompt for _, prompt in head.good]
        of_heads += len(head.good) + len(head.bad)
    if not prompts:
        return None, None
    limit = job.prompts.limit
    rows = 0
    for path in files:
        count = _rows_in(path, of_heads)
        rows += count if limit is None else min(count, limit)
    usable = len(prompts) / max(1, of_heads)
    characters = sum(prompt.characters for prompt in prompts) / len(prompts)
    return round(rows * usable), characters / CHARACTERS


def _rows_in(path: Path, of_heads: int) -> int:
    """Rows of a file: told by Parquet, counted or estimated in lines; else what its head has."""
    kind = kind_of(path)
    if kind == ".parquet":
        return pq.read_metadata(path).num_rows
    if kind not in _LINES or path.suffix.lower() != kind:  # a compressed one is not unpacked
        return of_heads
    with path.open("rb") as file:
        start = file.read(_COUNTED_BYTES)
    lines = start.count(b"\n") + (not start.endswith(b"\n"))
    size = path.stat().st_size
    return round(lines * size / max(1, len(start)))
