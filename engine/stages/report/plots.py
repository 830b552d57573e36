"""Plots as inline SVG: no script, no file, no network; text stays text. One axis each, readable on a phone and on paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from engine.stages.report.tables import MODELS, figure, words

COLOURS = {"teacher": "#44546a", "baseline": "#a9b4c2", "student": "#0b7a75"}
MARKERS = {"teacher": "s", "baseline": "^", "student": "o"}
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "distill", "font.family": "sans-serif", "font.size": 10, "axes.titlesize": 11,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0", "axes.labelcolor": "#3c4650", "xtick.color": "#3c4650", "ytick.color": "#3c4650",
    "text.color": "#1f2730", "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6eaee", "legend.frameon": False,
    "lines.linewidth": 1.8, "lines.markersize": 5, "legend.fontsize": 9, "legend.handlelength": 3.4,
}


def plots(report: dict[str, Any], metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what it shows, SVG) of each plot that has data; `metrics` are the lines of the training's metrics.jsonl."""
    drawn = []
    if report["quality"]:
        drawn.append(("Scores on the validation prompts with 95 % intervals", _svg(_quality, report["quality"])))
    if any("loss" in line for line in metrics):
        drawn.append(("Training and validation loss by step", _svg(_training, metrics)))
    for load in ("concurrency", "rate"):
        loaded = {model: [level for level in found["levels"] if load in level] for model, found in report["serving"].items()}
        if lines := {model: levels for model, levels in loaded.items() if levels}:
            drawn.append((f"Output tokens per second against {load}", _svg(_throughput, load, lines)))
            drawn.append((f"Time to first token against {load}", _svg(_latency, load, lines)))
    if report["curate"] and report["curate"]["funnel"]:
        drawn.append(("Rows left after each filter", _svg(_funnel, report["curate"]["funnel"])))
    return drawn


def _svg(draw: Callable[..., None], *data: Any) -> str:
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(4.6, 2.9), layout="constrained")
        draw(page.subplots(), *data)
        out = io.StringIO()
        page.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    # Without the XML head and its DTD; without group names, which several plots in one page would share.
    return re.sub(r' id="[a-z0-9]+_\d+"', "", text[text.index("<svg") :])


def _quality(axes: Axes, quality: dict[str, Any]) -> None:
    shown = [model for model in reversed(MODELS) if quality[model] is not None]
    scores = [quality[model] for model in shown]
    bounds = [quality["ci95"].get(model) or (quality[model], quality[model]) for model in shown]
    below = [max(0.0, score - low) for score, (low, _) in zip(scores, bounds, strict=True)]
    above = [max(0.0, high - score) for score, (_, high) in zip(scores, bounds, strict=True)]
    style = {"ecolor": "#1f2730", "elinewidth": 1.2, "capsize": 4}
    axes.barh(shown, scores, xerr=[below, above], color=[COLOURS[model] for model in shown], height=0.55, error_kw=style)
    end = max([high for _, high in bounds] + [1e-9])
    for row, (score, (_, high)) in enumerate(zip(scores, bounds, strict=True)):
        axes.text(high + 0.025 * end, row, figure(score), va="center")
    axes.set_xlim(0, end * 1.17)
    axes.grid(visible=False, axis="y")
    axes.set_title(f"Quality: {words(quality['metric'])}")


def _training(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    series = (("loss", "training", COLOURS["student"], ""), ("validation_loss", "validation", "#c2571a", "o"))
    for key, label, colour, marker in series:
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimizer step")
    axes.set_title("Loss (nats per token)")
    axes.legend()


def _against_load(axes: Axes, load: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    ticks = sorted({level[load] for levels in lines.values() for level in levels})
    if len(ticks) > 1 and ticks[-1] / ticks[0] > 4:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests in flight" if load == "concurrency" else "requests per second")
    axes.legend()


def _line(axes: Axes, model: str, load: str, levels: list[dict[str, Any]], y: list[float], **style: Any) -> None:
    x, colour = [level[load] for level in levels], COLOURS[model]
    axes.plot(x, y, color=colour, marker=MARKERS[model], **style)
    doubtful = [(at, value) for at, value, level in zip(x, y, levels, strict=True) if not level["valid"]]
    if doubtful:  # hollow, as † in the tables
        axes.plot(*zip(*doubtful, strict=True), MARKERS[model], color=colour, markerfacecolor="white", zorder=3)


def _throughput(axes: Axes, load: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    for model, levels in lines.items():
        _line(axes, model, load, levels, [level["output_tokens_per_second"] for level in levels], label=model)
    _against_load(axes, load, lines)
    axes.set_title("Throughput (output tokens/s)")


def _latency(axes: Axes, load: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    for model, levels in lines.items():
        for name, line in (("p50", "-"), ("p95", "--")):
            y = [float("nan") if level["ttft_ms"][name] is None else level["ttft_ms"][name] for level in levels]
            _line(axes, model, load, levels, y, label=f"{model} {name}", linestyle=line)
    _against_load(axes, load, lines)
    axes.set_title("Time to first token (ms)")


def _funnel(axes: Axes, funnel: list[list[Any]]) -> None:
    names, left = [words(name) for name, _ in reversed(funnel)], [rows for _, rows in reversed(funnel)]
    axes.barh(names, left, color=COLOURS["student"], height=0.6)
    end = max([*left, 1])
    for row, rows in enumerate(left):
        axes.text(rows + 0.02 * end, row, f"{rows:,}", va="center")
    axes.set_xlim(0, end * 1.2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.locator_params(axis="x", nbins=4)
    axes.grid(visible=False, axis="y")
    axes.set_title("Curation: rows left after each filter")
