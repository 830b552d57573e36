"""The stage's files, and the figures that are a function of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.loadgen.observer import Observed
from engine.rows.records import (
    LOAD_LEVEL,
    REQUEST_SAMPLE,
    TIME_SLICE,
    LoadLevel,
    RequestSample,
    TimeSlice,
)
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.stages.loadtest.figures import figures_of
from engine.stages.loadtest.files import Measured, from_rows
from engine.stages.loadtest.files import to_rows as rows_of
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.server_rows import LevelKey, from_server_table, to_server_table
from engine.stages.loadtest.server_time import server_time
from engine.stages.loadtest.timeline import timeline_of

SAMPLES = "data/samples.parquet"  # every request
LEVELS = "data/levels.parquet"  # one row per model and level
SERVER = "data/server.parquet"  # what the server said of itself
TIMELINE = "data/timeline.parquet"  # all of it on one time axis, for plots


def write_measured(
    out: Path, measured: Sequence[Measured], observed: Sequence[Observed]
) -> dict[str, int]:
    """Write them; `observed` is of the same levels in the same order. Returns their rows."""
    levels, samples = rows_of(measured)
    keys = [(row.model, row.level) for row in levels]
    server = to_server_table(dict(zip(keys, observed, strict=True)))
    slices: list[TimeSlice] = []
    for key, each, seen in zip(keys, measured, observed, strict=True):
        slices += timeline_of(*key, each.level, seen.observations)
    tables = {
        SAMPLES: to_table(samples, REQUEST_SAMPLE),
        LEVELS: to_table(levels, LOAD_LEVEL),
        SERVER: server,
        TIMELINE: to_table(slices, TIME_SLICE),
    }
    (out / SAMPLES).parent.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_parquet(table, out / name)
    return {name: table.num_rows for name, table in tables.items()}


def read_levels(out: Path) -> list[LoadLevel]:
    """The rows of LEVELS."""
    (table,) = read_tables([out / LEVELS])
    return to_rows(table, LoadLevel)


def read_slices(out: Path) -> list[TimeSlice]:
    """The rows of TIMELINE."""
    (table,) = read_tables([out / TIMELINE])
    return to_rows(table, TimeSlice)


def entries_in(out: Path, slo: Slo | None) -> dict[str, list[dict[str, Any]]]:
    """{model: levels as in report.json}, from the files of a folder alone."""
    sample_table, server_table = read_tables([out / SAMPLES, out / SERVER])
    levels = read_levels(out)
    measured = from_rows(levels, to_rows(sample_table, RequestSample))
    observed = from_server_table(server_table)
    found: dict[str, list[dict[str, Any]]] = {}
    for row, each in zip(levels, measured, strict=True):
        entry = entry_of(each, observed[key_of(row)], slo)
        found.setdefault(row.model, []).append(entry)
    return found


def key_of(row: LoadLevel) -> LevelKey:
    """What names a level in all files."""
    return row.model, row.level


def entry_of(measured: Measured, observed: Observed, slo: Slo | None) -> dict[str, Any]:
    """One level as in report.json."""
    figures = figures_of(measured.level, measured.ceiling, slo)
    return figures | {"server": server_time(measured.level, observed)}
