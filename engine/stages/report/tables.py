"""The report's findings as sentences and tables, once, for Markdown, HTML and the terminal
alike."""

from __future__ import annotations

from collections.abc import Sequence

from engine.stages.report.curation_tables import curation
from engine.stages.report.equal_slo_table import equal_slo
from engine.stages.report.harness_table import harness_tables
from engine.stages.report.judge_table import judge_sentences, judge_tables
from engine.stages.report.level_tables import cells, is_ok, level_tables, load_name
from engine.stages.report.table import (
    MODELS,
    UNKNOWN,
    Block,
    Table,
    figure,
    interval,
    markdown_sections,
    markdown_table,
    words,
)
from engine.stages.report.verdicts import answered, comparisons, gains, verdicts

_BEST = ("load", "tok/s", "TTFT p50", "TTFT p99")


def headline(report: Block) -> list[str]:
    """What a reader should take away, one sentence each, warnings last; empty where a stage had
    nothing."""
    sentences = []
    quality = report["quality"]
    if quality["retention"] is not None:
        sentences.append(_retention_sentence(quality))
    scores = [quality[model] for model in MODELS if quality[model] is not None]
    if scores and not any(scores):
        sentences.append(
            f"No model scores above 0 in {words(quality['metric'])} on {quality['n']:,} validation"
            " prompts: look at the answers in evaluate's files before anything else."
        )
    sentences += verdicts(report)
    sentences += judge_sentences(report)
    if {"teacher", "student"} <= report["serving"].keys():
        sentences += _speed_sentences(report["serving"])
    for model, measured in report["serving"].items():
        if measured.get("knee"):
            sentences.append(f"{model}: {measured['knee']['sentence']}")
    for warning in report["warnings"]:
        sentences.append(f"Warning, {warning}")
    return sentences


def _retention_sentence(quality: Block) -> str:
    scores = ""
    if quality["teacher"] is not None:
        scores = f" ({figure(quality['student'])} against {figure(quality['teacher'])})"
    return (
        f"The student keeps {quality['retention']:.1%} of the teacher's"
        f" {words(quality['metric'])}{scores},"
        f" measured on {quality['n']:,} validation prompts."
    )


def _speed_sentences(serving: Block) -> list[str]:
    """At the load where the teacher is fastest, of those that both met; none if it never
    answered."""
    students = {load_name(level): level for level in serving["student"]["levels"]}
    common = [level for level in serving["teacher"]["levels"] if load_name(level) in students]
    if not common:
        return []
    teacher = max(common, key=lambda level: level["output_tokens_per_second"])
    teachers_speed = teacher["output_tokens_per_second"]
    if not teachers_speed:
        return []
    student = students[load_name(teacher)]
    ratio = student["output_tokens_per_second"] / teachers_speed
    return [
        f"At {load_name(teacher)} it serves {ratio:.2g} times the teacher's output tokens"
        " per second."
    ]


def tables(report: Block) -> list[Table]:
    """All tables in reading order."""
    return [
        quality(report),
        *answered(report),
        *comparisons(report),
        *judge_tables(report),
        *harness_tables(report),
        gains(report),
        *serving(report),
        *curation(report),
        stages(report),
        training(report),
        lineage(report),
    ]


def quality(report: Block) -> Table:
    """Score and 95 % interval of each model, and every other metric."""
    scores = report["quality"]
    others = [name for name in report["metrics"] if name != scores["metric"]]
    rows = []
    for model in MODELS:
        if scores[model] is not None:
            row = [
                model,
                figure(scores[model]),
                interval(scores, model),
            ]
            for name in others:
                score = report["metrics"][name].get(model)
                row.append(figure(score))
            rows.append(row)
    if scores["retention"] is not None:
        row = [
            "retention",
            f"{scores['retention']:.1%}",
            interval(scores, "retention"),
        ]
        rows.append(row + [""] * len(others))
    header = [
        "",
        words(scores["metric"]),
        "95 % interval",
        *map(words, others),
    ]
    note = (
        f"{scores['n']:,} validation prompts. Baseline: the student before training. Retention:"
        " student / teacher."
    )
    for name, signature in report.get("signatures", {}).items():
        note += f"\n{words(name)}: {signature}"
    return Table("Quality", header, rows, note)


def serving(report: Block) -> list[Table]:
    """Per model, the tables of its levels."""
    built = []
    for model, measured in report["serving"].items():
        built += level_tables(f"Serving: {model}", measured["levels"])
    if report.get("equal_slo"):
        built.append(equal_slo(report["equal_slo"]))
    return built


def stages(report: Block) -> Table:
    """Time and rows of each stage."""
    rows = []
    total = 0.0
    for name, entry in report["stages"].items():
        dropped = sum(entry["dropped"].values())
        figures = (entry["seconds"], entry["rows_in"], entry["rows_out"], dropped)
        rows.append([name, *map(figure, figures)])
        total += entry["seconds"]
    note = f"{total:,.0f} s in all. At every stage rows in = rows out + dropped."
    return Table(
        "Stages",
        ["", "seconds", "rows in", "rows out", "dropped"],
        rows,
        note,
    )


def training(report: Block) -> Table:
    """All single figures of generation and training."""
    rows = []
    for stage in ("generate", "train"):
        for name, value in report[stage].items():
            if isinstance(value, int | float):
                rows.append([f"{stage}: {words(name)}", figure(value)])
    notes = [
        "tokens per second: of the last session, while tokens were made or trained on; starting"
        " engines and workers is left out, and is in the stages' seconds."
    ]
    if report["train"]["validation_loss"] is None:
        rows.append(["train: validation loss", UNKNOWN])
        notes.append(_no_validation(report))
    return Table(
        "Generation and training",
        ["", "value"],
        rows,
        "\n".join(notes),
    )


def _no_validation(report: Block) -> str:
    """Why there is no validation loss: training measures one at its end wherever it can."""
    examples = report["curate"].get("validation_examples", 0)
    unusable = report["curate"].get("validation_unusable") or {}
    reasons = ", ".join(f"{words(why)} {count:,}" for why, count in unusable.items())
    dropped = f"; dropped: {reasons}" if reasons else ""
    return (
        "No validation loss: training had no validation example that it could use (curate kept"
        f" {examples:,}{dropped})."
    )


def lineage(report: Block) -> Table:
    """Which folder each stage's files lie in, and the hash of its manifest."""
    rows = []
    for stage, entry in report["lineage"].items():
        rows.append(
            [
                stage,
                entry["folder"],
                entry["manifest_sha256"][:16],
            ]
        )
    note = f"Code: commit {report['git_commit'] or 'unknown'}."
    return Table(
        "Lineage",
        ["", "folder", "manifest sha256"],
        rows,
        note,
    )


def summary_of(report: Block) -> Table:
    """Each model's score, and how it is served at its best level that is ok; failed requests of all
    levels."""
    scores = report["quality"]
    rows = []
    for model in MODELS:
        measured = report["serving"].get(model, {"levels": []})
        served = _best_served(measured["levels"])
        rows.append(
            [
                model,
                figure(scores[model]),
                interval(scores, model),
                *served,
            ]
        )
    header = [
        "model",
        words(scores["metric"]),
        "95 % interval",
        "best at",
        *_BEST[1:],
        "failed",
    ]
    title = f"{report['job']}: quality and serving"
    return Table(
        title,
        header,
        rows,
        "\n".join(headline(report)),
    )


def _best_served(levels: list[Block]) -> list[str]:
    if not levels:
        return [UNKNOWN] * (len(_BEST) + 1)
    best = max(levels, key=lambda level: (is_ok(level), level["output_tokens_per_second"]))
    failed = sum(level["failed"] for level in levels)
    return [*cells(best, _BEST), f"{failed:,}"]


def markdown(report: Block, examples: Sequence[Table] = ()) -> str:
    """The report as GitHub Markdown; `examples` are tables of answers."""
    lines = [f"# {report['job']}: distillation report", ""]
    for sentence in headline(report):
        lines.append(f"- {sentence}")
    lines += markdown_sections([*tables(report), *examples])
    return "\n".join(lines) + "\n"


def finish_card(card: str, report: Block) -> str:
    """The model card of the train stage with its last section, Scores, filled in."""
    facts = card.partition("\n## Scores\n")[0]
    lines = [facts, "## Scores", ""]
    sentences = headline({**report, "serving": {}})
    if sentences:
        lines += [*sentences, ""]
    lines += markdown_table(quality(report))
    return "\n".join(lines) + "\n"
