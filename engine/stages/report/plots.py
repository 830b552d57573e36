"""Plots as inline SVG: no script, no file, no network; text stays text. One axis each, readable on
a phone and on paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.stages.report.cells import MODELS, Block, figure, words

COLOURS = {"teacher": "#44546a", "baseline": "#a9b4c2", "student": "#0b7a75"}
MARKERS = {"teacher": "s", "baseline": "^", "student": "o"}
_LOADS = {"concurrency": "requests in flight", "rate": "requests per second"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distill",
    "font.family": "sans-serif",
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
    "legend.handlelength": 3.4,
}

Loaded = dict[str, list[Block]]  # by model: its levels of one kind of load
Values = dict[str, Callable[[Block], float | None]]  # by name: what a level has of it


def plots(report: Block, metrics: list[Block]) -> list[tuple[str, str]]:
    """(what it shows, SVG) of each plot that has data; `metrics` are the lines of the training's
    metrics.jsonl."""
    drawn = [
        ("Scores on the validation prompts with 95 % intervals", _svg(_quality, report["quality"])),
        ("Training and validation loss by step", _svg(_training, metrics)),
    ]
    for load in ("concurrency", "rate"):
        loaded: Loaded = {}
        for model, measured in report["serving"].items():
            loaded[model] = [level for level in measured["levels"] if load in level]
        if any(loaded.values()):
            throughput = _svg(_throughput, load, loaded)
            drawn.append((f"Output tokens per second against {load}", throughput))
            latency = _svg(_latency, load, loaded)
            drawn.append((f"Time to first token against {load}", latency))
    funnel = _svg(_funnel, report["curate"]["funnel"])
    return [*drawn, ("Rows left after each filter", funnel)]


def _svg(draw: Callable[..., None], *data: Any) -> str:
    with matplotlib.rc_context(STYLE):  # ty: ignore[invalid-argument-type]  # names of rcParams
        page = Figure(figsize=(4.6, 2.9), layout="constrained")
        draw(page.subplots(), *data)
        out = io.StringIO()
        page.savefig(
            out,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    text = out.getvalue()
    # Without the XML head and its DTD; without group names, which several plots in one page would
    # share.
    drawing = text[text.index("<svg") :]
    return re.sub(r' id="[a-z0-9]+_\d+"', "", drawing)


def _quality(axes: Axes, quality: Block) -> None:
    shown: list[str] = []
    scores: list[float] = []
    below: list[float] = []
    above: list[float] = []
    for model in reversed(MODELS):
        score = quality[model]
        if score is None:
            continue
        low, high = quality["ci95"].get(model) or (score, score)
        shown.append(model)
        scores.append(score)
        below.append(abs(score - low))
        above.append(abs(score - high))
    _bars(
        axes,
        shown,
        scores,
        list(map(figure, scores)),
        color=[COLOURS[model] for model in shown],
        xerr=[below, above],
        error_kw={"elinewidth": 1.2, "capsize": 4},
    )
    axes.set_title(f"Quality: {words(quality['metric'])}")


def _bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], labels: Sequence[str], **style: Any
) -> None:
    bars = axes.barh(names, values, height=0.6, **style)
    axes.bar_label(bars, labels=labels, padding=4)
    axes.margins(x=0.2)
    axes.grid(visible=False, axis="y")


def _training(axes: Axes, metrics: list[Block]) -> None:
    _loss(axes, metrics, "loss", label="training", color=COLOURS["student"], marker="")
    _loss(axes, metrics, "validation_loss", label="validation", color="#c2571a", marker="o")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimizer step")
    axes.set_title("Loss (nats per token)")
    axes.legend()


def _loss(axes: Axes, metrics: list[Block], key: str, **style: str) -> None:
    steps: list[int] = []
    losses: list[float] = []
    for line in metrics:
        if line.get(key) is not None:
            steps.append(line["step"])
            losses.append(line[key])
    if steps:
        axes.plot(steps, losses, linewidth=1.4, **style)  # ty: ignore[invalid-argument-type]


def _throughput(axes: Axes, load: str, loaded: Loaded) -> None:
    _curves(axes, load, loaded, {"": lambda level: level["output_tokens_per_second"]})
    axes.set_title("Throughput (output tokens/s)")


def _latency(axes: Axes, load: str, loaded: Loaded) -> None:
    percentiles: Values = {
        "p50": lambda level: level["ttft_ms"]["p50"],
        "p95": lambda level: level["ttft_ms"]["p95"],
    }
    _curves(axes, load, loaded, percentiles)
    axes.set_title("Time to first token (ms)")


def _curves(axes: Axes, load: str, loaded: Loaded, values: Values) -> None:
    for model, levels in loaded.items():
        for (name, value_of), line in zip(values.items(), ("-", "--"), strict=False):
            # None, which is infinite, becomes nan: a gap
            heights = np.array([value_of(level) for level in levels], dtype=float)
            label = None
            if levels:
                label = f"{model} {name}".strip()
            _curve(axes, model, load, levels, heights, linestyle=line, label=label)
    loads: set[float] = set()
    for levels in loaded.values():
        loads.update(level[load] for level in levels)
    ticks = sorted(loads)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(_LOADS[load])
    axes.legend()


def _curve(
    axes: Axes,
    model: str,
    load: str,
    levels: list[Block],
    heights: np.ndarray,
    *,
    linestyle: str,
    label: str | None,
) -> None:
    loads = [level[load] for level in levels]
    doubtful = [at for at, level in enumerate(levels) if not level["valid"]]
    colour = COLOURS[model]
    marker = MARKERS[model]
    axes.plot(loads, heights, linestyle=linestyle, label=label, color=colour, marker=marker)
    # hollow, as † in the tables
    axes.plot(
        loads,
        heights,
        linestyle="",
        markerfacecolor="white",
        markevery=doubtful,
        color=colour,
        marker=marker,
    )


def _funnel(axes: Axes, funnel: list[list[Any]]) -> None:
    names: list[str] = []
    left: list[int] = []
    labels: list[str] = []
    for name, rows in reversed(funnel):
        names.append(words(name))
        left.append(rows)
        labels.append(f"{rows:,}")
    _bars(axes, names, left, labels, color=COLOURS["student"])
    axes.locator_params(axis="x", nbins=4)
    axes.set_title("Curation: rows left after each filter")
