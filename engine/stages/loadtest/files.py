"""Levels <-> the rows of the stage's two tables. What is read back gives the same figures."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.loadgen.samples import Ceiling, Level, Sample, Watch
from engine.rows.records import LoadLevel, RequestSample
from engine.stages.loadtest.series import tpot_ms


@dataclass(frozen=True)
class Measured:
    """One level on one model, and what the client could have done at most."""

    model: str
    level: Level
    ceiling: Ceiling | None = None


def label_of(level: Level) -> str:
    """What was asked: `concurrency=4`, `rate=2.5`, `users=8`, `trace`."""
    if level.kind == "trace":
        return level.kind
    if level.kind == "sessions":
        return f"users={level.concurrency}"
    if level.concurrency is not None:
        return f"concurrency={level.concurrency}"
    if level.rate is not None:
        return f"rate={level.rate:g}"
    return level.kind


def to_rows(measured: Iterable[Measured]) -> tuple[list[LoadLevel], list[RequestSample]]:
    """In order; a load that was tried again is `rate=2.5 #2`, so that (model, level) is a key."""
    levels: list[LoadLevel] = []
    samples: list[RequestSample] = []
    tries: Counter[tuple[str, str]] = Counter()
    for each in measured:
        label = label_of(each.level)
        tries[each.model, label] += 1
        number = tries[each.model, label]
        if number > 1:
            label += f" #{number}"
        levels.append(_level_row(each, label))
        for sample in each.level.samples:
            samples.append(_sample_row(sample, each, label))
    return levels, samples


def _level_row(measured: Measured, label: str) -> LoadLevel:
    level = measured.level
    events_per_core_s: float | None = None
    requests_per_core_s: float | None = None
    processes: int | None = None
    if measured.ceiling is not None:
        events_per_core_s = measured.ceiling.events_per_core_s
        requests_per_core_s = measured.ceiling.requests_per_core_s
        processes = measured.ceiling.processes
    watches = [_watch_row(watch) for watch in level.watches]
    return LoadLevel(
        model=measured.model,
        level=label,
        kind=level.kind,
        concurrency=level.concurrency,
        rate=level.rate,
        started_s=level.started_s,
        window_s=level.window_s,
        warmup_s=level.warmup_s,
        seed=level.seed,
        scheduled=level.scheduled,
        watches=watches,
        ceiling_events_per_core_s=events_per_core_s,
        ceiling_requests_per_core_s=requests_per_core_s,
        ceiling_processes=processes,
    )


def _watch_row(watch: Watch) -> dict[str, Any]:
    row = dataclasses.asdict(watch)
    return row | {"loop_lag_ms": list(watch.loop_lag_ms)}


def _sample_row(sample: Sample, measured: Measured, label: str) -> RequestSample:
    """`warm` and `tpot_ms` follow from the others; they stand there for who reads the file."""
    return RequestSample(
        model=measured.model,
        level=label,
        warm=is_warm(sample, measured.level),
        tpot_ms=tpot_ms(sample),
        **vars(sample),
    )


def is_warm(sample: Sample, level: Level) -> bool:
    """Meant to leave outside the window."""
    return not 0 <= sample.intended_ms < level.window_s * 1000


def from_rows(
    levels: Sequence[LoadLevel],
    samples: Iterable[RequestSample],
) -> list[Measured]:
    """The levels that such rows say, in their order."""
    of_level: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    names = [column.name for column in dataclasses.fields(Sample)]
    for row in samples:
        values = {name: getattr(row, name) for name in names}
        of_level[row.model, row.level].append(Sample(**values))
    return [_measured(row, of_level[row.model, row.level]) for row in levels]


def _measured(row: LoadLevel, samples: list[Sample]) -> Measured:
    watches = []
    for watch in row.watches:
        values: dict[str, Any] = dict(watch)
        values["loop_lag_ms"] = tuple(watch["loop_lag_ms"])
        watches.append(Watch(**values))
    level = Level(
        kind=row.kind,
        concurrency=row.concurrency,
        rate=row.rate,
        window_s=row.window_s,
        warmup_s=row.warmup_s,
        started_s=row.started_s,
        seed=row.seed,
        scheduled=row.scheduled,
        samples=samples,
        watches=watches,
    )
    return Measured(row.model, level, _ceiling(row))


def _ceiling(row: LoadLevel) -> Ceiling | None:
    events = row.ceiling_events_per_core_s
    requests = row.ceiling_requests_per_core_s
    if events is None or requests is None:
        return None
    return Ceiling(events, requests, row.ceiling_processes or 1)
