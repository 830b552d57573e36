"""The report of a lone load test: three files that say the same."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from engine.stages.report.load_page import HTML, JSON, MARKDOWN, LoadReport, build_files, sentences
from engine.stages.report.peers import load_peers
from tests.stages.report.conftest import SERVING, level, slices

STUDENT = {"student <b>": SERVING["student"]}
REPORT = LoadReport(
    url="http://127.0.0.1:8000/v1",
    model="student <b>",
    started_at="2026-11-27T10:00:00Z",
    levels=SERVING["student"]["levels"],
    slices=slices(STUDENT),
    found={
        "search": "rate",
        "load": 12.5,
        "interval": [11.9, 13.0],
        "decided": True,
        "reason": "the interval is narrow enough",
        "levels": 6,
        "sentence": "Within TTFT <= 100 ms for 99 % of the requests it carries 12.5 requests/s.",
    },
    peers=load_peers([Path(__file__).parent / "results/guidellm.json"]),
    doubts=["Its count of tokens is 4 % above ours."],
    versions={"distill-engine": "0.1"},
    git_commit="0123456789abcdef",
)


@pytest.fixture(scope="module")
def files():
    return build_files(REPORT)


def test_json_holds_every_figure_and_no_infinity(files):
    report = json.loads(files[JSON])
    assert report["levels"] == json.loads(json.dumps(REPORT.levels))
    assert report["found"] == REPORT.found
    assert report["compared"][0]["tool"] == "guidellm"
    assert (report["url"], report["model"]) == (REPORT.url, REPORT.model)
    assert report["schema_version"] == 1


def test_the_page_needs_no_network_and_escapes_names(files):
    page = files[HTML]
    assert "<script" not in page
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert all(reference.startswith("#") for reference in references)
    assert "Load test of student &lt;b&gt;" in page
    assert "<b>" not in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_page_and_markdown_have_the_same_tables(files):
    titles = re.findall(r"^#{2,3} (.*)$", files[MARKDOWN], re.MULTILINE)
    shown = re.findall(r"<(?:h2|h3|summary)>(.*?)<", files[HTML])
    assert titles == [
        "Levels",
        "Latency",
        "95 % intervals (ms)",
        "Where the time goes",
        "The server, by its own metrics",
        "The client",
        "Notes",
        "Beside other results",
    ]
    assert [title for title in shown if title != "Over time"] == titles


def test_what_was_found_comes_first_and_doubts_come_last(files):
    said = sentences(REPORT)
    assert said[0] == REPORT.found["sentence"]
    assert said[-1] == REPORT.doubts[0]
    assert any(line.startswith("90 req/s: overloaded: a queue grew") for line in said)
    assert all(f"- {line}" in files[MARKDOWN] for line in said)


def test_the_best_level_is_one_that_is_ok():
    (best,) = [line for line in sentences(REPORT) if line.startswith("The most")]
    assert "66.00 requests and 2,640 output tokens per second, at concurrency 16" in best
    assert "no level keeps it for certain" in best


def test_a_level_that_keeps_the_promise_is_better_than_a_faster_one():
    slow = level({"rate": 4.0}, 160.0, 20.0)
    slow["goodput"] = slow["goodput"] | {"met": True}
    fast = level({"rate": 8.0}, 320.0, 90.0)
    report = dataclasses.replace(REPORT, levels=[slow, fast], found=None, doubts=[])
    (said,) = sentences(report)
    assert (
        "4.00 requests and 160 output tokens per second, at 4 req/s, within TTFT ≤ 100 ms" in said
    )


def test_without_a_level_that_is_ok_nothing_is_claimed():
    levels = [level({"rate": 90.0}, 100.0, 9.0, verdict="overloaded", reason="a queue grew")]
    report = dataclasses.replace(REPORT, levels=levels, found=None, doubts=[])
    assert sentences(report)[0].startswith("No level is ok")


def test_why_nobody_knows_where_the_time_goes_is_said():
    blind = level({"rate": 4.0}, 160.0, 20.0)
    blind["server"] = blind["server"] | {"said": {}, "unknown": ["no metrics: HTTP 404"]}
    report = dataclasses.replace(REPORT, levels=[blind], slices=[], peers=[])
    page = build_files(report)[MARKDOWN]
    assert "### Where the time goes\n\nno metrics: HTTP 404." in page
    assert "The server, by its own metrics" not in page


def test_the_same_test_gives_the_same_files(files):
    assert build_files(REPORT) == files
