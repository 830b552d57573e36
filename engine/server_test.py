"""A load test without a job: what was measured on a server -> files, and the report that is a
function of them.

It measures nothing: levels come from engine/loadgen, their figures from the loadtest stage and the
pages from the report stage, which know nothing of each other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from engine.run.identity import git_commit, versions
from engine.stages.loadtest import LEVELS, SAMPLES, files
from engine.stages.loadtest.figures import figures_of
from engine.stages.loadtest.files import Measured
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.server_rows import from_server_table, to_server_table
from engine.stages.loadtest.server_time import server_time
from engine.stages.loadtest.timeline import timeline_of
from engine.stages.report.load_page import LoadReport, build_files
from engine.stages.report.peers import Peer
from engine.store.files import write_atomic

SERVER = "data/server.parquet"
TIMELINE = "data/timeline.parquet"


@dataclass(frozen=True)
class ServerTest:
    """A finished test of one model on one server."""

    url: str
    model: str
    slo: Slo | None = None
    found: Mapping[str, Any] | None = None  # of a search for the knee, with its `sentence`
    doubts: Sequence[str] = ()  # sentences, as of tokens that were counted again
    peers: Sequence[Peer] = ()


def write_measured(out: Path, measured: Sequence[Measured], observed: Sequence[Observed]) -> None:
    """The files that hold everything: samples, levels, what the server said; `observed` is of the
    same levels in the same order."""
    levels, samples = files.to_rows(measured)
    keys = [(row.model, row.level) for row in levels]
    (out / SAMPLES).parent.mkdir(parents=True, exist_ok=True)
    write_parquet(to_table(samples, REQUEST_SAMPLE), out / SAMPLES)
    write_parquet(to_table(levels, LOAD_LEVEL), out / LEVELS)
    server = to_server_table(dict(zip(keys, observed, strict=True)))
    write_parquet(server, out / SERVER)


def write_report(out: Path, test: ServerTest) -> list[Path]:
    """From those files alone: the time axis, and the report as JSON, Markdown and HTML. Returns
    the report's files."""
    level_table, sample_table, server_table = read_tables(
        [out / LEVELS, out / SAMPLES, out / SERVER]
    )
    levels = to_rows(level_table, LoadLevel)
    measured = files.from_rows(levels, to_rows(sample_table, RequestSample))
    observed = from_server_table(server_table)
    keys = [(row.model, row.level) for row in levels]
    entries = []
    slices: list[TimeSlice] = []
    for key, each in zip(keys, measured, strict=True):
        figures = figures_of(each.level, each.ceiling, test.slo)
        entries.append(figures | {"server": server_time(each.level, observed[key])})
        slices += timeline_of(*key, each.level, observed[key].observations)
    write_parquet(to_table(slices, TIME_SLICE), out / TIMELINE)
    report = LoadReport(
        url=test.url,
        model=test.model,
        started_at=_started_at(levels),
        levels=entries,
        slices=slices,
        found=dict(test.found) if test.found else None,
        peers=test.peers,
        doubts=test.doubts,
        versions=versions(),
        git_commit=git_commit(),
    )
    written = []
    for name, text in build_files(report).items():
        write_atomic(out / name, text)
        written.append(out / name)
    return written


def _started_at(levels: Sequence[LoadLevel]) -> str:
    """UTC of the first level's first request."""
    if not levels:
        return ""
    began_s = levels[0].started_s - levels[0].warmup_s
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began_s))
