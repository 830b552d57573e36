"""A lone load test's report is a function of its files."""

import dataclasses
import json

import pytest
from conftest import distill
from doubles.fake_server import Behaviour, serve

from engine.errors import InputError, SpecError
from engine.job.spec import LoadtestSpec, SloSpec
from engine.loadgen.observer import Observation, Observed
from engine.loadgen.probe import Said
from engine.loadgen.samples import Ceiling, Level, Sample, Watch
from engine.server_test import (
    Asked,
    ServerTest,
    counted_again,
    load_count,
    made_up_prompts,
    read_prompts,
    report_of,
    run,
    write_report,
)
from engine.stages.loadtest import measuring
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
    written = write_report(out, report_of(out, TEST))
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
    first = [path.read_bytes() for path in write_report(out, report_of(out, TEST))]
    assert [path.read_bytes() for path in write_report(out, report_of(out, TEST))] == first


def test_an_earlier_report_can_be_laid_beside(out):
    (earlier, *_) = write_report(out, report_of(out, TEST))
    peers = load_peers([earlier])
    write_report(out, report_of(out, ServerTest(TEST.url, TEST.model, peers=peers)))
    page = (out / "loadtest.md").read_text()
    assert "| distill loadtest of 2027-01-15T07:59:59Z | 4 req/s | 12 |" in page


def test_a_page_is_no_result_to_compare(out):
    *_, page = write_report(out, report_of(out, TEST))
    with pytest.raises(InputError, match="is no JSON"):
        load_peers([page])


ONE_LEVEL = LoadtestSpec(rates=[20.0], seconds=0.6, warmup_seconds=0.2, max_tokens=8)


def test_a_server_is_tested_without_a_job(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "CEILING_S", 0.2)
    monkeypatch.setenv("SOME_KEY", "sk-secret-of-a-test")
    spec = ONE_LEVEL.model_copy(update={"slo": SloSpec(ttft_ms=500.0), "search": "concurrency"})
    with serve(lambda i: Behaviour(ttft_s=0.01, tokens=4)) as server:
        asked = Asked(server.url, "m", "SOME_KEY")
        tested = run(asked, spec, made_up_prompts(3), tmp_path, seed=3)
    of_m = tested.serving["m"]
    assert of_m["levels"][0]["rate"] == 20.0
    assert of_m["knee"]["levels"] == len(of_m["levels"]) - 1
    assert tested.sentences == [of_m["knee"]["sentence"]]
    assert {path.name for path in tested.files} == {"loadtest.json", "loadtest.md", "loadtest.html"}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"sk-secret" not in path.read_bytes()


def test_a_key_that_is_not_set_is_said_before_anything_is_sent(tmp_path):
    with pytest.raises(SpecError, match="NO_SUCH_KEY is not set"):
        run(Asked("http://127.0.0.1:1/v1", "m", "NO_SUCH_KEY"), ONE_LEVEL, [[]], tmp_path)


def test_prompts_come_from_any_file_of_a_job(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("prompt\nfirst\nsecond\n")
    assert [prompt[-1]["content"] for prompt in read_prompts(file)] == ["first", "second"]
    file.write_text("answer\nfirst\n")
    with pytest.raises(InputError, match="no prompt in it"):
        read_prompts(file)


def test_made_up_prompts_share_no_beginning():
    starts = {prompt[0]["content"][:60] for prompt in made_up_prompts(1)}
    assert len(starts) == len(made_up_prompts(1))


@pytest.mark.parametrize(
    ("said", "doubts"), [([5, 5], 0), ([5, None], 0), ([20, 20], 1), ([None, None], 1)]
)
def test_a_servers_counts_are_checked_against_its_texts(said, doubts):
    answers = [
        Said(dataclasses.replace(answer(0), output_tokens=tokens), "one two three four")
        for tokens in said
    ]
    assert len(counted_again(answers, lambda text: len(text.split()))) == doubts


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tokenizer can be read"):
        load_count(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "wants a JOB, or --url"),
        (["--model", "m"], "--prompts"),
        (["--url", "foo", "--model", "m"], "is no address of a server"),
        (["--url", "http://127.0.0.1:1/v1"], "--model NAME"),
        (["--url", "http://127.0.0.1:1/v1", "--model", "m"], "is it running"),
        (
            ["--url", "http://127.0.0.1:1/v1", "--model", "m", "--slo", "ttft=5"],
            "loadtest.slo.ttft",
        ),
        (["--url", "http://a/v1", "--model", "m", "--rates", "x"], "loadtest.rates"),
    ],
)
def test_what_cannot_be_tested_is_said_in_a_sentence(tmp_path, arguments, said):
    result = distill("loadtest", *arguments, "--runs", tmp_path)
    assert result.returncode
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_tests_any_server(tmp_path):
    with serve(lambda i: Behaviour(ttft_s=0.01, tokens=4)) as server:
        arguments = ["--url", server.url, "--model", "m", "--rates", "10,20", "--seconds", "0.5"]
        arguments += ["--warmup", "0.1", "--slo", "ttft_ms=500", "--out", tmp_path / "out"]
        result = distill("loadtest", *arguments, "--runs", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "20 req/s" in result.stdout
    found = json.loads((tmp_path / "out/loadtest.json").read_text())
    assert [level["rate"] for level in found["levels"]] == [10.0, 20.0]
    assert found["levels"][0]["goodput"]["slo"]["ttft_ms"] == 500.0
