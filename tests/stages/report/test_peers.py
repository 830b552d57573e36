"""Results of other tools. The files in results/ were made by `vllm bench serve` (vLLM 0.31) and
guidellm 0.8.1 against a server that streams 16 tokens, 10 ms apart; they only lack what nobody
reads here."""

import json
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.stages.report.peers import (
    GUIDELLM,
    MEANINGS,
    OURS,
    VLLM,
    comparison,
    load_peers,
    read_peers,
)
from tests.stages.report.conftest import SERVING

RESULTS = Path(__file__).parent / "results"
LEVELS = SERVING["student"]["levels"]


def test_appended_results_of_vllm_are_one_row_each():
    closed, opened = load_peers([RESULTS / "vllm_bench.json"])
    assert (closed.tool, closed.level, closed.requests, closed.failed) == (
        VLLM,
        "concurrency 4",
        40,
        0,
    )
    assert closed.request_rps == pytest.approx(23.6749, abs=1e-4)
    assert closed.output_tokens_per_second == pytest.approx(378.798, abs=1e-3)
    assert opened.level == "8 req/s"
    # the second one was run with --percentile-metrics e2el: the tool's own figures
    assert opened.e2e_p50_ms == pytest.approx(162.29, abs=0.01)
    assert opened.e2e_p99_ms == pytest.approx(175.24, abs=0.01)
    # both were run without a tokenizer, and the tool then says nothing of these
    assert (closed.ttft_p50_ms, closed.tpot_p99_ms) == (None, None)


def result_of_vllm(**fields):
    document = {
        "request_rate": 5.0,
        "max_concurrency": None,
        "completed": 90,
        "failed": 10,
        "request_throughput": 4.5,
        "output_throughput": 300.0,
        "median_ttft_ms": 20.5,
        "p99_ttft_ms": 80.0,
        "median_tpot_ms": 9.0,
        "p99_tpot_ms": 12.0,
        "latencies": [0.5] * 90 + [30.0] * 10,
    }
    return json.dumps(document | fields)


def test_latencies_of_vllm_that_hold_failed_requests_are_not_taken():
    (row,) = read_peers(result_of_vllm(), "r.json")
    assert (row.requests, row.failed) == (100, 10)
    assert (row.ttft_p50_ms, row.ttft_p99_ms, row.tpot_p50_ms) == (20.5, 80.0, 9.0)
    assert (row.e2e_p50_ms, row.e2e_p99_ms) == (None, None)


@pytest.mark.parametrize(
    ("rate", "slots", "level"),
    [
        ("inf", None, "all at once"),
        ("inf", 8, "concurrency 8"),
        (2.5, 8, "2.5 req/s, at most 8 in flight"),
    ],
)
def test_how_vllm_was_asked_to_load(rate, slots, level):
    (row,) = read_peers(result_of_vllm(request_rate=rate, max_concurrency=slots), "r.json")
    assert row.level == level


def test_what_vllm_writes_as_nan_is_unknown():
    (row,) = read_peers(result_of_vllm(p99_ttft_ms=float("nan")), "r.json")
    assert row.ttft_p99_ms is None


def test_a_report_of_guidellm_is_a_row_for_each_benchmark():
    closed, opened = load_peers([RESULTS / "guidellm.json"])
    assert (closed.tool, closed.level, closed.requests, closed.failed) == (
        GUIDELLM,
        "concurrency 4",
        64,
        0,
    )
    assert closed.request_rps == pytest.approx(22.33, abs=0.01)
    assert closed.output_tokens_per_second == pytest.approx(357.28, abs=0.01)
    assert closed.ttft_p50_ms == pytest.approx(6.913, abs=1e-3)
    assert closed.tpot_p50_ms == pytest.approx(10.600, abs=1e-3)  # its inter-token latency
    assert closed.e2e_p99_ms == pytest.approx(195.765, abs=1e-3)  # it writes seconds
    assert (opened.level, opened.requests) == ("8 req/s (poisson)", 52)


def test_an_earlier_result_of_ours_is_read_too():
    earlier = {
        "url": "http://h/v1",
        "model": "m",
        "started_at": "2026-11-27T10:00:00Z",
        "levels": LEVELS,
    }
    rows = read_peers(json.dumps(earlier), "loadtest.json")
    assert [row.level for row in rows][:2] == ["concurrency 1", "concurrency 4"]
    assert rows[0].tool == f"{OURS} of 2026-11-27T10:00:00Z"
    assert rows[0].ttft_p99_ms == 66.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("goodput: 3\nrate: 4\n", "is no JSON (it begins with 'goodput: 3 rate: 4')"),
        ("[1, 2]", "is a list of 2 JSON values"),
        ('"text"', "is a JSON str"),
        ('{"p99": 4, "tool": "wrk"}', "is a JSON object of p99, tool"),
        ("{}", "is a JSON object of nothing"),
    ],
)
def test_a_file_that_is_none_is_said_and_what_is_read(text, words):
    with pytest.raises(InputError) as caught:
        read_peers(text, "mine.txt")
    assert str(caught.value).startswith(f"--compare mine.txt: {words}")
    assert "vllm bench serve --save-result" in str(caught.value)
    assert "guidellm" in str(caught.value)


def test_a_result_of_another_version_is_said():
    report = json.loads((RESULTS / "guidellm.json").read_text())
    del report["benchmarks"][0]["metrics"]["request_latency"]
    with pytest.raises(InputError, match=r"result of guidellm, but of a version.*request_latency"):
        read_peers(json.dumps(report), "g.json")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_peers([tmp_path / "missing.json"])
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_peers([tmp_path / "binary.json"])


def test_the_table_says_what_each_of_its_tools_means():
    peers = load_peers([RESULTS / "vllm_bench.json"])
    table = comparison(LEVELS, peers)
    assert [row[0] for row in table.rows] == [OURS] * 6 + [VLLM] * 2
    assert {len(row) for row in table.rows} == {len(table.header)}
    at_16 = dict(zip(table.header, table.rows[2], strict=True))
    assert (at_16["load"], at_16["failed"], at_16["TTFT p99"]) == ("concurrency 16", "2", "∞")
    assert MEANINGS[VLLM] in table.note
    assert GUIDELLM not in table.note
