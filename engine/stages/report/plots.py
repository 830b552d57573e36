"""The plots of a finished job: scores, losses, the levels of its load test, and curation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.stages.report.drawing import COLOURS, WARNING, plain_ticks, spread, to_svg
from engine.stages.report.load_plots import load_plots
from engine.stages.report.page import Plot
from engine.stages.report.table import MODELS, Block, figure, words

_WIDE = 3.0  # the first loss over the least: a linear axis would hide the second half
_TICKS = 5  # of a bar's axis: their labels are long where scores are tiny or rows are many


def plots(report: Block, metrics: Sequence[Block]) -> list[Plot]:
    """Each plot that has data; `metrics` are the lines of the training's metrics.jsonl."""
    return [
        Plot(
            "Scores on the validation prompts with 95 % intervals",
            to_svg(_quality, report["quality"]),
        ),
        Plot("Training and validation loss by step", to_svg(_training, metrics)),
        *load_plots(report["serving"]),
        Plot("Rows left after each filter", to_svg(_funnel, report["curate"]["funnel"])),
    ]


def _quality(page: Figure, quality: Block) -> None:
    axes = page.subplots()
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
    """Bars from 0, and room for their labels; all of 0 stand on an axis to 1."""
    bars = axes.barh(
        names,
        values,
        height=0.6,
        **style,
    )
    axes.bar_label(
        bars,
        labels=labels,
        padding=4,
    )
    axes.grid(visible=False, axis="y")
    axes.autoscale_view()
    end = 1.22 * axes.dataLim.x1
    if end <= 0:
        end = 1.0
    axes.set_xlim(0, end)
    axes.xaxis.set_major_locator(MaxNLocator(_TICKS))


def _training(page: Figure, metrics: Sequence[Block]) -> None:
    """On a logarithmic axis where the first losses would hide the others."""
    axes = page.subplots()
    losses = _loss(
        axes,
        metrics,
        "loss",
        label="training",
        color=COLOURS["student"],
        marker="",
    )
    losses += _loss(
        axes,
        metrics,
        "validation_loss",
        label="validation",
        color=WARNING,
        marker="o",
    )
    if spread(losses) > _WIDE:
        axes.set_yscale("log")
        axes.set_title("Loss (nats per token, log scale)")
        plain_ticks(axes)
    else:
        axes.set_ylim(bottom=0)
        axes.set_title("Loss (nats per token)")
    axes.set_xlabel("optimizer step")
    if losses:
        axes.legend()


def _loss(axes: Axes, metrics: Sequence[Block], key: str, **style: str) -> list[float]:
    steps: list[int] = []
    losses: list[float] = []
    for line in metrics:
        if line.get(key) is not None:
            steps.append(line["step"])
            losses.append(line[key])
    if steps:
        axes.plot(steps, losses, linewidth=1.4, **style)  # ty: ignore[invalid-argument-type]
    return losses


def _funnel(page: Figure, funnel: Sequence[Sequence[Any]]) -> None:
    axes = page.subplots()
    names: list[str] = []
    left: list[int] = []
    labels: list[str] = []
    for name, rows in reversed(funnel):
        names.append(words(name))
        left.append(rows)
        labels.append(f"{rows:,}")
    _bars(
        axes,
        names,
        left,
        labels,
        color=COLOURS["student"],
    )
    axes.locator_params(axis="x", nbins=4)
    axes.set_title("Curation: rows left after each filter")
