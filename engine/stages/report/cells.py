"""A table of the report, and how names and figures are written in it, once for Markdown, HTML and
the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Block = dict[str, Any]  # of report.json

MODELS = ("teacher", "baseline", "student")


@dataclass(frozen=True)
class Table:
    """A titled table of text; the first column is words, the others are figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_text: bool = False  # its cells are texts, not figures


def markdown_table(table: Table) -> list[str]:
    """Lines of GitHub's Markdown, the note below."""
    right = "---" if table.is_text else "---:"
    alignments = ["---"] + [right] * (len(table.header) - 1)
    lines = list(map(_markdown_row, (table.header, alignments)))
    for row in table.rows:
        cells = list(map(_escaped, row)) if table.is_text else row
        lines.append(_markdown_row(cells))
    if table.note:
        lines += ["", table.note]
    return lines


def _escaped(text: str) -> str:
    """A text of somebody else's, on one line and without HTML of its own."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;")
    return "<br>".join(plain.splitlines())


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def load_name(level: Block) -> str:
    """`concurrency 4` or `2.5 req/s`."""
    if "concurrency" in level:
        return f"concurrency {level['concurrency']}"
    return f"{level['rate']:g} req/s"


def words(name: str) -> str:
    """A field's name for people."""
    return name.replace("_", " ")


def figure(value: float | None) -> str:
    """A number with as many digits as a reader can use; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}"


def interval(scores: Block, name: str) -> str:
    """A 95 % interval in brackets, as percentages for retention."""
    bounds = scores["ci95"].get(name)
    if bounds is None:
        return "–"
    low, high = bounds
    if name == "retention":
        return f"[{low:.1%}, {high:.1%}]"
    return f"[{figure(low)}, {figure(high)}]"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    if value is None:
        return "–"
    return f"{value:+.3f}"


def chance(p: float | None) -> str:
    """A p-value, with as many digits as mean something."""
    if p is None:
        return "–"
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}"
