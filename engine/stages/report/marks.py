"""How the levels of a load test are marked in a plot: by verdict, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from engine.stages.report.drawing import BAD, SOFT, WARNING, colour_of, marker_of
from engine.stages.report.table import Block

MOST_FOR_THREE = 14  # characters of a label


@dataclass(frozen=True)
class Mark:
    """How a verdict is drawn; what it leaves open is the model's own."""

    marker: str | None = None
    colour: str | None = None
    is_hollow: bool = False

    def look(self, marker: str, colour: str, size: int = 6) -> dict[str, Any]:
        """matplotlib's keywords, over a model's mark and colour."""
        own = self.colour or colour
        inside = "white" if self.is_hollow else own
        if self.marker:
            size += 2
        return {
            "marker": self.marker or marker,
            "color": own,
            "markerfacecolor": inside,
            "markersize": size,
        }


VERDICTS = {
    "ok": Mark(),
    "overloaded": Mark("X", WARNING),
    "client limited": Mark(is_hollow=True),
    "failed": Mark("x", BAD),
}


JOINED = {"ok": True, "overloaded": True, "client limited": False, "failed": False}
Ends = Sequence[float | None] | None  # of an interval; None: unknown, or infinite


@dataclass(frozen=True)
class Curve:
    """One value of a model's levels, and the interval of each."""

    model: str
    levels: Sequence[Block]
    loads: Sequence[float]
    values: Sequence[float | None]
    ends: Sequence[Ends]
    label: str
    line: str = "-"
    size: int = 6  # of its marks

    @property
    def colour(self) -> str:
        """The model's own."""
        return colour_of(self.model)


def shown_by(curves: Iterable[Curve]) -> list[float | None]:
    """All heights that the axis must have room for."""
    shown: list[float | None] = []
    for curve in curves:
        shown += curve.values
        for ends in curve.ends:
            shown += ends or []
    return shown


def draw_curves(axes: Axes, curves: Iterable[Curve]) -> None:
    """On an axis whose limits are those of the plot: lines through the levels that say how the
    server fares, intervals, and a mark at each level, never cut off at an edge. A value of None is
    a gap."""
    for curve in curves:
        if not curve.levels:
            continue
        values = np.array(curve.values, float)
        joined = [JOINED[verdict_of(level)] for level in curve.levels]
        axes.plot(
            np.array(curve.loads)[joined],
            values[joined],
            color=curve.colour,
            linestyle=curve.line,
            marker=marker_of(curve.model),
            markevery=[],
            markersize=curve.size,
            label=curve.label,
        )
        _draw_intervals(axes, curve)
        for level, load, value in zip(curve.levels, curve.loads, values, strict=True):
            mark = VERDICTS[verdict_of(level)]
            look = mark.look(marker_of(curve.model), curve.colour, curve.size)
            axes.plot([load], [value], linestyle="", clip_on=False, zorder=3, **look)


def _draw_intervals(axes: Axes, curve: Curve) -> None:
    """Upright lines; one that is not bounded from above is dotted to the top."""
    top = axes.get_ylim()[1]
    for load, ends in zip(curve.loads, curve.ends, strict=True):
        low, high = ends or (None, None)
        if low is None:
            continue
        end = top
        line = ":"
        if high is not None:
            end = high
            line = "-"
        axes.vlines(load, low, end, colors=curve.colour, linestyles=line, linewidth=1.2)


def verdict_of(level: Block) -> str:
    """Its own, or what its validity says where it has none."""
    verdict = level.get("verdict")
    if verdict in VERDICTS:
        return verdict
    return "ok" if level["valid"] else "client limited"


def draw_legend(page: Figure, axes: Axes, levels: Iterable[Block]) -> None:
    """Below the plot, where it covers nothing; with the verdicts of `levels` that are not ok. One
    line alone is what the title says."""
    handles, labels = axes.get_legend_handles_labels()
    verdicts = dict.fromkeys(map(verdict_of, levels))
    for verdict in verdicts:
        if verdict != "ok":
            look = VERDICTS[verdict].look("o", SOFT)
            handles.append(
                Line2D(
                    [],
                    [],
                    linestyle="",
                    **look,
                )
            )
            labels.append(verdict)
    if len(labels) < 2:
        return
    columns = 3 if max(map(len, labels)) <= MOST_FOR_THREE else 2
    page.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
    )
