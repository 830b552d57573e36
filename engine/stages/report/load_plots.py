"""The levels of a load test against their load: throughput, latency with its intervals, what was
offered against what was served, goodput, and where the time went.

A mark's shape says the verdict: filled is ok, hollow does not describe the server.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from engine.stages.report.drawing import (
    SIZE,
    SOFT,
    along_loads,
    colour_of,
    finite,
    from_zero,
    heights,
    plain,
    scale_word,
    to_svg,
)
from engine.stages.report.level_tables import load_name, served, slo_text
from engine.stages.report.marks import Curve, Ends, draw_curves, draw_legend, shown_by
from engine.stages.report.page import Plot
from engine.stages.report.table import Block

Loaded = Mapping[str, Sequence[Block]]  # by model: its levels of one kind of load, by load


_REST = "the rest"


@dataclass(frozen=True)
class Axis:
    """A kind of load: which levels have it, and how it is called."""

    name: str
    label: str
    load: Callable[[Block], float | None]

    def loads(self, levels: Iterable[Block]) -> list[float]:
        """Of levels that have it."""
        return finite(map(self.load, levels))


def _of_kind(field: str, *, sessions: bool) -> Callable[[Block], float | None]:
    def load(level: Block) -> float | None:
        if (level.get("kind") == "sessions") != sessions:
            return None
        return level.get(field)

    return load


AXES = (
    Axis("concurrency", "requests in flight", _of_kind("concurrency", sessions=False)),
    Axis("users", "users", _of_kind("concurrency", sessions=True)),
    Axis("rate", "requests per second", _of_kind("rate", sessions=False)),
)
PARTS = {
    "late": "#b3261e",
    "network": "#c9d1d9",
    "ingress": "#8a96a3",
    "handling": "#44546a",
    "queue": "#c2571a",
    "prefill": "#58a39c",
    "decode": "#0b7a75",
    _REST: "#eceff2",
}
TITLES = {"ttft": "Time to first token", "tpot": "Time per output token"}


def load_plots(serving: Mapping[str, Block]) -> list[Plot]:
    """Each plot that has data; `serving` as in report.json."""
    drawn = []
    for axis in AXES:
        loaded: dict[str, Sequence[Block]] = {}
        for model, measured in serving.items():
            found = [level for level in measured["levels"] if axis.load(level) is not None]
            loaded[model] = sorted(found, key=lambda level: axis.load(level) or 0.0)
        if any(loaded.values()):
            drawn += _against(axis, loaded, _knees(axis, serving))
    opened = _with(serving, "offered_rps")
    if any(opened.values()):
        drawn.append(Plot("Served against offered requests per second", to_svg(_offered, opened)))
    told = _with(serving, "server")
    for model, levels in told.items():
        if any(finite(level["server"]["parts_ms"].values()) for level in levels):
            size = (SIZE[0], 1.5 + 0.28 * len(levels))
            title = "Where the time goes"
            if len(serving) > 1:
                title += f": {model}"
            drawing = to_svg(_time_parts, title, levels, size=size)
            drawn.append(Plot(f"Where the time of a request to {model} goes", drawing))
    return drawn


def _knees(axis: Axis, serving: Mapping[str, Block]) -> dict[str, Block]:
    """By model, where a search along this axis found one."""
    found = {}
    for model, measured in serving.items():
        knee = measured.get("knee")
        if knee and knee["search"] == axis.name and knee["load"] is not None:
            found[model] = knee
    return found


def _with(serving: Mapping[str, Block], field: str) -> dict[str, list[Block]]:
    found = {}
    for model, measured in serving.items():
        found[model] = [level for level in measured["levels"] if level.get(field) is not None]
    return found


def _against(axis: Axis, loaded: Loaded, knees: Mapping[str, Block]) -> list[Plot]:
    drawn = [
        Plot(
            f"Output tokens per second against {axis.name}",
            to_svg(_throughput, axis, loaded),
        ),
        Plot(
            f"Time to first token against {axis.name}",
            to_svg(_latency, axis, loaded, "ttft"),
        ),
        Plot(
            f"Time per output token against {axis.name}",
            to_svg(_latency, axis, loaded, "tpot"),
        ),
    ]
    judged: dict[str, Sequence[Block]] = {}
    for model, levels in loaded.items():
        judged[model] = [level for level in levels if level.get("goodput")]
    if any(judged.values()):
        caption = f"Requests within the SLO per second against {axis.name}"
        drawn.append(Plot(caption, to_svg(_goodput, axis, judged, knees)))
    return drawn


def _throughput(page: Figure, axis: Axis, loaded: Loaded) -> None:
    curves = []
    for model, levels in loaded.items():
        curve = Curve(
            model,
            levels,
            loads=axis.loads(levels),
            values=[level["output_tokens_per_second"] for level in levels],
            ends=[level.get("output_tokens_per_second_ci") for level in levels],
            label=label_of(model, loaded, "tokens"),
        )
        curves.append(curve)
    axes = page.subplots()
    from_zero(axes, shown_by(curves))
    draw_curves(axes, curves)
    _finish(page, axes, axis, loaded, "Throughput (output tokens/s)")


def _latency(page: Figure, axis: Axis, loaded: Loaded, kind: str) -> None:
    """p50 and p99 with their intervals; what is infinite has no mark, and a ∞ at the top."""
    curves = []
    for model, levels in loaded.items():
        for percentile, line, size in (("p50", "-", 6), ("p99", "--", 4)):
            curve = Curve(
                model,
                levels,
                loads=axis.loads(levels),
                values=[level[f"{kind}_ms"][percentile] for level in levels],
                ends=[_ends(level, kind, percentile) for level in levels],
                label=label_of(model, loaded, percentile),
                line=line,
                size=size,
            )
            curves.append(curve)
    axes = page.subplots()
    heights(axes, shown_by(curves))
    draw_curves(axes, curves)
    for model, levels in loaded.items():
        for level in levels:
            if level["failed"] and level[f"{kind}_ms"]["p99"] is None:
                _infinite(axes, axis.load(level), colour_of(model))
    title = f"{TITLES[kind]} (ms{scale_word(axes)})"
    _finish(page, axes, axis, loaded, title)


def _ends(level: Block, kind: str, percentile: str) -> Ends:
    intervals = level.get(f"{kind}_ms_ci") or {}
    return intervals.get(percentile)


def _infinite(axes: Axes, load: float | None, colour: str) -> None:
    axes.text(
        load or 0.0,
        1.0,
        "∞",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="top",
        color=colour,
    )


def _goodput(page: Figure, axis: Axis, judged: Loaded, knees: Mapping[str, Block]) -> None:
    """Good requests, and all that were served, dotted; the knee as an upright line within its
    interval."""
    axes = page.subplots()
    curves = []
    all_served: list[float] = []
    promise = ""
    for model, levels in judged.items():
        if not levels:
            continue
        promise = slo_text(levels[0]["goodput"]["slo"])
        whole = list(map(served, levels))
        axes.plot(
            axis.loads(levels),
            whole,
            color=colour_of(model),
            linestyle=":",
            label=label_of(model, judged, "served"),
        )
        all_served += whole
        curve = Curve(
            model,
            levels,
            loads=axis.loads(levels),
            values=[level["goodput"]["rps"] for level in levels],
            ends=[None] * len(levels),
            label=label_of(model, judged, "within SLO"),
        )
        curves.append(curve)
    from_zero(axes, [*all_served, *shown_by(curves)])
    draw_curves(axes, curves)
    for model, knee in knees.items():
        _draw_knee(axes, knee, colour_of(model), label_of(model, judged, "knee"))
    title = "Goodput (requests/s)"
    _finish(page, axes, axis, judged, title)
    axes.set_title(title, pad=20)
    axes.annotate(promise, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=9)


def _draw_knee(axes: Axes, knee: Block, colour: str, label: str) -> None:
    """An end that is not known is left out."""
    low, high = (end or knee["load"] for end in knee["interval"])
    axes.axvspan(low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axvline(knee["load"], color=colour, linestyle="-.", linewidth=1, label=label)


def _offered(page: Figure, opened: Loaded) -> None:
    """On the dashed line a server keeps up."""
    curves = []
    for model, levels in opened.items():
        curve = Curve(
            model,
            levels,
            loads=[level["offered_rps"] for level in levels],
            values=list(map(served, levels)),
            ends=[level.get("served_rps_ci") for level in levels],
            label=label_of(model, opened, "levels"),
            line="",
        )
        curves.append(curve)
    offered = [load for curve in curves for load in curve.loads]
    axes = page.subplots()
    end = from_zero(axes, [*offered, *shown_by(curves)])
    axes.set_xlim(0, end)
    draw_curves(axes, curves)
    axes.plot(
        [0, end],
        [0, end],
        color=SOFT,
        linestyle="--",
        linewidth=1,
        label="keeps up",
    )
    axes.set_xlabel("offered requests per second")
    axes.set_title("Served requests per second")
    draw_legend(page, axes, _all(opened))


def _time_parts(page: Figure, title: str, levels: Sequence[Block]) -> None:
    """A bar for each level, its parts in the order in which a request meets them."""
    shown = [level for level in levels if finite(level["server"]["parts_ms"].values())]
    shown.reverse()
    places = list(range(len(shown)))
    left = np.zeros(len(shown))
    axes = page.subplots()
    for part, colour in PARTS.items():
        parts = [_part_ms(level["server"], part) for level in shown]
        widths: np.ndarray = np.clip(parts, 0, None)
        if widths.any():
            axes.barh(
                places,
                widths,
                left=left,
                height=0.62,
                color=colour,
                label=part,
            )
        left = left + widths
    axes.set_yticks(places, list(map(load_name, shown)))
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, float(left.max()) * 1.03 or 1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.set_xlabel("mean ms of a request")
    axes.set_title(title)
    page.legend(loc="outside lower center", ncols=4)


def _part_ms(server: Block, part: str) -> float:
    """What no part is known for is one part more."""
    if part != _REST:
        return server["parts_ms"][part] or 0.0
    known = finite(server["parts_ms"].values())
    if len(known) == len(server["parts_ms"]):
        return 0.0
    return server["e2e_ms"] - sum(known)


def label_of(model: str, models: Collection[str], what: str) -> str:
    """`what` alone where there is one model: its name stands above all."""
    return what if len(models) == 1 else f"{model} {what}"


def _finish(page: Figure, axes: Axes, axis: Axis, loaded: Loaded, title: str) -> None:
    every = _all(loaded)
    along_loads(axes, axis.loads(every))
    axes.set_xlabel(axis.label)
    axes.set_title(title)
    draw_legend(page, axes, every)


def _all(loaded: Loaded) -> list[Block]:
    return list(itertools.chain.from_iterable(loaded.values()))
