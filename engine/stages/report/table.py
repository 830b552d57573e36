"""A table of text, and numbers and names as people read them: the same for Markdown, HTML and the
terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Block = dict[str, Any]  # of report.json
UNKNOWN = "–"
INFINITE = "∞"
MODELS = ("teacher", "baseline", "student")


@dataclass(frozen=True)
class Table:
    """A titled table of text; the first column is words, the others are figures; without columns it
    is its note alone. A part belongs to the table before it; a folded one is for who looks
    closer."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""  # lines
    is_part: bool = False
    is_folded: bool = False
    is_text: bool = False  # its cells are texts, not figures


def words(name: str) -> str:
    """A field's name for people."""
    return name.replace("_", " ")


def figure(value: float | None) -> str:
    """A number with as many digits as a reader can use; a dash for none."""
    if value is None:
        return UNKNOWN
    if math.isinf(value):
        return INFINITE
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}"


def share(value: float | None) -> str:
    """A share of 1 as a percentage; a dash for none."""
    return UNKNOWN if value is None else f"{value:.1%}"


def bounds(ends: Sequence[float | None] | None) -> str:
    """Both ends of an interval; one that is not known, or infinite, is left open."""
    if ends is None:
        return UNKNOWN
    low, high = ends
    if low is None and high is None:
        return UNKNOWN
    if high is None:
        return f"≥ {figure(low)}"
    if low is None:
        return f"≤ {figure(high)}"
    return in_brackets(ends)


def in_brackets(
    ends: Sequence[float | None] | None, told: Callable[[float | None], str] = figure
) -> str:
    """An interval whose ends are both known, each as `told` writes it; a dash for none."""
    if ends is None:
        return UNKNOWN
    low, high = ends
    return f"[{told(low)}, {told(high)}]"


def interval(scores: Block, name: str) -> str:
    """A 95 % interval in brackets, as percentages for retention."""
    told = share if name == "retention" else figure
    return in_brackets(scores["ci95"].get(name), told)


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    if value is None:
        return UNKNOWN
    return f"{value:+.3f}"


def chance(p: float | None) -> str:
    """A p-value, with as many digits as mean something."""
    if p is None:
        return UNKNOWN
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}"


def p_value(p: float | None) -> str:
    """A p-value within a sentence."""
    told = chance(p)
    return f"p {told}" if told.startswith("<") else f"p = {told}"


def markdown_sections(tables: Sequence[Table]) -> list[str]:
    """Lines of GitHub Markdown: each table under its title."""
    lines: list[str] = []
    for table in tables:
        depth = "###" if table.is_part else "##"
        lines += ["", f"{depth} {table.title}", "", *markdown_table(table)]
    return lines


def markdown_table(table: Table) -> list[str]:
    """Lines of GitHub Markdown, without the title; a line of the note is a paragraph."""
    lines = []
    if table.header:
        right = "---" if table.is_text else "---:"
        alignments = ["---"] + [right] * (len(table.header) - 1)
        lines += map(_markdown_row, (table.header, alignments))
    for row in table.rows:
        cells = row
        if table.is_text:
            cells = list(map(_escaped, row))
        lines.append(_markdown_row(cells))
    for line in table.note.splitlines():
        lines += ["", line] if lines else [line]
    return lines


def _escaped(text: str) -> str:
    """A text of somebody else's, on one line and without HTML of its own."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;")
    return "<br>".join(plain.splitlines())


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"
