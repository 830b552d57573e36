"""The levels of a load test against their load: throughput, latency with its intervals, what was
offered against what was served, goodput, and where the time went.

A mark's shape says the verdict: filled is ok, hollow does not describe the server.
"""

from __future__ import annotations

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
    marker_of,
    plain,
    scale_word,
    to_svg,
)
from engine.stages.report.level_tables import load_name, served, slo_text
from engine.stages.report.marks import VERDICTS, Bars, draw_legend, draw_marks
from engine.stages.report.page import Plot
from engine.stages.report.table import Block

Loaded = Mapping[str, Sequence[Block]]  # by model: its levels of one kind of load, by load


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
            drawn += _against(axis, loaded)
    opened = _with(serving, "offered_rps")
    if any(opened.values()):
        drawn.append(Plot("Served against offered requests per second", to_svg(_offered, opened)))
    told = _with(serving, "server")
    for model, levels in told.items():
        if any(finite(level["server"]["parts_ms"].values()) for level in levels):
            size = (SIZE[0], 1.5 + 0.28 * len(levels))
            title = label_of(model, serving, "Where the time goes", ": ")
            drawing = to_svg(
                _time_parts,
                title,
                levels,
                size=size,
            )
            drawn.append(Plot(f"Where the time of a request to {model} goes", drawing))
    return drawn


def _with(serving: Mapping[str, Block], field: str) -> dict[str, list[Block]]:
    found = {}
    for model, measured in serving.items():
        found[model] = [level for level in measured["levels"] if level.get(field) is not None]
    return found


def _against(axis: Axis, loaded: Loaded) -> list[Plot]:
    drawn = [
        Plot(f"Output tokens per second against {axis.name}", to_svg(_throughput, axis, loaded)),
        Plot(f"Time to first token against {axis.name}", to_svg(_latency, axis, loaded, "ttft")),
        Plot(f"Time per output token against {axis.name}", to_svg(_latency, axis, loaded, "tpot")),
    ]
    if any(level.get("goodput") for levels in loaded.values() for level in levels):
        caption = f"Requests within the SLO per second against {axis.name}"
        drawn.append(Plot(caption, to_svg(_goodput, axis, loaded)))
    return drawn


def _throughput(page: Figure, axis: Axis, loaded: Loaded) -> None:
    axes = page.subplots()
    shown: list[float | None] = []
    for model, levels in loaded.items():
        values = [level["output_tokens_per_second"] for level in levels]
        ends = [level.get("output_tokens_per_second_ci") for level in levels]
        bars = Bars(
            axis.loads(levels),
            ends,
            colour_of(model),
        )
        _curve(
            axes,
            axis,
            model,
            levels,
            values,
            label=label_of(model, loaded, "tokens"),
        )
        bars.draw(axes)
        shown += values + bars.known()
    from_zero(axes, shown)
    _finish(page, axes, axis, loaded, "Throughput (output tokens/s)")


def _latency(
    page: Figure,
    axis: Axis,
    loaded: Loaded,
    kind: str,
) -> None:
    """p50 and p99 with their intervals; what is infinite has no mark, and a ∞ at the top."""
    axes = page.subplots()
    shown: list[float | None] = []
    drawn: list[Bars] = []
    for model, levels in loaded.items():
        for percentile, line in (("p50", "-"), ("p99", "--")):
            values = [level[f"{kind}_ms"][percentile] for level in levels]
            ends = [(level.get(f"{kind}_ms_ci") or {}).get(percentile) for level in levels]
            bars = Bars(
                axis.loads(levels),
                ends,
                colour_of(model),
            )
            label = label_of(model, loaded, percentile)
            _curve(
                axes,
                axis,
                model,
                levels,
                values,
                label=label,
                linestyle=line,
            )
            shown += values + bars.known()
            drawn.append(bars)
    heights(axes, shown)
    for bars in drawn:
        bars.draw(axes)
    for model, levels in loaded.items():
        for level in levels:
            if level["failed"] and level[f"{kind}_ms"]["p99"] is None:
                _infinite(
                    axes,
                    axis.load(level),
                    colour_of(model),
                )
    _finish(page, axes, axis, loaded, f"{TITLES[kind]} (ms{scale_word(axes)})")


def _infinite(axes: Axes, load: float | None, colour: str) -> None:
    place = axes.get_xaxis_transform()
    axes.text(
        load or 0.0,
        1.0,
        "∞",
        transform=place,
        ha="center",
        va="top",
        color=colour,
    )


def _goodput(page: Figure, axis: Axis, loaded: Loaded) -> None:
    """Good requests, and all that were served, dotted."""
    axes = page.subplots()
    shown: list[float | None] = []
    promise = ""
    for model, levels in loaded.items():
        judged = [level for level in levels if level.get("goodput")]
        if not judged:
            continue
        promise = slo_text(judged[0]["goodput"]["slo"])
        good = [level["goodput"]["rps"] for level in judged]
        whole = [served(level) for level in judged]
        colour = colour_of(model)
        label = label_of(model, loaded, "served")
        axes.plot(
            axis.loads(judged),
            whole,
            color=colour,
            linestyle=":",
            label=label,
        )
        label = label_of(model, loaded, "within SLO")
        _curve(
            axes,
            axis,
            model,
            judged,
            good,
            label=label,
        )
        shown += good + whole
    from_zero(axes, shown)
    _finish(page, axes, axis, loaded, "Goodput (requests/s)")
    axes.set_title("Goodput (requests/s)", pad=20)
    axes.annotate(
        promise,
        (0, 1),
        (0, 4),
        "axes fraction",
        "offset points",
        fontsize=9,
    )


def _offered(page: Figure, opened: Mapping[str, Sequence[Block]]) -> None:
    """On the dashed line a server keeps up."""
    axes = page.subplots()
    shown: list[float | None] = []
    for model, levels in opened.items():
        offered = [level["offered_rps"] for level in levels]
        values = [served(level) for level in levels]
        ends = [level.get("served_rps_ci") for level in levels]
        bars = Bars(offered, ends, colour_of(model))
        bars.draw(axes)
        draw_marks(axes, model, levels, offered, values)
        if levels:
            look = VERDICTS["ok"].look(marker_of(model), colour_of(model))
            axes.plot(
                [],
                [],
                linestyle="",
                label=label_of(model, opened, "a level"),
                **look,
            )
        shown += values + offered + bars.known()
    end = from_zero(axes, shown)
    axes.set_xlim(0, end)
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
    every = [level for levels in opened.values() for level in levels]
    draw_legend(page, axes, every)


def _time_parts(page: Figure, title: str, levels: Sequence[Block]) -> None:
    """A bar for each level, its parts in the order in which a request meets them."""
    axes = page.subplots()
    shown = [level for level in levels if finite(level["server"]["parts_ms"].values())]
    shown.reverse()
    names = [load_name(level) for level in shown]
    places = list(range(len(shown)))
    left = np.zeros(len(shown))
    for part, colour in PARTS.items():
        parts = [level["server"]["parts_ms"][part] for level in shown]
        widths: np.ndarray = np.clip(
            np.nan_to_num(np.array(parts, float)),
            0,
            None,
        )
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
    axes.set_yticks(places, names)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, float(left.max()) * 1.03 or 1.0)
    axes.set_xlabel("mean ms of a request")
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.set_title(title)
    page.legend(loc="outside lower center", ncols=4)


def label_of(
    model: str,
    models: Collection[str],
    what: str,
    between: str = " ",
) -> str:
    """`what` alone where there is one model: its name stands above all."""
    return what if len(models) == 1 else f"{model}{between}{what}"


def _curve(
    axes: Axes,
    axis: Axis,
    model: str,
    levels: Sequence[Block],
    values: Sequence[float | None],
    *,
    label: str,
    linestyle: str = "-",
) -> None:
    """A line through the levels, and each level's mark; None is a gap."""
    if not levels:
        return
    loads = axis.loads(levels)
    numbers = np.array(values, float)
    axes.plot(
        loads,
        numbers,
        linestyle=linestyle,
        label=label,
        color=colour_of(model),
        marker=marker_of(model),
        markevery=[],
    )
    draw_marks(
        axes,
        model,
        levels,
        loads,
        numbers.tolist(),
    )


def _finish(
    page: Figure,
    axes: Axes,
    axis: Axis,
    loaded: Loaded,
    title: str,
) -> None:
    every = [level for levels in loaded.values() for level in levels]
    along_loads(axes, axis.loads(every))
    axes.set_xlabel(axis.label)
    axes.set_title(title)
    draw_legend(page, axes, every)
