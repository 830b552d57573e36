"""A lone load test's report is a function of its files."""

import json

import pytest

from engine.errors import InputError
from engine.loadgen.observer import Observation, Observed
from engine.loadgen.samples import Ceiling, Level, Sample, Watch
from engine.server_test import ServerTest, write_report
from engine.stages.loadtest.files import Measured
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.tables import write_measured
from engine.stages.report.peers import load_peers

WATCH = Watch(0, 0.3, 3.0, (0.1, 0.2, 0.3), 0.0, 0.1)
TEST = ServerTest("http://127.0.0.1:8000/v1", "m", Slo(ttft_ms=50.0))


def answer(due_ms):
    return Sample(
        due_ms,
        due_ms + 0.2,
        "ok",
        first_byte_ms=5.0,
        ttft_ms=20.0,
        last_ms=90.0,
        e2e_ms=91.0,
        events=8,
        prompt_tokens=12,
        output_tokens=8,
        finish_reason="stop",
    )


def measured(rate):
    samples = [answer(due_ms) for due_ms in range(-900, 2900, int(1000 / rate))]
    level = Level("constant", None, rate, 3.0, 1.0, 1.8e9, 7, int(3 * rate), samples, [WATCH])
    return Measured("m", level, Ceiling(100_000, 8_000, 1))


def observed():
    seen = []
    for at_ms in range(-500, 3000, 500):
        count = float(at_ms)
        values = {
            "replicas": 2.0,
            "running": 1.0,
            "engine_request_s": count * 0.085,
            "engine_request_n": count,
            "engine_queue_s": count * 0.01,
            "engine_queue_n": count,
        }
        seen.append(Observation(float(at_ms), values))
    return Observed(seen, [], "http://127.0.0.1:8000/metrics", looks=7, cpu_s=0.01)


@pytest.fixture
def out(tmp_path):
    # a load that was tried twice is two levels
    write_measured(tmp_path, [measured(4.0), measured(4.0)], [observed(), Observed()])
    return tmp_path


def test_pages_and_time_axis_are_made_of_the_files(out):
    written = write_report(out, TEST)
    assert [path.name for path in written] == ["loadtest.json", "loadtest.md", "loadtest.html"]
    report = json.loads((out / "loadtest.json").read_text())
    first, second = report["levels"]
    assert (first["kind"], first["rate"], first["requests"]) == ("constant", 4.0, 12)
    assert first["goodput"]["slo"] == {"ttft_ms": 50.0, "percentile": 99.0}
    assert first["server"]["parts_ms"]["queue"] == 10.0
    assert first["server"]["said"]["replicas_max"] == 2.0
    assert second["server"]["parts_ms"]["queue"] is None
    assert report["started_at"] == "2027-01-15T07:59:59Z"
    assert (out / "data/timeline.parquet").exists()
    page = (out / "loadtest.html").read_text()
    assert page.count("m at 4 req/s over time") == 2


def test_made_again_it_is_the_same(out):
    first = [path.read_bytes() for path in write_report(out, TEST)]
    assert [path.read_bytes() for path in write_report(out, TEST)] == first


def test_an_earlier_report_can_be_laid_beside(out):
    (earlier, *_) = write_report(out, TEST)
    peers = load_peers([earlier])
    write_report(out, ServerTest(TEST.url, TEST.model, peers=peers))
    page = (out / "loadtest.md").read_text()
    assert "| distill loadtest of 2027-01-15T07:59:59Z | 4 req/s | 12 |" in page


def test_a_page_is_no_result_to_compare(out):
    *_, page = write_report(out, TEST)
    with pytest.raises(InputError, match="is no JSON"):
        load_peers([page])
