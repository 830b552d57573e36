"""Large sources are read by several processes of this machine, each a part of a file at a time.

Not by a cluster's tasks: sources need to lie only where the command runs. What is small is read in
this process, because a process takes longer to start than its rows to read. The prompts and their
order are the same either way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from engine.backends.processes import Processes, Spread, here
from engine.job.spec import PromptsSpec
from engine.rows.sources.parts import Part, parts_of
from engine.rows.tables import read_tables, write_parquet
from engine.stages.prompts.reading import READ, Batch, batches_of
from engine.store.paths import Folder

LARGE_BYTES = 64 * 2**20
PART_BYTES = 16 * 2**20
Sources = Mapping[str, Sequence[Path]]  # by split


class Order(NamedTuple):
    """A part of a source, to be read."""

    number: int
    part: Part
    split: str


class _Written(NamedTuple):
    """A part that was read: where its prompts lie, and its bad rows."""

    source: Path
    prompts: Folder
    bad: list[tuple[int, str]]


def spread_for(spec: PromptsSpec, sources: Sources) -> AbstractContextManager[Spread]:
    """Who reads them, and compares them later, in this block."""
    size_bytes = 0
    for paths in sources.values():
        size_bytes += sum(path.stat().st_size for path in paths)
    workers = spec.workers or len(os.sched_getaffinity(0))
    if size_bytes < LARGE_BYTES or workers < 2:
        return nullcontext(here)
    return Processes(workers)


def batches(
    sources: Sources, spec: PromptsSpec, task: str, scratch: Folder, spread: Spread
) -> Iterator[Batch]:
    """All prompts, in the order of splits, files and lines."""
    if spread is here:
        for split, paths in sources.items():
            for path in paths:
                yield from batches_of(Part(path), split, spec, task)
        return
    orders = _orders(sources, spec)
    for written in spread(partial(_write, spec, task, scratch), orders):
        for table in read_tables([written.prompts]):
            yield Batch(written.source, table, written.bad)
        written.prompts.unlink()


def _orders(sources: Sources, spec: PromptsSpec) -> list[Order]:
    orders: list[Order] = []
    for split, paths in sources.items():
        for path in paths:
            parts = parts_of(path, PART_BYTES) if spec.limit is None else [Part(path)]
            for part in parts:
                orders.append(Order(len(orders), part, split))
    return orders


def _write(spec: PromptsSpec, task: str, scratch: Folder, order: Order) -> _Written:
    """Read a part, and put its prompts into a file of their own."""
    tables = [READ.empty_table()]
    bad: list[tuple[int, str]] = []
    for batch in batches_of(order.part, order.split, spec, task):
        tables.append(batch.table)
        bad += batch.bad
    target = scratch / f"part-{order.number:05d}.parquet"
    write_parquet(pa.concat_tables(tables), target)
    return _Written(order.part.path, target, bad)
