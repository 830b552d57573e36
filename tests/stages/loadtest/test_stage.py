"""The stage: models in order, counts of measured rows that add up, files that hold every figure."""

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from doubles.fake_server import Behaviour, serve

from engine.errors import StageError
from engine.job.spec import LoadtestSpec, SloSpec
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import (
    LOAD_LEVEL,
    PROMPT,
    REQUEST_SAMPLE,
    LoadLevel,
    Prompt,
    RequestSample,
)
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import LoadtestInfo
from engine.run.manifests import PROGRESS, Counts, finished, load_manifest, publish
from engine.run.progress import Progress
from engine.stages import loadtest
from engine.stages.loadtest import measuring, tables

CTX = Context(job="job", task="math", seed=5)


@pytest.fixture(autouse=True)
def quick_ceiling(monkeypatch):
    """What the client can do is measured before each load; how well is not the point here."""
    monkeypatch.setattr(measuring, "CEILING_S", 0.2)


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "1-prompts-0"
    (folder / "data").mkdir(parents=True)
    rows = []
    for i in range(20):
        messages = [{"role": "user", "content": f"question {i}"}]
        sha = prompt_hash(messages)
        rows.append(Prompt(prompt_id_of(sha), sha, str(i), messages, "math", "file", "validation"))
    write_parquet(to_table(rows, PROMPT), folder / "data/validation-0000.parquet")
    publish(folder, "prompts", {}, Counts(20, 20, {"data/validation-0000.parquet": 20}), 0.1)
    return {"prompts": finished(folder)}


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "7-loadtest-0"
    folder.mkdir()
    return folder


def endpoint_of(server):
    @contextlib.contextmanager
    def endpoint(models):
        endpoint.models = models
        yield SimpleNamespace(base_url=server.url, api_key="key")

    return endpoint


def test_every_model_is_loaded_at_every_level(inputs, out):
    spec = LoadtestSpec(
        models=["teacher", "student"],
        concurrency=[1],
        rates=[20.0],
        seconds=0.5,
        warmup_seconds=0.2,
        arrivals="constant",
    )
    with serve(lambda i: Behaviour(status=500) if i % 9 == 8 else Behaviour(ttft_s=0.02)) as server:
        endpoint = endpoint_of(server)
        counts = loadtest.run(spec, inputs, out, CTX, endpoint=endpoint)
    manifest = publish(out, "loadtest", {}, counts, 1.0)
    assert endpoint.models == ["teacher", "student"]
    assert list(manifest.info.serving) == ["teacher", "student"]
    levels = manifest.info.model_dump(exclude_unset=True)["serving"]["student"]["levels"]
    assert [level.get("concurrency") or level.get("rate") for level in levels] == [1, 20.0]
    table = pq.read_table(out / tables.SAMPLES)
    assert table.schema.equals(REQUEST_SAMPLE)
    statuses = table.filter(pc.invert(table["warm"]))["status"].to_pylist()
    failed = sum(status != "ok" for status in statuses)
    assert failed > 0
    assert (manifest.rows_in, manifest.rows_out, manifest.dropped) == (
        len(statuses),
        len(statuses) - failed,
        {"failed": failed},
    )
    counted = sum(
        level.requests for model in manifest.info.serving.values() for level in model.levels
    )
    # before its first level each model is asked once, or again where that failed
    assert counted == len(statuses) < len(table) <= len(server.requests) - 2
    assert manifest.files[tables.SAMPLES].rows == len(table)
    assert manifest.files[tables.LEVELS].rows == 4


def test_every_figure_can_be_recomputed_from_the_files(inputs, out):
    spec = LoadtestSpec(
        models=["teacher", "student"],
        concurrency=[3],
        rates=[30.0],
        seconds=0.6,
        warmup_seconds=0.3,
    )
    # answers that cross the start and the end of the window, and some that fail
    with serve(
        lambda i: Behaviour(cut_after=1) if i % 7 == 5 else Behaviour(ttft_s=0.02, tokens=6)
    ) as server:
        counts = loadtest.run(spec, inputs, out, CTX, endpoint=endpoint_of(server))
    publish(out, "loadtest", {}, counts, 1.0)
    said = load_manifest(out).info.model_dump(mode="json", exclude_unset=True)["serving"]
    (levels_table,) = read_tables([out / tables.LEVELS])
    (samples_table,) = read_tables([out / tables.SAMPLES])
    assert levels_table.schema.equals(LOAD_LEVEL)
    assert samples_table.schema.equals(REQUEST_SAMPLE)
    again = {model: {"levels": levels} for model, levels in tables.entries_in(out, None).items()}
    assert LoadtestInfo.model_validate({"serving": again}) == load_manifest(out).info
    assert any(level["failed"] for model in said.values() for level in model["levels"])

    # and all of what is kept is needed for it
    samples = to_rows(samples_table, RequestSample)
    timed = [sample for sample in samples if not sample.warm]
    write_parquet(to_table(timed, REQUEST_SAMPLE), out / tables.SAMPLES)
    assert tables.entries_in(out, None)["student"] != again["student"]["levels"]
    weak = {"ceiling_events_per_core_s": 10.0, "ceiling_requests_per_core_s": 10.0}
    levels = [dataclasses.replace(level, **weak) for level in to_rows(levels_table, LoadLevel)]
    write_parquet(to_table(levels, LOAD_LEVEL), out / tables.LEVELS)
    busy = tables.entries_in(out, None)["student"]
    assert all(level["client"]["ceiling_share"] > 1 for level in busy)
    assert all(level["client"]["ceiling_share"] < 1 for level in said["student"]["levels"])


def test_a_disk_that_fills_while_it_measures_is_said_and_the_endpoint_goes(inputs, small_disk):
    disk, fill = small_disk
    open_now = []

    @contextlib.contextmanager
    def endpoint(models):
        open_now.append(models)
        fill()
        yield SimpleNamespace(base_url=server.url, api_key="key")
        open_now.clear()

    spec = LoadtestSpec(models=["student"], concurrency=[1], seconds=0.3, warmup_seconds=0.1)
    with serve(lambda i: Behaviour(ttft_s=0.01)) as server:
        with pytest.raises(OSError, match="No space left on device"):
            loadtest.run(spec, inputs, disk, CTX, endpoint=endpoint)
        assert open_now == []
        (disk / "filler").unlink()
        assert loadtest.run(spec, inputs, disk, CTX, endpoint=endpoint_of(server)).rows_out > 0


def test_no_models_means_no_endpoint_and_zero_rows(inputs, out):
    counts = loadtest.run(
        LoadtestSpec(models=[]),
        inputs,
        out,
        CTX,
        endpoint=lambda models: pytest.fail("started an endpoint"),
    )
    assert (counts.rows_in, counts.info.serving) == (0, {})
    files = publish(out, "loadtest", {}, counts, 0.0).files
    assert [files[name].rows for name in (tables.SAMPLES, tables.LEVELS)] == [0, 0]


def test_a_model_that_never_answers_stops_the_stage_after_one_level(inputs, out):
    spec = LoadtestSpec(concurrency=[1, 2, 4], seconds=0.2, warmup_seconds=0.0)
    refused = pytest.raises(StageError, match=r"http_404.*is the model served there")
    with serve(lambda i: Behaviour(status=404)) as server, refused:
        loadtest.run(spec, inputs, out, CTX, endpoint=endpoint_of(server))
    assert not (out / tables.SAMPLES).exists()
    assert all(r["model"] == "student" for r in server.requests)


def test_progress_shows_requests_level_and_tokens_per_second(inputs, out):
    progress = Progress()
    spec = LoadtestSpec(concurrency=[2], seconds=1.5, warmup_seconds=0.0)
    with serve(lambda i: Behaviour(ttft_s=0.02)) as server, progress.stage("loadtest", out):
        loadtest.run(
            spec,
            inputs,
            out,
            Context("job", "math", 0, progress=progress),
            endpoint=endpoint_of(server),
        )
    state = json.loads((out / PROGRESS).read_text())
    assert state["done"] > 0
    assert state["figures"]["level"] == "student at concurrency=2"
    assert state["figures"]["tok/s"] > 0


def test_a_url_is_measured_like_a_served_model():
    spec = LoadtestSpec(rates=[20.0], seconds=0.5, warmup_seconds=0.0, arrivals="constant")
    prompts = [[{"role": "user", "content": "hello"}]]
    with serve() as server:
        levels = loadtest.measure_url(server.url, "any", spec, prompts, seed=1)
    assert [(level["rate"], level["requests"], level["failed"]) for level in levels] == [
        (20.0, 10, 0)
    ]


def test_teacher_and_student_are_compared_at_the_same_slo(inputs, out):
    spec = LoadtestSpec(
        models=["teacher", "student"],
        concurrency=[2],
        seconds=0.6,
        warmup_seconds=0.1,
        slo=SloSpec(ttft_ms=400.0, percentile=80.0),
        price_per_hour=2.0,
    )
    with serve(lambda i: Behaviour(ttft_s=0.02, tokens=6)) as server:
        counts = loadtest.run(spec, inputs, out, CTX, endpoint=endpoint_of(server))
    compared = counts.info.equal_slo
    assert (compared.first, compared.second) == ("teacher", "student")
    assert compared.unit == "requests in flight"
    # a busy machine may leave a figure open, never without a reason
    for figure in (compared.load, compared.good_tokens_per_second):
        assert figure.first.how
        assert figure.ratio.how
    assert compared.usd_per_million_good_tokens.first.how != "no price per hour was given"


def test_one_answer_that_fails_does_not_condemn_a_server(inputs, out):
    spec = LoadtestSpec(concurrency=[1], seconds=0.3, warmup_seconds=0.0)
    with serve(lambda i: Behaviour(status=500) if i == 0 else Behaviour()) as server:
        counts = loadtest.run(spec, inputs, out, CTX, endpoint=endpoint_of(server))
    assert counts.rows_out > 0
