"""A level on one time axis: the load, what was served, how fast, and what the server said.

One drawing for each level, of panels that share the axis; a panel without data is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.rows.records import TimeSlice
from engine.stages.report.drawing import (
    BAD,
    COLOURS,
    SIZE,
    SOFT,
    WARNING,
    finite,
    from_zero,
    heights,
    scale_word,
    to_svg,
    whole_numbers,
)
from engine.stages.report.level_tables import load_name
from engine.stages.report.load_plots import label_of
from engine.stages.report.marks import verdict_of
from engine.stages.report.page import Plot
from engine.stages.report.table import Block

INK = COLOURS["student"]
MOST_LEVELS = 8  # of a model that are drawn
_PANEL_INCHES = 1.15
_HEAD_INCHES = 0.55
_FOOT_INCHES = 0.5
_BETWEEN = 0.42  # of a panel's height


@dataclass(frozen=True)
class Line:
    """A column of the slices, and how it is drawn."""

    column: str
    label: str
    colour: str
    style: str = "-"
    steps: str = "default"  # matplotlib's drawstyle
    is_rare: bool = False  # left out where it is 0 throughout


@dataclass(frozen=True)
class Panel:
    """Lines with one unit, and the axis of their heights."""

    title: str
    lines: Sequence[Line]
    scale: Callable[[Axes, Sequence[float | None]], float] = from_zero
    is_count: bool = False


PANELS = (
    Panel(
        "Load (requests in flight)",
        [Line("in_flight", "in flight", INK)],
    ),
    Panel(
        "Requests per second",
        [
            Line("sent_rps", "sent", SOFT, "--"),
            Line("served_rps", "served", INK),
            Line("failed_rps", "failed", BAD, is_rare=True),
        ],
    ),
    Panel(
        "Time to first token (ms{scale})",
        [Line("ttft_p50_ms", "p50", INK), Line("ttft_p95_ms", "p95", INK, "--")],
        scale=heights,
    ),
    Panel(
        "In the server",
        [Line("queued", "queued", WARNING), Line("running", "running", INK)],
    ),
    Panel(
        "Replicas",
        [Line("replicas", "that answer", INK, steps="steps-mid")],
        is_count=True,
    ),
)


def time_plots(serving: Mapping[str, Block], slices: Sequence[TimeSlice]) -> list[Plot]:
    """A drawing for each level that was run; of many, the last ones, which are the highest loads of
    a list and the nearest to the knee of a search. `serving` and `slices` are of the same levels,
    in the same order."""
    if not slices:
        return []
    of_level: dict[str, dict[str, list[TimeSlice]]] = {}
    for each in slices:
        of_level.setdefault(each.model, {}).setdefault(each.level, []).append(each)
    drawn = []
    for model, measured in serving.items():
        axes = of_level.get(model, {}).values()
        pairs = list(
            zip(
                measured["levels"],
                axes,
                strict=True,
            )
        )
        for level, rows in pairs[-MOST_LEVELS:]:
            caption = f"{model} at {load_name(level)} over time"
            title = label_of(model, serving, f"at {load_name(level)}: {verdict_of(level)}")
            drawn.append(Plot(caption, _drawing(title, rows)))
    return drawn


def _drawing(title: str, rows: Sequence[TimeSlice]) -> str:
    panels = [panel for panel in PANELS if _has_data(panel, rows)]
    size = (SIZE[0], _HEAD_INCHES + _FOOT_INCHES + _PANEL_INCHES * len(panels))
    return to_svg(
        _draw,
        title,
        panels,
        rows,
        size=size,
        is_laid_out=True,
    )


def _has_data(panel: Panel, rows: Sequence[TimeSlice]) -> bool:
    values = []
    for line in panel.lines:
        values += [getattr(row, line.column) for row in rows]
    return bool(finite(values))


def _draw(
    page: Figure,
    title: str,
    panels: Sequence[Panel],
    rows: Sequence[TimeSlice],
) -> None:
    inches = page.get_figheight()
    page.suptitle(
        title,
        fontsize=11,
        fontweight="bold",
        x=0.02,
        y=1 - 0.1 / inches,
        ha="left",
    )
    page.subplots_adjust(
        left=0.13,
        right=0.97,
        top=1 - _HEAD_INCHES / inches,
        bottom=_FOOT_INCHES / inches,
        hspace=_BETWEEN,
    )
    drawn = page.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    at_s = [row.at_s for row in rows]
    for axes, panel in zip(drawn, panels, strict=True):
        _draw_panel(axes, panel, at_s, rows)
        if at_s[0] < 0:
            axes.axvspan(
                at_s[0],
                0,
                color="#f1f3f5",
                zorder=0,
            )
    drawn[0].set_xlim(at_s[0], at_s[-1])
    where = "seconds of the window"
    if at_s[0] < 0:
        where += "; grey: warm-up"
    drawn[-1].set_xlabel(where)


def _draw_panel(
    axes: Axes,
    panel: Panel,
    at_s: Sequence[float],
    rows: Sequence[TimeSlice],
) -> None:
    shown: list[float | None] = []
    for line in panel.lines:
        values = [getattr(row, line.column) for row in rows]
        if not finite(values) or (line.is_rare and not any(values)):
            continue
        # What was not seen in every slice is joined over those where it was.
        known = [(at, value) for at, value in zip(at_s, values, strict=True) if value is not None]
        across, up = np.array(known).T
        axes.plot(
            across,
            up,
            color=line.colour,
            linestyle=line.style,
            linewidth=1.4,
            label=line.label,
            drawstyle=line.steps,
            clip_on=False,
        )
        shown += values
    panel.scale(axes, shown)
    if panel.is_count:
        whole_numbers(axes)
    axes.set_title(
        panel.title.format(scale=scale_word(axes)),
        fontsize=9,
        fontweight="normal",
    )
    axes.tick_params(labelsize=9)
    if len(panel.lines) > 1:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 0.96),
            ncols=3,
            borderaxespad=0.1,
            handlelength=1.4,
            columnspacing=1.0,
        )
