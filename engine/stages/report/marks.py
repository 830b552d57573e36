"""How the levels of a load test are marked in a plot: by verdict, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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

    def look(self, marker: str, colour: str) -> dict[str, Any]:
        """matplotlib's keywords, over a model's mark and colour."""
        own = self.colour or colour
        inside = "white" if self.is_hollow else own
        return {
            "marker": self.marker or marker,
            "color": own,
            "markerfacecolor": inside,
            "markersize": 8 if self.marker else 6,
        }


VERDICTS = {
    "ok": Mark(),
    "overloaded": Mark("X", WARNING),
    "client limited": Mark(is_hollow=True),
    "failed": Mark("x", BAD),
}


@dataclass(frozen=True)
class Bars:
    """Intervals as upright lines; one that is not bounded from above is dotted to the top."""

    loads: Sequence[float]
    ends: Sequence[Sequence[float | None] | None]
    colour: str

    def known(self) -> list[float | None]:
        """All ends, for the axis."""
        found: list[float | None] = []
        for ends in self.ends:
            found += ends or []
        return found

    def draw(self, axes: Axes) -> None:
        """On an axis whose limits are those of the plot."""
        top = axes.get_ylim()[1]
        for load, ends in zip(self.loads, self.ends, strict=True):
            low, high = ends or (None, None)
            if low is None:
                continue
            line = "-" if high is not None else ":"
            end = top if high is None else high
            axes.vlines(
                load,
                low,
                end,
                colors=self.colour,
                linestyles=line,
                linewidth=1.2,
            )


def draw_marks(
    axes: Axes,
    model: str,
    levels: Sequence[Block],
    across: Sequence[float],
    up: Sequence[float],
) -> None:
    """A mark at each point (across, up), never cut off at an edge."""
    for level, x, y in zip(levels, across, up, strict=True):
        mark = VERDICTS[verdict_of(level)]
        look = mark.look(marker_of(model), colour_of(model))
        axes.plot(
            [x],
            [y],
            linestyle="",
            clip_on=False,
            zorder=3,
            **look,
        )


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
