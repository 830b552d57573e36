"""Drawings show what is there, cut nothing off, and hide nothing."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.figure import Figure

from engine.stages.report import drawing
from engine.stages.report.load_plots import load_plots
from engine.stages.report.plots import plots
from engine.stages.report.time_plots import MOST_LEVELS, time_plots
from tests.stages.report.conftest import INFO, QUALITY, SERVING, level, slices


def texts(svg):
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


def by_caption(drawn):
    return {plot.caption: plot.svg for plot in drawn}


def job_plots(quality=QUALITY, metrics=(), serving=None):
    report = {
        "quality": quality,
        "serving": serving or {},
        "curate": {"funnel": INFO["curate"]["funnel"]},
    }
    return by_caption(plots(report, metrics))


def test_scores_of_nothing_stand_on_an_axis_from_0_to_1():
    scores = QUALITY | {"teacher": 0.0, "baseline": 0.0, "student": 0.0, "ci95": {}}
    ticks = texts(job_plots(scores)["Scores on the validation prompts with 95 % intervals"])
    assert "1.0" in ticks
    assert not any(tick.startswith(("-", "−")) for tick in ticks)


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_axis_that_is_named():
    far = [{"step": step, "loss": 2.5 * 0.9**step + 0.05} for step in range(1, 100)]
    near = [{"step": step, "loss": 2.5 - step / 100} for step in range(1, 100)]
    caption = "Training and validation loss by step"
    assert "Loss (nats per token, log scale)" in texts(job_plots(metrics=far)[caption])
    assert "Loss (nats per token)" in texts(job_plots(metrics=near)[caption])


def test_a_loss_below_nothing_has_a_linear_axis():
    lines = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": -0.01}]
    svg = job_plots(metrics=lines)["Training and validation loss by step"]
    assert "Loss (nats per token)" in texts(svg)


@pytest.mark.parametrize("values", [[5.0], [0.0], [1e-3, 2e-3], [3.0, None, 4.0], [None]])
def test_the_highest_mark_lies_below_the_upper_edge(values):
    axes = Figure().subplots()
    top = drawing.from_zero(axes, values)
    assert axes.get_ylim() == (0, top)
    assert all(value < top * 0.99 for value in values if value is not None)


def test_latencies_far_apart_get_a_logarithmic_axis_and_all_of_them_lie_on_it():
    axes = Figure().subplots()
    top = drawing.heights(axes, [12.0, None, 9000.0])
    low, high = axes.get_ylim()
    assert (axes.get_yscale(), high) == ("log", top)
    assert low < 12.0
    assert top > 9000.0
    assert drawing.scale_word(axes) == ", log scale"
    near = Figure().subplots()
    drawing.heights(near, [12.0, 90.0])
    assert (near.get_yscale(), near.get_ylim()[0]) == ("linear", 0.0)


@pytest.mark.parametrize("loads", [[4.0], [1.0, 4.0, 16.0], list(range(1, 40)), [10.0, 10.1, 12.0]])
def test_every_load_lies_within_its_axis_and_no_labels_touch(loads):
    axes = Figure().subplots()
    drawing.along_loads(axes, loads)
    low, high = axes.get_xlim()
    assert low < min(loads) <= max(loads) < high
    assert 1 <= len(axes.get_xticks()) <= 8
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(labels)) == len(labels)


def markers(svg):
    """Where its marks stand: x and y of each."""
    found = []
    for use in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use"):
        found.append((float(use.get("x")), float(use.get("y"))))
    return found


def test_no_mark_of_a_single_level_lies_at_an_edge():
    lone = {"m": {"levels": [level({"concurrency": 8}, 900.0, 40.0)]}}
    for plot in load_plots(lone):
        width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot.svg).groups())
        for x, y in markers(plot.svg):
            assert 3 < x < width - 3
            assert 3 < y < height - 3


def test_verdicts_are_named_where_there_are_any():
    drawn = by_caption(load_plots({"student": SERVING["student"]}))
    rates = texts(drawn["Served against offered requests per second"])
    assert {"overloaded", "client limited", "keeps up"} <= set(rates)
    closed = texts(drawn["Output tokens per second against concurrency"])
    assert "overloaded" not in closed
    assert "client limited" not in closed


def test_what_is_infinite_is_shown_as_such():
    drawn = by_caption(load_plots({"student": SERVING["student"]}))
    assert texts(drawn["Time to first token against concurrency"]).count("∞") == 1
    assert "∞" not in texts(drawn["Time to first token against rate"])


def test_one_model_is_not_named_in_every_legend_and_several_are():
    caption = "Time to first token against concurrency"
    assert "p50" in texts(by_caption(load_plots({"m": SERVING["student"]}))[caption])
    both = by_caption(load_plots(SERVING))[caption]
    assert {"teacher p50", "student p50"} <= set(texts(both))


def test_a_promise_is_written_over_its_goodput():
    drawn = by_caption(load_plots({"m": SERVING["student"]}))
    svg = drawn["Requests within the SLO per second against rate"]
    assert "TTFT ≤ 100 ms for 99 % of the requests" in texts(svg)


def test_a_line_joins_only_levels_that_say_how_the_server_fares():
    broken = level({"rate": 20.0}, 1.0, 9.0, verdict="failed", reason="the server stopped")
    rates = [level({"rate": rate}, 100.0 * rate, 9.0) for rate in (10.0, 40.0)]
    lone = by_caption(load_plots({"m": {"levels": rates}}))
    three = by_caption(load_plots({"m": {"levels": [*rates, broken]}}))
    caption = "Output tokens per second against rate"
    path = r'<path d="([^"]*)"[^>]*stroke: #0b7a75; stroke-width: 1.5'
    (line,) = re.findall(path, lone[caption])[:1]
    assert line.count("L") == 1
    assert re.findall(path, three[caption])[0].count("L") == 1
    assert "failed" in texts(three[caption])


KNEE = {
    "search": "rate",
    "load": 40.0,
    "interval": [30.0, None],
    "decided": False,
    "reason": "the levels are used up",
    "levels": 12,
    "sentence": "Within TTFT <= 100 ms it carries 40 requests/s.",
}


def test_the_knee_stands_in_the_plot_of_what_was_searched():
    serving = {"m": SERVING["student"] | {"knee": KNEE}}
    drawn = by_caption(load_plots(serving))
    assert "knee" in texts(drawn["Requests within the SLO per second against rate"])
    assert "knee" not in texts(drawn["Requests within the SLO per second against concurrency"])
    serving["m"]["knee"] = KNEE | {"load": None}
    drawn = by_caption(load_plots(serving))
    assert "knee" not in texts(drawn["Requests within the SLO per second against rate"])


def test_levels_of_a_first_version_are_still_drawn():
    """Without intervals, verdicts, goodput and the server's side."""
    old = {
        "concurrency": 4,
        "requests": 10,
        "failed": 0,
        "request_throughput": 2.0,
        "output_tokens_per_second": 60.0,
        "ttft_ms": {"p50": 5.0, "p95": 6.0, "p99": 7.0},
        "tpot_ms": {"p50": 5.0, "p95": 6.0, "p99": None},
        "e2e_ms": {"p50": 5.0, "p95": 6.0, "p99": 7.0},
        "valid": True,
        "invalid_reason": None,
    }
    assert [plot.caption for plot in load_plots({"m": {"levels": [old]}})] == [
        "Output tokens per second against concurrency",
        "Time to first token against concurrency",
        "Time per output token against concurrency",
    ]


def test_a_bar_for_each_level_shows_the_parts_that_are_known():
    drawn = by_caption(load_plots({"m": SERVING["teacher"]}))
    shown = texts(drawn["Where the time of a request to m goes"])
    assert {"concurrency 1", "concurrency 4", "concurrency 16", "queue", "decode"} <= set(shown)
    assert "the rest" not in shown
    blind = level({"concurrency": 1}, 100.0, 10.0)
    blind["server"]["parts_ms"] = blind["server"]["parts_ms"] | {"queue": None}
    drawn = by_caption(load_plots({"m": {"levels": [blind]}}))
    assert "the rest" in texts(drawn["Where the time of a request to m goes"])
    silent = level({"concurrency": 1}, 100.0, 10.0)
    silent["server"]["parts_ms"] = dict.fromkeys(silent["server"]["parts_ms"])
    captions = by_caption(load_plots({"m": {"levels": [silent]}}))
    assert "Where the time of a request to m goes" not in captions


def test_each_level_has_its_own_time_axis():
    serving = {"student": SERVING["student"]}
    drawn = time_plots(serving, slices(serving))
    assert drawn[4].caption == "student at 64 req/s over time"
    shown = texts(drawn[4].svg)
    assert "at 64 req/s: client limited" in shown
    for panel in ("Load (requests in flight)", "Requests per second", "In the server", "Replicas"):
        assert panel in shown
    assert "seconds of the window; grey: warm-up" in shown
    assert "failed" not in shown


def test_a_panel_without_data_is_left_out():
    serving = {"m": {"levels": [level({"concurrency": 1}, 100.0, 10.0)]}}
    silent = slices(serving, replicas=(None,) * 4)
    shown = texts(time_plots(serving, silent)[0].svg)
    assert "Replicas" not in shown
    assert "In the server" in shown


def test_of_many_levels_the_last_are_drawn():
    rates = range(1, MOST_LEVELS + 4)
    serving = {"m": {"levels": [level({"rate": rate}, 100.0 * rate, 10.0) for rate in rates]}}
    drawn = time_plots(serving, slices(serving))
    assert len(drawn) == MOST_LEVELS
    assert drawn[-1].caption == f"m at {rates[-1]} req/s over time"


def test_without_a_timeline_there_is_no_axis():
    assert time_plots(SERVING, []) == []


def test_no_two_drawings_share_an_id_that_differs():
    """An id that means two things would draw one plot's marks in another."""
    meanings = {}
    for plot in [*load_plots(SERVING), *time_plots(SERVING, slices(SERVING))]:
        for element in ElementTree.fromstring(plot.svg).iter():
            if name := element.get("id"):
                content = ElementTree.tostring(element)
                assert meanings.setdefault(name, content) == content
