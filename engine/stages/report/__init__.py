"""Manifests -> report.json (contract.py), report.md and a report.html that needs no network. It computes no score itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from engine.errors import StageError
from engine.progress import Context
from engine.rundir import Counts, Manifest, git_commit, load_manifest, manifest_sha256, stage_files, versions, write_atomic
from engine.spec import ReportSpec
from engine.stages.report import tables
from engine.stages.report.contract import Report


def run(spec: ReportSpec, inputs: dict[str, Path], out: Path, ctx: Context, **also: Any) -> Counts:
    """Write the three reports of a finished run; one row per stage read."""
    report = build_report(ctx.job, inputs).to_json()
    pages = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": tables.markdown(f"{ctx.job}: distillation report", tables.headline(report), tables.tables(report)),
    }
    if spec.html:
        pages["report.html"] = build_html(report, _training_metrics(inputs))
    for name, text in pages.items():
        write_atomic(out / name, text)
    return Counts(rows_in=len(inputs), rows_out=len(inputs), files=dict.fromkeys(pages, 1))


def build_report(job: str, inputs: dict[str, Path]) -> Report:
    """report.json of the finished stages in `inputs`; a block whose stage is not among them is null."""
    manifests = {stage: _finished(stage, folder) for stage, folder in inputs.items()}
    info = {stage: manifest.info for stage, manifest in manifests.items()}
    curate = manifests.get("curate")
    return Report(
        job=job,
        git_commit=git_commit(),
        versions=versions(),
        stages={stage: manifest.model_dump() for stage, manifest in manifests.items()},
        generate=info.get("generate"),
        curate=curate and curate.info | {"rows_in": curate.rows_in, "rows_kept": curate.rows_out, "dropped": curate.dropped},
        train=info.get("train"),
        quality=info.get("evaluate", {}).get("quality"),
        metrics=info.get("evaluate", {}).get("metrics", {}),
        serving=info.get("loadtest", {}).get("serving", {}),
        lineage={stage: {"folder": folder.name, "manifest_sha256": manifest_sha256(folder)} for stage, folder in inputs.items()},
    )


def build_html(report: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """One self-contained page; `metrics` are the lines of the training's metrics.jsonl."""
    import jinja2  # here and not above: the command line imports this module to print a table, and starts in under a second

    from engine.stages.report.plots import plots

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    finished = max((entry["finished_at"] for entry in report["stages"].values()), default="")
    return pages.get_template("page.html.jinja").render(
        report=report, sentences=tables.headline(report), tables=tables.tables(report), plots=plots(report, metrics),
        finished=finished.replace("T", " ").replace("Z", " UTC"),
    )


def summary_tables(report: dict[str, Any]) -> list[RichTable]:
    """Quality and serving of a report.json for the terminal: one table, or none if there is neither."""
    rows = tables.summary_rows(report)
    quality = report["quality"]
    metric = tables.words(quality["metric"]) if quality else "score"
    header = ["model", metric, "95 % interval", "best at", "tok/s", "TTFT p50", "TTFT p95", "failed"]
    return [_terminal_table(f"{report['job']}: quality and serving", header, rows, tables.headline(report))] if rows else []


_SHOWN = (0, 2, 3, 4, 5, 6, 9, 10)  # of a level's columns, those that 80 characters have room for


def serving_table(serving: dict[str, Any]) -> RichTable:
    """Every level of every model for the terminal; `serving` as in report.json."""
    built = dict(zip(serving, tables.serving({"serving": serving}), strict=True))
    rows = [[model, *(row[i] for i in _SHOWN)] for model, table in built.items() for row in table.rows]
    header = ["model", *(table.header[i] for table in list(built.values())[:1] for i in _SHOWN)]
    return _terminal_table("serving", header, rows, [f"{model}: {table.note}" for model, table in built.items()])


def _terminal_table(title: str, header: list[str], rows: list[list[str]], notes: list[str]) -> RichTable:
    shown = RichTable(title=title, caption="\n".join(notes), box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    shown.title_justify = shown.caption_justify = "left"
    for name in header:
        shown.add_column(name, justify="left" if name in ("model", "load") else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*(cell.replace("concurrency ", "c=") for cell in row))
    return shown


def _finished(stage: str, folder: Path) -> Manifest:
    manifest = load_manifest(folder)
    if manifest is None:
        raise StageError(f"report: {stage} is not finished in {folder}; run the job without --only to finish it")
    return manifest


def _training_metrics(inputs: dict[str, Path]) -> list[dict[str, Any]]:
    files = stage_files(inputs["train"]) if "train" in inputs else []
    lines = [line for file in files if file.name == "metrics.jsonl" for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.strip()]
