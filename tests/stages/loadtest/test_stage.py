"""The stage: models in order, measured rows only, counts that add up."""

import contextlib
import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from engine.errors import StageError
from engine.job.spec import LoadtestSpec
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import PROMPT, REQUEST_SAMPLE, Prompt
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.manifests import PROGRESS, Counts, publish
from engine.run.progress import Progress
from engine.stages import loadtest
from tests.fake_server import Behaviour, serve

CTX = Context(job="job", task="math", seed=5)


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
    return {"prompts": folder}


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
    assert list(manifest.info["serving"]) == ["teacher", "student"]
    levels = manifest.info["serving"]["student"]["levels"]
    assert [level.get("concurrency") or level.get("rate") for level in levels] == [1, 20.0]
    table = pq.read_table(out / loadtest.SAMPLES)
    assert table.schema.equals(REQUEST_SAMPLE)
    failed = sum(status != "ok" for status in table["status"].to_pylist())
    assert failed > 0
    assert (manifest.rows_in, manifest.rows_out, manifest.dropped) == (
        len(table),
        len(table) - failed,
        {"failed": failed},
    )
    counted = sum(
        level["requests"]
        for model in manifest.info["serving"].values()
        for level in model["levels"]
    )
    assert counted == len(table) < len(server.requests)
    assert min(table["intended_ms"].to_pylist()) >= 0


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
    assert (counts.rows_in, counts.info) == (0, {"serving": {}})
    assert publish(out, "loadtest", {}, counts, 0.0).files[loadtest.SAMPLES].rows == 0


def test_a_model_that_never_answers_stops_the_stage_after_one_level(inputs, out):
    spec = LoadtestSpec(concurrency=[1, 2, 4], seconds=0.2, warmup_seconds=0.0)
    refused = pytest.raises(StageError, match=r"every request to 'student'.*http_404")
    with serve(lambda i: Behaviour(status=404)) as server, refused:
        loadtest.run(spec, inputs, out, CTX, endpoint=endpoint_of(server))
    assert not (out / loadtest.SAMPLES).exists()
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
