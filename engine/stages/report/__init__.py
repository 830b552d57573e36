"""Manifests -> report.json (contract.py), report.md, a report.html that needs no network, and the
student's finished model card.

It computes no score itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import JustifyMethod
from rich.table import Table as RichTable

from engine.job.spec import ReportSpec
from engine.rows.records import TimeSlice
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.identity import git_commit, versions
from engine.run.manifests import Counts, Finished
from engine.stages.report import tables
from engine.stages.report.contract import Report
from engine.stages.report.level_tables import in_one
from engine.stages.report.table import Block, Table
from engine.store.files import write_atomic

CARD = "student/README.md"  # the unfinished model card, in the train stage
TIMELINE = "data/timeline.parquet"  # rows of TimeSlice, in the loadtest stage


def run(spec: ReportSpec, inputs: Mapping[str, Finished], out: Path, ctx: Context) -> Counts:
    """Write the reports of a finished run, and its model card; one row per stage read."""
    report = build_report(ctx.job, inputs)
    pages = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": tables.markdown(report),
    }
    train = inputs["train"]
    if CARD in train.manifest.files:
        card = (train.folder / CARD).read_text(encoding="utf-8")
        pages["model_card.md"] = tables.finish_card(card, report)
    if spec.html:
        lines = (train.folder / "metrics.jsonl").read_text().splitlines()
        metrics = list(map(json.loads, lines))
        pages["report.html"] = build_page(report, metrics, _slices(inputs["loadtest"]))
    for name, text in pages.items():
        write_atomic(out / name, text)
    return Counts(len(inputs), len(inputs), files=dict.fromkeys(pages, 1))


def _slices(loadtest: Finished) -> list[TimeSlice]:
    """The load test's one time axis."""
    if TIMELINE not in loadtest.manifest.files:
        return []
    rows: list[TimeSlice] = []
    for table in read_tables([loadtest.folder / TIMELINE]):
        rows += to_rows(table, TimeSlice)
    return rows


def build_report(job: str, inputs: Mapping[str, Finished]) -> Block:
    """report.json of a finished run, held to its contract."""
    lineage: dict[str, dict[str, str]] = {}
    warnings: list[str] = []
    for name, stage in inputs.items():
        lineage[name] = {"folder": stage.folder.name, "manifest_sha256": stage.sha256}
        for text in stage.manifest.info.warnings:
            warnings.append(f"{name}: {text}")
    report = Report.model_validate(
        {
            "schema_version": 1,
            "job": job,
            "git_commit": git_commit(),
            "versions": versions(),
            "stages": {name: stage.manifest for name, stage in inputs.items()},
            "generate": _said(inputs["generate"]),
            "curate": _curate_block(inputs["curate"]),
            "train": _said(inputs["train"]),
            "quality": _said(inputs["evaluate"])["quality"],
            "metrics": _said(inputs["evaluate"])["metrics"],
            "serving": _said(inputs["loadtest"])["serving"],
            "equal_slo": _said(inputs["loadtest"]).get("equal_slo"),
            "warnings": warnings,
            "lineage": lineage,
        }
    )
    return report.model_dump(mode="json", exclude_unset=True)


def _said(stage: Finished) -> Block:
    """What a stage published of itself, without what it did not say."""
    return stage.manifest.info.model_dump(exclude_unset=True)


def _curate_block(stage: Finished) -> Block:
    curate = stage.manifest
    rows = {"rows_in": curate.rows_in, "rows_kept": curate.rows_out, "dropped": curate.dropped}
    return _said(stage) | rows


def build_page(report: Block, metrics: Sequence[Block], slices: Sequence[TimeSlice] = ()) -> str:
    """report.html; `metrics` are the lines of the training's metrics.jsonl, `slices` the rows of
    the load test's timeline."""
    from engine.stages.report.page import Page, build_html
    from engine.stages.report.plots import plots
    from engine.stages.report.time_plots import time_plots

    finished = max(stage["finished_at"] for stage in report["stages"].values())
    subtitle = f"Distillation report, {finished}"
    if report["git_commit"]:
        subtitle += f", commit {report['git_commit'][:12]}"
    page = Page(
        title=report["job"],
        subtitle=subtitle,
        sentences=tables.headline(report),
        plots=plots(report, metrics),
        tables=tables.tables(report),
        axes=time_plots(report["serving"], slices),
        versions=report["versions"],
    )
    return build_html(page)


def summary_table(report: Block) -> RichTable:
    """Quality and serving of a report.json for the terminal."""
    return _terminal_table(tables.summary_of(report))


def serving_table(serving: Block) -> RichTable:
    """Every level of every model for the terminal; `serving` as in report.json."""
    return _terminal_table(in_one(serving))


def _terminal_table(table: Table) -> RichTable:
    shown = RichTable(
        title=table.title, caption=table.note, box=box.SIMPLE_HEAD, pad_edge=False, padding=0
    )
    shown.title_justify = shown.caption_justify = "left"
    for name in table.header:
        justify: JustifyMethod = "right"
        if name in ("model", "load"):
            justify = "left"
        shown.add_column(name, justify=justify, no_wrap=True)
    for row in table.rows:
        cells = [cell.replace("concurrency ", "c=") for cell in row]
        shown.add_row(*cells)
    return shown
