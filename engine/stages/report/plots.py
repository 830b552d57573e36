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

from engine.stages.report.tables import MODELS, figure, words

COLOURS = {"teacher": "#44546a", "baseline": "#a9b4c2", "student": "#0b7a75"}
MARKERS = {"teacher": "s", "baseline": "^", "student": "o"}
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


def plots(report: dict[str, Any], metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what it shows, SVG) of each plot that has data; `metrics` are the lines of the training's
    metrics.jsonl."""
    drawn = [
        ("Scores on the validation prompts with 95 % intervals", _svg(_quality, report["quality"])),
        ("Training and validation loss by step", _svg(_training, metrics)),
    ]
    for load in ("concurrency", "rate"):
        loaded = {
            model: [level for level in found["levels"] if load in level]
            for model, found in report["serving"].items()
        }
        if any(loaded.values()):
            drawn.append(
                (f"Output tokens per second against {load}", _svg(_throughput, load, loaded))
            )
            drawn.append((f"Time to first token against {load}", _svg(_latency, load, loaded)))
    return [*drawn, ("Rows left after each filter", _svg(_funnel, report["curate"]["funnel"]))]


def _svg(draw: Callable[..., None], *data: Any) -> str:
    with matplotlib.rc_context(STYLE):
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
    return re.sub(r' id="[a-z0-9]+_\d+"', "", text[text.index("<svg") :])


def _quality(axes: Axes, quality: dict[str, Any]) -> None:
    shown = [model for model in reversed(MODELS) if quality[model] is not None]
    scores = [quality[model] for model in shown]
    bounds = [quality["ci95"].get(model) or (quality[model], quality[model]) for model in shown]
    errors = [
        [abs(score - bound[side]) for score, bound in zip(scores, bounds, strict=True)]
        for side in (0, 1)
    ]
    colours = [COLOURS[model] for model in shown]
    _bars(
        axes,
        shown,
        scores,
        list(map(figure, scores)),
        color=colours,
        xerr=errors,
        error_kw={"elinewidth": 1.2, "capsize": 4},
    )
    axes.set_title(f"Quality: {words(quality['metric'])}")


def _bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], labels: Sequence[str], **style: Any
) -> None:
    axes.bar_label(axes.barh(names, values, height=0.6, **style), labels=labels, padding=4)
    axes.margins(x=0.2)
    axes.grid(visible=False, axis="y")


def _training(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    series = (
        ("loss", "training", COLOURS["student"], ""),
        ("validation_loss", "validation", "#c2571a", "o"),
    )
    for key, label, colour, marker in series:
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, label=label, linewidth=1.4
            )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimizer step")
    axes.set_title("Loss (nats per token)")
    axes.legend()


def _throughput(axes: Axes, load: str, loaded: dict[str, list[dict[str, Any]]]) -> None:
    _curves(axes, load, loaded, {"": lambda level: level["output_tokens_per_second"]})
    axes.set_title("Throughput (output tokens/s)")


def _latency(axes: Axes, load: str, loaded: dict[str, list[dict[str, Any]]]) -> None:
    _curves(
        axes,
        load,
        loaded,
        {
            "p50": lambda level: level["ttft_ms"]["p50"],
            "p95": lambda level: level["ttft_ms"]["p95"],
        },
    )
    axes.set_title("Time to first token (ms)")


def _curves(
    axes: Axes,
    load: str,
    loaded: dict[str, list[dict[str, Any]]],
    values: dict[str, Callable[[dict[str, Any]], float | None]],
) -> None:
    for model, levels in loaded.items():
        x, style = (
            [level[load] for level in levels],
            {"color": COLOURS[model], "marker": MARKERS[model]},
        )
        doubtful = [
            at for at, level in enumerate(levels) if not level["valid"]
        ]  # hollow, as † in the tables
        for (name, value_of), line in zip(values.items(), ("-", "--"), strict=False):
            y = np.array(
                [value_of(level) for level in levels], dtype=float
            )  # None, which is infinite, becomes nan: a gap
            axes.plot(
                x, y, linestyle=line, label=f"{model} {name}".strip() if levels else None, **style
            )
            axes.plot(x, y, linestyle="", markerfacecolor="white", markevery=doubtful, **style)
    ticks = sorted({level[load] for levels in loaded.values() for level in levels})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests in flight" if load == "concurrency" else "requests per second")
    axes.legend()


def _funnel(axes: Axes, funnel: list[list[Any]]) -> None:
    names, left = (
        [words(name) for name, _ in reversed(funnel)],
        [rows for _, rows in reversed(funnel)],
    )
    _bars(axes, names, left, [f"{rows:,}" for rows in left], color=COLOURS["student"])
    axes.locator_params(axis="x", nbins=4)
    axes.set_title("Curation: rows left after each filter")
