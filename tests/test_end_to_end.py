"""The whole way on the real components: the quickstart with fewer rows, then its endpoint as a
stranger would use it."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import ray
import torch
from conftest import KEY, open_to_others
from ray import serve
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.loadgen.endpoint import BENCH
from engine import live, pipeline
from engine.rows.records import Example, Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.manifests import finished
from engine.run.progress import Progress
from engine.stages.report.contract import Report

pytestmark = pytest.mark.slow
TIE = 2e-3  # a gap between the two best logits below which engines may choose differently


@pytest.fixture(scope="session")
def job(quickstart_job):
    return quickstart_job


@pytest.fixture(scope="session")
def run(quickstart_run):
    return quickstart_run


@pytest.fixture(scope="module")
def told():
    """What a person without a terminal is shown while the endpoint starts."""
    return io.StringIO()


@pytest.fixture(scope="module")
def endpoint(job, run, told):
    with live.serving(
        job, ["student"], run.root.parent, progress=Progress(Console(file=told, width=120))
    ) as endpoint:
        yield endpoint


def test_every_stage_accounts_for_its_rows(run):
    assert tuple(run.manifests) == pipeline.NAMES
    for manifest in run.manifests.values():
        assert manifest.rows_in == manifest.rows_out + sum(manifest.dropped.values())
    assert run.manifests["prompts"].rows_out == run.manifests["generate"].rows_out == 320
    assert run.manifests["curate"].rows_in == 160


def test_the_report_keeps_its_contract_and_needs_no_network(run):
    report = Report.model_validate_json((run.root / "report.json").read_text())
    assert report.quality.n == 160
    assert report.quality.teacher >= 0.9
    assert report.quality.baseline <= 0.1
    assert set(report.serving) == {"student"}  # both models: tests/test_proof.py
    levels = report.serving["student"].levels
    assert len(levels) == 2
    assert all(level.requests > 0 and level.failed == 0 for level in levels)
    page = (run.root / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert "teacher" in (run.root / "report.md").read_text()


def test_training_reads_nothing_but_curated_teacher_answers(run):
    examples = [
        row
        for t in read_tables(finished(run.folders["curate"]).files("train"))
        for row in to_rows(t, Example)
    ]
    train_ids = {
        row.prompt_id
        for t in read_tables(finished(run.folders["prompts"]).files("train"))
        for row in to_rows(t, Prompt)
    }
    assert {example.prompt_id for example in examples} <= train_ids
    assert {example.teacher for example in examples} == {"teacher"}
    assert run.manifests["train"].rows_in == len(examples)


def test_training_lowers_the_loss_and_writes_tensorboard_events(run):
    lines = [
        json.loads(line)
        for line in (run.folders["train"] / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert any("validation_loss" in line for line in lines)
    assert list((run.folders["train"] / "tensorboard").glob("events*"))


def test_a_second_run_reuses_every_stage_and_changes_no_byte(job, run):
    files = {
        path: path.read_bytes()
        for folder in run.folders.values()
        for path in folder.rglob("*.parquet")
    }
    again = pipeline.run(job, run.root.parent)
    assert again.reused == pipeline.NAMES
    assert all(path.read_bytes() == content for path, content in files.items())


def test_other_replicas_workers_and_zero_stage_continue_in_the_same_folders(job, run):
    teacher = job.generate.teachers[0].model_copy(update={"replicas": 2})
    other = job.model_copy(
        update={
            "generate": job.generate.model_copy(update={"teachers": [teacher]}),
            "train": job.train.model_copy(update={"workers": 1, "zero_stage": 3}),
        }
    )
    assert [plan.folder for plan in pipeline.plan(other, run.root.parent)] == list(
        run.folders.values()
    )


def test_the_student_gives_the_reports_answers_in_transformers(run):
    folder = run.folders["train"] / "student"
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder).eval(),
    )
    answers = [
        r
        for t in read_tables(finished(run.folders["evaluate"]).files())
        for r in t.to_pylist()
        if r["model"] == "student"
    ]
    messages = {
        row.prompt_id: row.messages
        for table in read_tables(finished(run.folders["prompts"]).files("validation"))
        for row in to_rows(table, Prompt)
    }
    for answer in answers[:20]:
        ids = tokenizer.apply_chat_template(
            messages[answer["prompt_id"]],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        with torch.inference_mode():
            out = model.generate(
                ids,
                max_new_tokens=64,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        text = tokenizer.decode(out.sequences[0, ids.shape[1] :], skip_special_tokens=True)
        if text != answer["text"]:
            ours, theirs = (
                out.sequences[0, ids.shape[1] :].tolist(),
                tokenizer(answer["text"], add_special_tokens=False)["input_ids"],
            )
            first = next(at for at, token in enumerate(ours) if theirs[at : at + 1] != [token])
            gap = float(torch.diff(out.logits[first][0].topk(2).values.flip(0)))
            assert gap < TIE, (
                f"{answer['prompt_id']}: {text!r} != {answer['text']!r} at token {first} without a"
                f" tie (gap {gap:.2g})"
            )
            tie = f"tie at token {first} of prompt {answer['prompt_id']}: {text!r} and"
            print(f"{tie} {answer['text']!r}")  # noqa: T201


def test_no_log_or_manifest_holds_the_key_and_no_log_a_prompt(run, endpoint):
    client(endpoint).chat.completions.create(model="student", messages=QUESTION, max_tokens=4)
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    published = [path for path in run.root.rglob("*.json") if path.is_file()]
    assert len(logs) > 10
    for path in (*logs, *published):
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert path in published or QUESTION[0]["content"].encode() not in content, path


def test_a_request_is_one_line_of_the_logs_and_no_warning_comes_every_second(run, endpoint):
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = {
        path: path.read_text(errors="replace").splitlines()
        for path in (session / "logs").rglob("*")
        if path.is_file()
    }
    lines = [line for path in logs for line in logs[path]]
    served = [line for line in lines if "POST /v1/chat/completions model=" in line]
    assert len(served) >= run.manifests["loadtest"].rows_in, "this looks at the wrong files"
    assert [line for line in lines if "/v1/chat/completions" in line] == served
    # other tests' drivers join this cluster as one of somebody else's
    ours = f"-{ray.get_runtime_context().get_job_id()}-"
    assert any(ours in path.name for path in logs)
    assert [
        line
        for path in logs
        if ours in path.name
        for line in logs[path]
        if "Failed to query Ray Train Controller" in line
    ] == []


def test_serving_says_what_it_waits_for(endpoint, told):
    lines = told.getvalue().splitlines()
    assert "starting student" in lines
    assert any(
        line.startswith("waiting for student's engine") and line.endswith(" s") for line in lines
    )


def test_a_local_run_that_serves_listens_on_loopback_only(endpoint):
    assert open_to_others() == []


def client(endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key)


QUESTION = [
    {
        "role": "user",
        "content": "Mia has 47 apples and buys 35 more. How many apples does Mia have?",
    }
]


def test_the_openai_client_gets_an_answer_and_a_stream(endpoint):
    plain = client(endpoint).chat.completions.create(
        model="student", messages=QUESTION, max_tokens=24, temperature=0
    )
    assert plain.usage.completion_tokens > 0
    chunks = client(endpoint).chat.completions.create(
        model="student", messages=QUESTION, max_tokens=24, temperature=0, stream=True
    )
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        == plain.choices[0].message.content
    )


def test_structured_output_and_tools_are_vllms_own(endpoint):
    shape = {"type": "object", "properties": {"n": {"enum": [82]}}, "required": ["n"]}
    asked = {"model": "student", "messages": QUESTION, "max_tokens": 60, "temperature": 0}
    schema = {"name": "answer", "schema": shape | {"additionalProperties": False}}
    structured = client(endpoint).chat.completions.create(
        **asked, response_format={"type": "json_schema", "json_schema": schema}
    )
    assert structured.choices[0].message.content.lstrip().startswith("{")
    # So small a student never ends the arguments, so only the call's beginning can be asked for.
    tool = {"type": "function", "function": {"name": "add", "parameters": shape}}
    called = client(endpoint).chat.completions.create(
        **asked, tools=[tool], tool_choice={"type": "function", "function": {"name": "add"}}
    )
    assert '"name": "add"' in called.choices[0].message.content


def test_log_likelihoods_come_by_echo(endpoint):
    scored = client(endpoint).completions.create(
        model="student", prompt="Mia has 82 apples.", max_tokens=0, echo=True, logprobs=1
    )
    logprobs = scored.choices[0].logprobs.token_logprobs
    assert logprobs[0] is None
    assert all(value < 0 for value in logprobs[1:])


def unfinished(endpoint) -> list[int]:
    """Requests that each engine of the student has."""
    (name,) = [
        name
        for name in serve.status().applications
        if name.startswith(endpoint.deployed.prefix("student"))
    ]
    answers = serve.get_app_handle(name).broadcast("unfinished")
    return answers.results(timeout_s=30)


def until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


LONG = {"model": "student", "messages": QUESTION, "max_tokens": 400, "stream": True}


def test_a_client_that_leaves_is_aborted_in_the_engine_within_a_second(endpoint):
    stream = client(endpoint).chat.completions.create(**LONG, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert unfinished(endpoint) == [1]
    stream.close()
    until(lambda: unfinished(endpoint) == [0], 1)


def test_metrics_are_under_the_key_and_say_what_the_engine_did(endpoint):
    root = endpoint.base_url.removesuffix("/v1")
    page = httpx.get(f"{root}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    for name in ("distill_requests_total", "vllm:generation_tokens_total", "vllm:prompt_tokens"):
        assert name in page


ROUTES = [
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/docs",
    "/openapi.json",
    "/-/routes",
    "/-/healthz",
    "/x",
]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}]
)
def test_a_missing_or_wrong_key_gets_401_on_every_route(endpoint, path, header):
    root = endpoint.base_url.removesuffix("/v1")
    assert httpx.get(root + path, headers=header).status_code == 401
    assert httpx.get(root + path, headers={"Authorization": f"Bearer {KEY}"}).status_code != 401


def test_vllms_own_benchmark_works_against_the_endpoint(endpoint, run, tmp_path):
    arguments = [
        "--backend",
        "openai-chat",
        "--base-url",
        endpoint.base_url.removesuffix("/v1"),
        "--endpoint",
        "/v1/chat/completions",
        "--model",
        "student",
        "--tokenizer",
        str(run.folders["train"] / "student"),
        "--dataset-name",
        "random",
        "--random-input-len",
        "16",
        "--random-output-len",
        "8",
        "--num-prompts",
        "8",
        "--save-result",
        "--result-dir",
        str(tmp_path),
        "--result-filename",
        "bench.json",
    ]
    subprocess.run(
        [sys.executable, "-c", BENCH, *arguments],
        check=True,
        env=os.environ | {"OPENAI_API_KEY": KEY},
        timeout=300,
    )
    assert json.loads((tmp_path / "bench.json").read_text())["completed"] == 8


def test_a_killed_engine_cuts_its_stream_with_an_error(endpoint):
    """The last of these: another one takes the engine's time to start."""
    stream = client(endpoint).chat.completions.create(**LONG, extra_body={"ignore_eos": True})
    next(iter(stream))
    cores = [
        process
        for process in psutil.Process().children(recursive=True)
        if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline())
    ]
    assert cores
    for core in cores:
        core.kill()
    with pytest.raises(openai.APIError):
        list(stream)


@pytest.mark.proof
def test_another_engine_comes_after_one_was_killed(endpoint):
    """With fake engines: tests/backends/test_ray_serving.py."""
    test_a_killed_engine_cuts_its_stream_with_an_error(endpoint)
    answer = client(endpoint).with_options(max_retries=20, timeout=120).chat.completions
    assert answer.create(model="student", messages=QUESTION, max_tokens=4).choices
