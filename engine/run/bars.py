"""The bars of a terminal. Apart from progress.py, since nobody else needs what rich takes to
import."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def stage_bar(console: Console | None) -> Progress:
    """Of a stage: how many of how many units, and since when."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return _bar(columns, console)


def waiting_bar(console: Console | None) -> Progress:
    """Of something that is waited for."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return _bar(columns, console)


def _bar(columns: Sequence[ProgressColumn], console: Console | None) -> Progress:
    figures = TextColumn("{task.fields[figures]}")
    return Progress(
        *columns,
        figures,
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
