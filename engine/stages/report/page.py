"""One self-contained HTML page of sentences, plots and tables: no script, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.stages.report.table import Table


@dataclass(frozen=True)
class Plot:
    """What it shows, for who cannot see it, and the drawing."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Page:
    """All that stands on a page, in order."""

    title: str
    subtitle: str
    sentences: Sequence[str]
    plots: Sequence[Plot]
    tables: Sequence[Table]
    # one below the other and as wide as the page: each has its own time axis
    axes: Sequence[Plot] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def build_html(page: Page) -> str:
    """The page as HTML."""
    # here and not above: the command line imports this room to print a table, and starts in under
    # a second
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("page.html.jinja").render(page=page, sections=_sections(page.tables))


def _sections(tables: Sequence[Table]) -> list[list[Table]]:
    """Each table with the parts that belong to it."""
    sections: list[list[Table]] = []
    for table in tables:
        if table.is_part and sections:
            sections[-1].append(table)
        else:
            sections.append([table])
    return sections
