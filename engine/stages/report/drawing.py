"""How a plot becomes inline SVG: no script, no file, no network; text stays text. And what all
plots have in common: colours, marks, and axes that cut nothing off."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

COLOURS = {
    "teacher": "#44546a",
    "baseline": "#a9b4c2",
    "student": "#0b7a75",
}
MARKERS = {
    "teacher": "s",
    "baseline": "^",
    "student": "o",
}
DEFAULT = "student"  # whose colour and marker a model of another name gets
WARNING = "#c2571a"
BAD = "#b3261e"
SOFT = "#8a96a3"
SIZE = (4.6, 2.9)  # inches
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distill",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # the page's reader may have another, which is as good
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 2.6,
}
_HEADROOM = 1.08
_WIDE = 30.0  # the largest value over the smallest
_MOST_TICKS = 7
_MANY_DECADES = 200.0


def to_svg(
    draw: Callable[..., None],
    *data: Any,
    size: tuple[float, float] = SIZE,
    is_laid_out: bool = False,
) -> str:
    """What `draw(figure, *data)` draws on an empty figure of so many inches. Where that has not
    laid out its axes itself, they get the room that their labels leave, which takes longer."""
    layout = None if is_laid_out else "constrained"
    with matplotlib.rc_context(STYLE):  # ty: ignore[invalid-argument-type]  # names of rcParams
        page = Figure(figsize=size, layout=layout)
        draw(page, *data)
        out = io.StringIO()
        page.savefig(
            out,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    return _smaller(out.getvalue())


def _smaller(text: str) -> str:
    """Without the XML head and its DTD; without group names, which several plots in one page would
    share; no finer than a hundredth of a point, and without what draws nothing."""
    drawing = text[text.index("<svg") :]
    drawing = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", drawing)
    drawing = re.sub(r' transform="rotate\(-0 [^"]*"', "", drawing)
    drawing = re.sub(r' (?:d|x|y|transform)="[^"]*"', _round_numbers, drawing)
    return re.sub(r">\s+<", "><", drawing) + "\n"


def _round_numbers(attribute: re.Match[str]) -> str:
    rounded = re.sub(
        r"(\.\d\d)\d+",
        r"\1",
        attribute[0],
    )
    return rounded.replace("\n", "")


def colour_of(model: str) -> str:
    """A model's own."""
    return COLOURS.get(model, COLOURS[DEFAULT])


def marker_of(model: str) -> str:
    """A model's own."""
    return MARKERS.get(model, MARKERS[DEFAULT])


def finite(values: Iterable[float | None]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def from_zero(axes: Axes, values: Iterable[float | None]) -> float:
    """An axis of heights from 0 to a little above the largest, so that no mark is cut at the edge;
    from 0 to 1 where all are 0. Returns its end."""
    top = max(finite(values), default=0.0) * _HEADROOM or 1.0
    axes.set_ylim(0, top)
    return top


def spread(values: Iterable[float | None]) -> float:
    """The largest over the smallest; 1 where a logarithm could not show them all."""
    known = finite(values)
    if not known or min(known) <= 0:
        return 1.0
    return max(known) / min(known)


def heights(axes: Axes, values: Sequence[float | None]) -> float:
    """An axis of latencies: linear from 0, or logarithmic where that would hide the small ones.
    Returns its upper end."""
    known = finite(values)
    if spread(known) <= _WIDE:
        return from_zero(axes, known)
    top = max(known) * 1.5
    axes.set_yscale("log")
    axes.set_ylim(min(known) / 1.5, top)
    plain_ticks(axes)
    return top


def plain_ticks(axes: Axes) -> None:
    """Numbers, not powers, on a logarithmic axis of heights; where it is shorter than a decade or
    so, also between the powers."""
    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < _MANY_DECADES else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_locator(NullLocator())


def scale_word(axes: Axes) -> str:
    """What a title adds where the scale is not linear."""
    return ", log scale" if axes.get_yscale() == "log" else ""


def plain(value: float, place: int | None = None) -> str:
    """A tick as people write it."""
    return f"{value:,.10g}"


def along_loads(axes: Axes, loads: Iterable[float]) -> None:
    """A logarithmic axis of loads, each with its tick where there is room for all."""
    values = sorted(set(loads))
    axes.set_xscale("log", base=2)
    axes.set_xlim(values[0] / 1.25, values[-1] * 1.25)
    ticks = values
    if len(values) > _MOST_TICKS or _is_crowded(values):
        ticks = [tick for tick in _powers_of_two(values) if values[0] <= tick <= values[-1]]
    if len(ticks) < 2:
        ticks = list(dict.fromkeys([values[0], values[-1]]))
    axes.set_xticks(ticks, [plain(tick) for tick in ticks])
    axes.minorticks_off()


def _is_crowded(values: Sequence[float]) -> bool:
    """Whether two neighbours' labels would touch."""
    room = math.log(values[-1] * 1.25 / (values[0] / 1.25)) / _MOST_TICKS
    gaps = [math.log(after / before) for before, after in itertools.pairwise(values)]
    return bool(gaps) and min(gaps) < room / 2


def _powers_of_two(values: Sequence[float]) -> list[float]:
    first = math.floor(math.log2(values[0]))
    last = math.ceil(math.log2(values[-1]))
    return [2.0**power for power in range(first, last + 1)]


def whole_numbers(axes: Axes) -> None:
    """Heights that are counts."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
