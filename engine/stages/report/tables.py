"""The report's findings as sentences and tables, once, for Markdown, HTML and the terminal
alike."""

from __future__ import annotations

from collections.abc import Sequence

from engine.stages.report.cells import (
    MODELS,
    Block,
    Table,
    figure,
    interval,
    load_name,
    markdown_table,
    words,
)
from engine.stages.report.verdicts import comparisons, gains, verdicts

# what 80 characters have room for
_TERMINAL = ("load", "failed", "req/s", "tok/s", "TTFT p50", "TTFT p95", "E2E p50", "E2E p95")
_BEST = ("load", "tok/s", "TTFT p50", "TTFT p95")


def headline(report: Block) -> list[str]:
    """What a reader should take away, one sentence each, warnings last; empty where a stage had
    nothing."""
    sentences = []
    if report["quality"]["retention"] is not None:
        sentences.append(_retention_sentence(report["quality"]))
    sentences += verdicts(report)
    if {"teacher", "student"} <= report["serving"].keys():
        sentences += _speed_sentences(report["serving"])
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
    """At the level where the teacher is fastest; none if it never answered."""
    # both models meet the same levels
    pairs = zip(serving["teacher"]["levels"], serving["student"]["levels"], strict=False)
    teacher, student = max(pairs, key=lambda pair: pair[0]["output_tokens_per_second"])
    teachers_speed = teacher["output_tokens_per_second"]
    if not teachers_speed:
        return []
    ratio = student["output_tokens_per_second"] / teachers_speed
    return [
        f"At {load_name(teacher)} it serves {ratio:.2g} times the teacher's output tokens"
        " per second."
    ]


def tables(report: Block) -> list[Table]:
    """All tables in reading order."""
    return [
        quality(report),
        *comparisons(report),
        gains(report),
        *serving(report),
        curation(report),
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
            row = [model, figure(scores[model]), interval(scores, model)]
            for name in others:
                score = report["metrics"][name].get(model)
                row.append(figure(score))
            rows.append(row)
    if scores["retention"] is not None:
        row = ["retention", f"{scores['retention']:.1%}", interval(scores, "retention")]
        rows.append(row + [""] * len(others))
    header = ["", words(scores["metric"]), "95 % interval", *map(words, others)]
    note = (
        f"{scores['n']:,} validation prompts. Baseline: the student before training. Retention:"
        " student / teacher."
    )
    for name, signature in report.get("signatures", {}).items():
        note += f"\n{words(name)}: {signature}"
    return Table("Quality", header, rows, note)


def serving(report: Block) -> list[Table]:
    """Per model, one row per level."""
    built = []
    for model, measured in report["serving"].items():
        cells = list(map(level_cells, measured["levels"]))
        rows = [list(row.values()) for row in cells]
        header = list(cells[0])
        note = _serving_note({model: measured})
        built.append(Table(f"Serving: {model}", header, rows, note))
    return built


def levels(serving: Block) -> Table:
    """Every level of every model in one table, with the most telling columns."""
    rows = []
    for model, measured in serving.items():
        for level in measured["levels"]:
            rows.append([model, *_cells(level, _TERMINAL)])
    return Table("serving", ["model", *_TERMINAL], rows, _serving_note(serving))


def _cells(level: Block, columns: Sequence[str]) -> list[str]:
    cells = level_cells(level)
    return [cells[name] for name in columns]


def level_cells(level: Block) -> dict[str, str]:
    """A level by column; a time of null is infinite if requests failed, else not measured."""
    load = load_name(level)
    if not level["valid"]:
        load += " †"
    slowest = "∞" if level["failed"] else figure(None)
    cells = {
        "load": load,
        "requests": figure(level["requests"]),
        "failed": figure(level["failed"]),
        "req/s": f"{level['request_throughput']:,.2f}",
        "tok/s": figure(level["output_tokens_per_second"]),
    }
    for kind in ("ttft", "tpot", "e2e"):
        for name, value in level[f"{kind}_ms"].items():
            column = f"{kind.upper()} {name}"
            cells[column] = slowest if value is None else figure(value)
    return cells


def _serving_note(serving: Block) -> str:
    note = (
        "Times in ms from the moment a request was due; a failed request counts as infinitely slow"
        " (∞)."
    )
    for model, measured in serving.items():
        for level in measured["levels"]:
            if not level["valid"]:
                reason = level["invalid_reason"]
                note += f"\n† Not valid: {model}, {load_name(level)}: {reason}."
    return note


def curation(report: Block) -> Table:
    """What each filter left."""
    curate = report["curate"]
    rows = []
    for name, left in curate["funnel"]:
        share = left / max(1, curate["rows_in"])
        rows.append([words(name), f"{left:,}", f"{share:.1%}"])
    most_first = sorted(curate["dropped"].items(), key=lambda item: -item[1])
    reasons = ", ".join(f"{words(reason)} {count:,}" for reason, count in most_first)
    note = (
        f"{curate['rows_kept']:,} of {curate['rows_in']:,} kept. Dropped: {reasons or 'nothing'}."
    )
    return Table("Curation", ["after", "rows", "of all"], rows, note)


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
    return Table("Stages", ["", "seconds", "rows in", "rows out", "dropped"], rows, note)


def training(report: Block) -> Table:
    """All single figures of generation and training."""
    rows = []
    for stage in ("generate", "train"):
        for name, value in report[stage].items():
            if isinstance(value, int | float):
                rows.append([f"{stage}: {words(name)}", figure(value)])
    return Table("Generation and training", ["", "value"], rows)


def lineage(report: Block) -> Table:
    """Which folder each stage's files lie in, and the hash of its manifest."""
    rows = []
    for stage, entry in report["lineage"].items():
        rows.append([stage, entry["folder"], entry["manifest_sha256"][:16]])
    note = f"Code: commit {report['git_commit'] or 'unknown'}."
    return Table("Lineage", ["", "folder", "manifest sha256"], rows, note)


def summary_of(report: Block) -> Table:
    """Each model's score, and how it is served at its best valid level; failed requests of all
    levels."""
    scores = report["quality"]
    rows = []
    for model in MODELS:
        measured = report["serving"].get(model, {"levels": []})
        served = _best_served(measured["levels"])
        rows.append([model, figure(scores[model]), interval(scores, model), *served])
    header = ["model", words(scores["metric"]), "95 % interval", "best at", *_BEST[1:], "failed"]
    title = f"{report['job']}: quality and serving"
    return Table(title, header, rows, "\n".join(headline(report)))


def _best_served(levels: list[Block]) -> list[str]:
    if not levels:
        return ["–"] * (len(_BEST) + 1)
    best = max(levels, key=lambda level: (level["valid"], level["output_tokens_per_second"]))
    failed = sum(level["failed"] for level in levels)
    return [*_cells(best, _BEST), f"{failed:,}"]


def markdown(report: Block, examples: Sequence[Table] = ()) -> str:
    """The report as GitHub Markdown; `examples` are tables of answers."""
    lines = [f"# {report['job']}: distillation report", ""]
    for sentence in headline(report):
        lines.append(f"- {sentence}")
    for table in (*tables(report), *examples):
        lines += ["", f"## {table.title}", "", *markdown_table(table)]
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
