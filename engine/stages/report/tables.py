"""The report's findings as sentences and tables, once, for Markdown, HTML and the terminal alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MODELS = ("teacher", "baseline", "student")


@dataclass(frozen=True)
class Table:
    """A titled table of text; the first column is words, the others are figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def headline(report: dict[str, Any]) -> list[str]:
    """What a reader should take away, one sentence each; empty where a stage had nothing."""
    found = []
    quality = report["quality"]
    if quality and quality["retention"] is not None:
        scores = f" ({figure(quality['student'])} against {figure(quality['teacher'])})" if quality["teacher"] is not None else ""
        found.append(
            f"The student keeps {quality['retention']:.1%} of the teacher's {quality['metric'].replace('_', ' ')}{scores},"
            f" measured on {quality['n']:,} validation prompts."
        )
    teacher, student = (_levels(report, model) for model in ("teacher", "student"))
    shared = [name for name in teacher if name in student and teacher[name]["output_tokens_per_second"]]
    if shared:
        name = max(shared, key=lambda at: teacher[at]["output_tokens_per_second"])
        ratio = student[name]["output_tokens_per_second"] / teacher[name]["output_tokens_per_second"]
        found.append(f"At {name} it serves {ratio:.2g} times the teacher's output tokens per second.")
    failed = sum(level["failed"] for model in report["serving"] for level in _levels(report, model).values())
    requests = sum(level["requests"] for model in report["serving"] for level in _levels(report, model).values())
    if requests:
        found.append(f"{failed:,} of {requests:,} measured requests failed.")
    return found


def tables(report: dict[str, Any]) -> list[Table]:
    """All tables that have rows, in reading order."""
    built = [quality(report), *serving(report), curation(report), stages(report), training(report), lineage(report)]
    return [table for table in built if table.rows]


def quality(report: dict[str, Any]) -> Table:
    """Score and 95 % interval of each model, and every other metric."""
    found = report["quality"]
    if not found:
        return Table("Quality", (), ())
    others = [name for name in report["metrics"] if name != found["metric"]]
    rows = [
        [model, figure(found[model]), interval(found, model), *(figure(report["metrics"][name].get(model)) for name in others)]
        for model in MODELS if found[model] is not None
    ]
    if found["retention"] is not None:
        rows.append(["retention", f"{found['retention']:.1%}", interval(found, "retention"), *["" for _ in others]])
    note = f"{found['n']:,} validation prompts. Baseline: the student before training. Retention: student / teacher."
    return Table("Quality", ["", words(found["metric"]), "95 % interval", *map(words, others)], rows, note)


def serving(report: dict[str, Any]) -> list[Table]:
    """Per model, one row per level."""
    header = ["load", "requests", "failed", "req/s", "tok/s", *(f"{kind.upper()} {p}" for kind, p in _TIMES)]
    return [
        Table(f"Serving: {model}", header, list(map(_level_row, _levels(report, model).items())), _serving_note(report, model))
        for model in report["serving"]
    ]


_TIMES = [*(("ttft", p) for p in ("p50", "p95", "p99")), ("tpot", "p50"), *(("e2e", p) for p in ("p50", "p95", "p99"))]


def _level_row(named: tuple[str, dict[str, Any]]) -> list[str]:
    name, level = named
    times = [milliseconds(level[f"{kind}_ms"][p], level["failed"]) for kind, p in _TIMES]
    speeds = [f"{level['request_throughput']:,.2f}", figure(level["output_tokens_per_second"])]
    return [name + ("" if level["valid"] else " †"), f"{level['requests']:,}", f"{level['failed']:,}", *speeds, *times]


def _serving_note(report: dict[str, Any], model: str) -> str:
    broken = [f"{name}: {level['invalid_reason']}" for name, level in _levels(report, model).items() if not level["valid"]]
    doubts = f" † Not valid: {'; '.join(broken)}." if broken else ""
    return f"Times in ms from the moment a request was due; a failed request counts as infinitely slow (∞).{doubts}"


def curation(report: dict[str, Any]) -> Table:
    """What each filter left."""
    found = report["curate"]
    if not found:
        return Table("Curation", (), ())
    start = max(1, found["rows_in"])
    rows = [[words(name), f"{left:,}", f"{left / start:.1%}"] for name, left in found["funnel"]]
    reasons = ", ".join(f"{words(reason)} {n:,}" for reason, n in sorted(found["dropped"].items(), key=lambda item: -item[1]))
    note = f"{found['rows_kept']:,} of {found['rows_in']:,} kept. Dropped: {reasons or 'nothing'}."
    return Table("Curation", ["after", "rows", "of all"], rows or [["kept", f"{found['rows_kept']:,}", ""]], note)


def stages(report: dict[str, Any]) -> Table:
    """Time and rows of each stage."""
    rows = [
        [name, *map(figure, (entry["seconds"], entry["rows_in"], entry["rows_out"], sum(entry["dropped"].values())))]
        for name, entry in report["stages"].items()
    ]
    total = sum(entry["seconds"] for entry in report["stages"].values())
    note = f"{total:,.0f} s in all. At every stage rows in = rows out + dropped."
    return Table("Stages", ["", "seconds", "rows in", "rows out", "dropped"], rows, note)


def training(report: dict[str, Any]) -> Table:
    """The figures of generation and training."""
    rows = []
    for stage, names in (
        ("generate", ("prompts", "completions", "tokens_in", "tokens_out", "tokens_per_second")),
        ("train", ("steps", "tokens", "tokens_per_second", "final_loss", "validation_loss", "zero_stage", "workers")),
    ):
        rows += [[f"{stage}: {words(name)}", figure(report[stage][name])] for name in names if report[stage]]
    return Table("Generation and training", ["", "value"], rows)


def lineage(report: dict[str, Any]) -> Table:
    """Which folder each stage's files lie in, and the hash of its manifest."""
    rows = [[stage, entry["folder"], entry["manifest_sha256"][:16]] for stage, entry in report["lineage"].items()]
    return Table("Lineage", ["", "folder", "manifest sha256"], rows, f"Code: commit {report['git_commit'] or 'unknown'}.")


def summary_rows(report: dict[str, Any]) -> list[list[str]]:
    """Per model: name, score, interval, best level, tokens per second, TTFT p50 and p95 there, failed requests in all."""
    rows = []
    for model in MODELS:
        levels, found = _levels(report, model), report["quality"] or {}
        if not levels and found.get(model) is None:
            continue
        score = [figure(found.get(model)), interval(found, model) if found.get(model) is not None else "–"]
        if not levels:
            rows.append([model, *score, "–", "–", "–", "–", "–"])
            continue
        name, best = max(levels.items(), key=lambda item: (item[1]["valid"], item[1]["output_tokens_per_second"]))
        times = [milliseconds(best["ttft_ms"][p], best["failed"]) for p in ("p50", "p95")]
        failed = sum(level["failed"] for level in levels.values())
        mark = "" if best["valid"] else " †"
        rows.append([model, *score, name + mark, figure(best["output_tokens_per_second"]), *times, f"{failed:,}"])
    return rows


def markdown(title: str, sentences: Iterable[str], built: Iterable[Table]) -> str:
    """The report as GitHub Markdown."""
    lines = [f"# {title}", "", *(f"- {sentence}" for sentence in sentences)]
    for table in built:
        lines += ["", f"## {table.title}", ""]
        lines += [_markdown_row(row) for row in (table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows)]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _levels(report: dict[str, Any], model: str) -> dict[str, dict[str, Any]]:
    return {level_name(level): level for level in report["serving"].get(model, {"levels": []})["levels"]}


def level_name(level: dict[str, Any]) -> str:
    """`concurrency 4` or `2.5 req/s`."""
    return f"concurrency {level['concurrency']}" if "concurrency" in level else f"{level['rate']:g} req/s"


def words(name: str) -> str:
    """A field's name for people."""
    return name.replace("_", " ")


def figure(value: float | None) -> str:
    """A number with as many digits as a reader can use; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def interval(found: dict[str, Any], name: str) -> str:
    """A 95 % interval in brackets, as percentages for retention."""
    bounds = found["ci95"].get(name)
    if bounds is None:
        return "–"
    return "[{:.1%}, {:.1%}]".format(*bounds) if name == "retention" else "[{}, {}]".format(*map(figure, bounds))


def milliseconds(value: float | None, failed: int) -> str:
    """A latency in ms; null is infinite if requests failed, else not measured."""
    if value is None:
        return "∞" if failed else "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
