"""Manifests -> report.json (contract.py), report.md, a report.html that needs no network, and the
student's finished model card.

It computes no score itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from engine.job.spec import ReportSpec
from engine.run.context import Context
from engine.run.identity import git_commit, versions
from engine.run.manifests import Counts, load_manifest, manifest_sha256, stage_files
from engine.stages.report import tables
from engine.stages.report.contract import Report
from engine.store.files import write_atomic


def run(spec: ReportSpec, inputs: dict[str, Path], out: Path, ctx: Context) -> Counts:
    """Write the reports of a finished run, and its model card; one row per stage read."""
    report = build_report(ctx.job, inputs)
    pages = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": tables.markdown(report),
    }
    for card in stage_files(inputs["train"], "student/README.md"):
        pages["model_card.md"] = tables.finish_card(card.read_text(encoding="utf-8"), report)
    if spec.html:
        metrics = (inputs["train"] / "metrics.jsonl").read_text().splitlines()
        pages["report.html"] = build_html(report, list(map(json.loads, metrics)))
    for name, text in pages.items():
        write_atomic(out / name, text)
    return Counts(rows_in=len(inputs), rows_out=len(inputs), files=dict.fromkeys(pages, 1))


def build_report(job: str, inputs: dict[str, Path]) -> dict[str, Any]:
    """report.json of a finished run, held to its contract."""
    manifests = {stage: load_manifest(folder) for stage, folder in inputs.items()}
    curate, evaluate = manifests["curate"], manifests["evaluate"].info
    report = Report(
        schema_version=1,
        job=job,
        git_commit=git_commit(),
        versions=versions(),
        stages=manifests,
        generate=manifests["generate"].info,
        curate=curate.info
        | {"rows_in": curate.rows_in, "rows_kept": curate.rows_out, "dropped": curate.dropped},
        train=manifests["train"].info,
        quality=evaluate["quality"],
        metrics=evaluate["metrics"],
        serving=manifests["loadtest"].info["serving"],
        warnings=[
            f"{stage}: {text}"
            for stage, manifest in manifests.items()
            for text in manifest.info.get("warnings", [])
        ],
        lineage={
            stage: {"folder": folder.name, "manifest_sha256": manifest_sha256(folder)}
            for stage, folder in inputs.items()
        },
    )
    return report.model_dump(mode="json", exclude_unset=True)


def build_html(report: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """One self-contained page; `metrics` are the lines of the training's metrics.jsonl."""
    # here and not above: the command line imports this module to print a table, and starts in under
    # a second
    import jinja2

    from engine.stages.report.plots import plots

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return pages.get_template("page.html.jinja").render(
        report=report,
        sentences=tables.headline(report),
        tables=tables.tables(report),
        plots=plots(report, metrics),
    )


def summary_table(report: dict[str, Any]) -> RichTable:
    """Quality and serving of a report.json for the terminal."""
    return _terminal_table(tables.summary(report))


def serving_table(serving: dict[str, Any]) -> RichTable:
    """Every level of every model for the terminal; `serving` as in report.json."""
    return _terminal_table(tables.levels(serving))


def _terminal_table(table: tables.Table) -> RichTable:
    shown = RichTable(
        title=table.title, caption=table.note, box=box.SIMPLE_HEAD, pad_edge=False, padding=0
    )
    shown.title_justify = shown.caption_justify = "left"
    for name in table.header:
        shown.add_column(
            name, justify="left" if name in ("model", "load") else "right", no_wrap=True
        )
    for row in table.rows:
        shown.add_row(*(cell.replace("concurrency ", "c=") for cell in row))
    return shown
