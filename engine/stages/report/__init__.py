"""Manifests -> report.json (contract.py), report.md, a report.html that needs no network, and the
student's finished model card.

It scores no answer: scores and tests come from evaluate, levels from the load test. Figures of both
together, the five ratios, are divided here (ratios.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import JustifyMethod
from rich.table import Table as RichTable

from engine.job.spec import ReportSpec
from engine.rows.records import Answer, Prompt, TimeSlice
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.identity import git_commit, versions
from engine.run.manifests import Counts, Finished
from engine.stages.report import tables
from engine.stages.report.contract import Report
from engine.stages.report.curation_tables import judged_examples
from engine.stages.report.examples import Shown, examples_of, shown_after, side_by_side
from engine.stages.report.judge_table import judge_tables
from engine.stages.report.level_tables import in_one
from engine.stages.report.ratios import five_ratios, pair_of
from engine.stages.report.table import Block, Table
from engine.stages.report.verdicts import answered, comparisons, gains
from engine.store.files import write_atomic

CARD = "student/README.md"  # the unfinished model card, in the train stage
TIMELINE = "data/timeline.parquet"  # rows of TimeSlice, in the loadtest stage


def run(spec: ReportSpec, inputs: Mapping[str, Finished], out: Path, ctx: Context) -> Counts:
    """Write the reports of a finished run, and its model card; one row per stage read."""
    report = build_report(ctx.job, inputs)
    shown = shown_after(inputs["curate"])
    examples = _side_by_side(report["quality"]["metric"], inputs, shown)
    examples += judged_examples(inputs["curate"], inputs["generate"], inputs["prompts"], shown)
    pages = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": tables.markdown(report, examples),
    }
    train = inputs["train"]
    if CARD in train.manifest.files:
        card = (train.folder / CARD).read_text(encoding="utf-8")
        pages["model_card.md"] = tables.finish_card(card, report)
    if spec.html:
        lines = (train.folder / "metrics.jsonl").read_text().splitlines()
        metrics = list(map(json.loads, lines))
        slices = _slices(inputs["loadtest"])
        pages["report.html"] = build_page(report, metrics, slices, examples)
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
    evaluated = _said(inputs["evaluate"])
    blocks = {
        "schema_version": 1,
        "job": job,
        "git_commit": git_commit(),
        "versions": versions(),
        "stages": {name: stage.manifest for name, stage in inputs.items()},
        "generate": _said(inputs["generate"]),
        "curate": _curate_block(inputs["curate"]),
        "train": _said(inputs["train"]),
        "quality": evaluated["quality"],
        "metrics": evaluated["metrics"],
        "signatures": evaluated.get("signatures", {}),
        "comparisons": evaluated.get("comparisons", {}),
        "footprint": evaluated.get("footprint", {}),
        "verdicts": evaluated.get("verdicts", {}),
        "lm_eval": evaluated.get("lm_eval"),
        "serving": _said(inputs["loadtest"])["serving"],
        "equal_slo": _said(inputs["loadtest"]).get("equal_slo"),
        "judge": evaluated.get("judge"),
        "warnings": warnings,
        "lineage": lineage,
    }
    blocks["ratios"] = five_ratios(pair_of(blocks))
    report = Report.model_validate(blocks)
    return report.model_dump(mode="json", exclude_unset=True)


def _side_by_side(metric: str, inputs: Mapping[str, Finished], shown: Shown) -> list[Table]:
    """Tables of answers; none where the stages before left no rows."""
    answers: list[Answer] = []
    for table in read_tables(inputs["evaluate"].files()):
        answers += to_rows(table, Answer)
    prompts: list[Prompt] = []
    for table in read_tables(inputs["prompts"].files("validation")):
        prompts += to_rows(table, Prompt)
    return side_by_side(metric, examples_of(metric, prompts, answers), shown)


def _said(stage: Finished) -> Block:
    """What a stage published of itself, without what it did not say."""
    return stage.manifest.info.model_dump(exclude_unset=True)


def _curate_block(stage: Finished) -> Block:
    curate = stage.manifest
    rows = {"rows_in": curate.rows_in, "rows_kept": curate.rows_out, "dropped": curate.dropped}
    return _said(stage) | rows


def build_page(
    report: Block,
    metrics: Sequence[Block],
    slices: Sequence[TimeSlice] = (),
    examples: Sequence[Table] = (),
) -> str:
    """report.html; `metrics` are the lines of the training's metrics.jsonl, `slices` the rows of
    the load test's timeline, `examples` tables of answers."""
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
        tables=[*tables.tables(report), *examples],
        axes=time_plots(report["serving"], slices),
        versions=report["versions"],
    )
    return build_html(page)


def summary_table(report: Block) -> RichTable:
    """Quality and serving of a report.json for the terminal."""
    return _terminal_table(tables.summary_of(report))


def comparison_tables(report: Block) -> list[RichTable]:
    """What the answers are, the student against the other models, what the judge says, and the five
    ratios, for the terminal."""
    judged = judge_tables(report, brief=True)
    compared = comparisons(report, brief=True)
    chosen = [*answered(report), *compared, *judged, gains(report)]
    return [_terminal_table(table) for table in chosen]


def serving_table(serving: Block) -> RichTable:
    """Every level of every model for the terminal; `serving` as in report.json."""
    return _terminal_table(in_one(serving))


def _terminal_table(table: Table) -> RichTable:
    gap = (0, 2, 0, 0) if table.is_text else 0
    shown = RichTable(
        title=table.title, caption=table.note, box=box.SIMPLE_HEAD, pad_edge=False, padding=gap
    )
    shown.title_justify = shown.caption_justify = "left"
    for name in table.header:
        justify: JustifyMethod = "right"
        if name in ("model", "load") or table.is_text:
            justify = "left"
        shown.add_column(name, justify=justify, no_wrap=not table.is_text)
    for row in table.rows:
        cells = [cell.replace("concurrency ", "c=") for cell in row]
        shown.add_row(*cells)
    return shown
