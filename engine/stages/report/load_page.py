"""The report of a load test without a job: loadtest.json, loadtest.md and loadtest.html from the
figures of its levels. It computes none of them itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.rows.records import TimeSlice
from engine.stages.report.level_tables import (
    is_ok,
    level_tables,
    load_name,
    served,
    slo_text,
    verdict_lines,
)
from engine.stages.report.load_plots import load_plots
from engine.stages.report.page import Page, build_html
from engine.stages.report.peers import Peer, comparison
from engine.stages.report.table import Block, Table, markdown_sections
from engine.stages.report.time_plots import time_plots

JSON, MARKDOWN, HTML = "loadtest.json", "loadtest.md", "loadtest.html"


@dataclass(frozen=True)
class LoadReport:
    """What is known of a lone load test when it is over."""

    url: str
    model: str
    started_at: str  # UTC
    levels: Sequence[Block]  # entries of report.json, in the order in which they were run
    slices: Sequence[TimeSlice] = ()
    found: Block | None = None  # the knee that a search found, as in report.json
    peers: Sequence[Peer] = ()
    doubts: Sequence[str] = ()  # sentences
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None


def build_files(report: LoadReport) -> dict[str, str]:
    """Name -> text of each of the three."""
    return {
        JSON: json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        MARKDOWN: _markdown(report),
        HTML: build_html(_page(report)),
    }


def as_json(report: LoadReport) -> dict[str, Any]:
    """loadtest.json. New keys may be added; none changes its meaning."""
    return {
        "schema_version": 1,
        "url": report.url,
        "model": report.model,
        "started_at": report.started_at,
        "git_commit": report.git_commit,
        "versions": dict(report.versions),
        "levels": list(report.levels),
        "found": report.found,
        "compared": [_finite(dataclasses.asdict(peer)) for peer in report.peers],
        "doubts": list(report.doubts),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Without infinity, which JSON does not have: null."""
    known = dict(values)
    for name, value in values.items():
        if value == math.inf:
            known[name] = None
    return known


def sentences(report: LoadReport) -> list[str]:
    """What a reader should take away, doubts last."""
    said = []
    if report.found:
        said.append(report.found["sentence"])
    said += _best(report.levels)
    said += verdict_lines(report.levels)
    return [*said, *report.doubts]


def _best(levels: Sequence[Block]) -> list[str]:
    """The most that was served well: within the SLO where there is one."""
    ok = list(filter(is_ok, levels))
    if not ok:
        return ["No level is ok: nothing can be said of what the server carries."]
    kept = [level for level in ok if level.get("goodput") and level["goodput"]["met"]]
    best = max(kept or ok, key=served)
    promise = ""
    if kept:
        promise = f", within {slo_text(best['goodput']['slo'])}"
    elif any(level.get("goodput") for level in ok):
        promise = ", which is not within the SLO: no level keeps it for certain"
    return [
        f"The most that it served well is {served(best):,.2f} requests and"
        f" {best['output_tokens_per_second']:,.0f} output tokens per second, at"
        f" {load_name(best)}{promise}."
    ]


def _tables(report: LoadReport) -> list[Table]:
    tables = level_tables("Levels", report.levels)
    if report.peers:
        tables.append(comparison(report.levels, report.peers))
    return tables


def _subtitle(report: LoadReport) -> str:
    subtitle = f"{report.url}, {report.started_at}"
    if report.git_commit:
        subtitle += f", client of commit {report.git_commit[:12]}"
    return subtitle


def _title(report: LoadReport) -> str:
    return f"Load test of {report.model}"


def _markdown(report: LoadReport) -> str:
    lines = [f"# {_title(report)}", "", _subtitle(report), ""]
    lines += [f"- {sentence}" for sentence in sentences(report)]
    lines += markdown_sections(_tables(report))
    return "\n".join(lines) + "\n"


def _page(report: LoadReport) -> Page:
    measured: Block = {"levels": list(report.levels)}
    if report.found:
        measured["knee"] = report.found
    serving = {report.model: measured}
    return Page(
        title=_title(report),
        subtitle=_subtitle(report),
        sentences=sentences(report),
        plots=load_plots(serving),
        tables=_tables(report),
        axes=time_plots(serving, report.slices),
        versions=report.versions,
    )
