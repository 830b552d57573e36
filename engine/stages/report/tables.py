"""The report's findings as sentences and tables, once, for Markdown, HTML and the terminal
alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODELS = ("teacher", "baseline", "student")
_TERMINAL = (
    "load",
    "failed",
    "req/s",
    "tok/s",
    "TTFT p50",
    "TTFT p95",
    "E2E p50",
    "E2E p95",
)  # what 80 characters have room for


@dataclass(frozen=True)
class Table:
    """A titled table of text; the first column is words, the others are figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def headline(report: dict[str, Any]) -> list[str]:
    """What a reader should take away, one sentence each, warnings last; empty where a stage had
    nothing."""
    found = []
    quality, serving = report["quality"], report["serving"]
    if quality["retention"] is not None:
        scores = (
            f" ({figure(quality['student'])} against {figure(quality['teacher'])})"
            if quality["teacher"] is not None
            else ""
        )
        found.append(
            f"The student keeps {quality['retention']:.1%} of the teacher's"
            f" {words(quality['metric'])}{scores},"
            f" measured on {quality['n']:,} validation prompts."
        )
    if {"teacher", "student"} <= serving.keys():
        pairs = zip(
            serving["teacher"]["levels"], serving["student"]["levels"], strict=False
        )  # both models meet the same levels
        teacher, student = max(pairs, key=lambda pair: pair[0]["output_tokens_per_second"])
        if teacher["output_tokens_per_second"]:
            ratio = student["output_tokens_per_second"] / teacher["output_tokens_per_second"]
            found.append(
                f"At {load_name(teacher)} it serves {ratio:.2g} times the teacher's output tokens"
                " per second."
            )
    return [*found, *(f"Warning, {text}" for text in report["warnings"])]


def tables(report: dict[str, Any]) -> list[Table]:
    """All tables in reading order."""
    return [
        quality(report),
        *serving(report),
        curation(report),
        stages(report),
        training(report),
        lineage(report),
    ]


def quality(report: dict[str, Any]) -> Table:
    """Score and 95 % interval of each model, and every other metric."""
    found = report["quality"]
    others = [name for name in report["metrics"] if name != found["metric"]]
    rows = [
        [
            model,
            figure(found[model]),
            interval(found, model),
            *(figure(report["metrics"][name].get(model)) for name in others),
        ]
        for model in MODELS
        if found[model] is not None
    ]
    if found["retention"] is not None:
        rows.append(
            [
                "retention",
                f"{found['retention']:.1%}",
                interval(found, "retention"),
                *["" for _ in others],
            ]
        )
    note = (
        f"{found['n']:,} validation prompts. Baseline: the student before training. Retention:"
        " student / teacher."
    )
    return Table(
        "Quality", ["", words(found["metric"]), "95 % interval", *map(words, others)], rows, note
    )


def serving(report: dict[str, Any]) -> list[Table]:
    """Per model, one row per level."""
    built = []
    for model, found in report["serving"].items():
        rows = list(map(level_cells, found["levels"]))
        built.append(
            Table(
                f"Serving: {model}",
                list(rows[0]),
                [list(row.values()) for row in rows],
                _serving_note({model: found}),
            )
        )
    return built


def levels(serving: dict[str, Any]) -> Table:
    """Every level of every model in one table, with the most telling columns."""
    rows = [
        [model, *map(level_cells(level).get, _TERMINAL)]
        for model, found in serving.items()
        for level in found["levels"]
    ]
    return Table("serving", ["model", *_TERMINAL], rows, _serving_note(serving))


def level_cells(level: dict[str, Any]) -> dict[str, str]:
    """A level by column; a time of null is infinite if requests failed, else not measured."""
    cells = {
        "load": load_name(level) + ("" if level["valid"] else " †"),
        "requests": figure(level["requests"]),
        "failed": figure(level["failed"]),
        "req/s": f"{level['request_throughput']:,.2f}",
        "tok/s": figure(level["output_tokens_per_second"]),
    }
    for kind in ("ttft", "tpot", "e2e"):
        for name, value in level[f"{kind}_ms"].items():
            cells[f"{kind.upper()} {name}"] = (
                "∞" if value is None and level["failed"] else figure(value)
            )
    return cells


def _serving_note(serving: dict[str, Any]) -> str:
    doubts = [
        f"\n† Not valid: {model}, {load_name(level)}: {level['invalid_reason']}."
        for model, found in serving.items()
        for level in found["levels"]
        if not level["valid"]
    ]
    return (
        "Times in ms from the moment a request was due; a failed request counts as infinitely slow"
        " (∞)." + "".join(doubts)
    )


def curation(report: dict[str, Any]) -> Table:
    """What each filter left."""
    found = report["curate"]
    rows = [
        [words(name), f"{left:,}", f"{left / max(1, found['rows_in']):.1%}"]
        for name, left in found["funnel"]
    ]
    reasons = ", ".join(
        f"{words(reason)} {n:,}"
        for reason, n in sorted(found["dropped"].items(), key=lambda item: -item[1])
    )
    note = f"{found['rows_kept']:,} of {found['rows_in']:,} kept. Dropped: {reasons or 'nothing'}."
    return Table("Curation", ["after", "rows", "of all"], rows, note)


def stages(report: dict[str, Any]) -> Table:
    """Time and rows of each stage."""
    rows = [
        [
            name,
            *map(
                figure,
                (
                    entry["seconds"],
                    entry["rows_in"],
                    entry["rows_out"],
                    sum(entry["dropped"].values()),
                ),
            ),
        ]
        for name, entry in report["stages"].items()
    ]
    total = sum(entry["seconds"] for entry in report["stages"].values())
    note = f"{total:,.0f} s in all. At every stage rows in = rows out + dropped."
    return Table("Stages", ["", "seconds", "rows in", "rows out", "dropped"], rows, note)


def training(report: dict[str, Any]) -> Table:
    """All single figures of generation and training."""
    found = [
        (stage, name, value)
        for stage in ("generate", "train")
        for name, value in report[stage].items()
    ]
    rows = [
        [f"{stage}: {words(name)}", figure(value)]
        for stage, name, value in found
        if isinstance(value, int | float)
    ]
    return Table("Generation and training", ["", "value"], rows)


def lineage(report: dict[str, Any]) -> Table:
    """Which folder each stage's files lie in, and the hash of its manifest."""
    rows = [
        [stage, entry["folder"], entry["manifest_sha256"][:16]]
        for stage, entry in report["lineage"].items()
    ]
    return Table(
        "Lineage",
        ["", "folder", "manifest sha256"],
        rows,
        f"Code: commit {report['git_commit'] or 'unknown'}.",
    )


def summary(report: dict[str, Any]) -> Table:
    """Each model's score, and how it is served at its best valid level; failed requests of all
    levels."""
    found, shown, rows = report["quality"], ("load", "tok/s", "TTFT p50", "TTFT p95"), []
    for model in MODELS:
        loads = report["serving"].get(model, {"levels": []})["levels"]
        best = max(
            loads,
            key=lambda level: (level["valid"], level["output_tokens_per_second"]),
            default=None,
        )
        failed = sum(level["failed"] for level in loads)
        serves = [*map(level_cells(best).get, shown), f"{failed:,}"] if best else ["–"] * 5
        rows.append([model, figure(found[model]), interval(found, model), *serves])
    header = ["model", words(found["metric"]), "95 % interval", "best at", *shown[1:], "failed"]
    return Table(f"{report['job']}: quality and serving", header, rows, "\n".join(headline(report)))


def markdown(report: dict[str, Any]) -> str:
    """The report as GitHub Markdown."""
    lines = [
        f"# {report['job']}: distillation report",
        "",
        *(f"- {sentence}" for sentence in headline(report)),
    ]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *_markdown_table(table)]
    return "\n".join(lines) + "\n"


def finish_card(card: str, report: dict[str, Any]) -> str:
    """The model card of the train stage with its last section, Scores, filled in."""
    facts = card.partition("\n## Scores\n")[0]
    found = headline({**report, "serving": {}})
    return (
        "\n".join(
            [
                facts,
                "## Scores",
                "",
                *found,
                *([""] if found else []),
                *_markdown_table(quality(report)),
            ]
        )
        + "\n"
    )


def _markdown_table(table: Table) -> list[str]:
    rows = [
        _markdown_row(row)
        for row in (table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows)
    ]
    return [*rows, *(["", table.note] if table.note else [])]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def load_name(level: dict[str, Any]) -> str:
    """`concurrency 4` or `2.5 req/s`."""
    return (
        f"concurrency {level['concurrency']}"
        if "concurrency" in level
        else f"{level['rate']:g} req/s"
    )


def words(name: str) -> str:
    """A field's name for people."""
    return name.replace("_", " ")


def figure(value: float | None) -> str:
    """A number with as many digits as a reader can use; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return (
        f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.3f}"
    )


def interval(found: dict[str, Any], name: str) -> str:
    """A 95 % interval in brackets, as percentages for retention."""
    bounds = found["ci95"].get(name)
    if bounds is None:
        return "–"
    return (
        "[{:.1%}, {:.1%}]".format(*bounds)
        if name == "retention"
        else "[{}, {}]".format(*map(figure, bounds))
    )
