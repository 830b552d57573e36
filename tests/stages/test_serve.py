"""Which models are served, and how; the live endpoint is tested in test_end_to_end.py."""

import json
from contextlib import contextmanager

import pytest

from engine import live, pipeline
from engine.errors import SpecError, StageError
from engine.job.jobfile import load_serve
from engine.job.spec import GenerateSpec, OpenAITeacherSpec, ServeSpec, VllmTeacherSpec
from engine.run.context import Context
from engine.stages import serve

TEACHER = VllmTeacherSpec(name="big", model="org/teacher", revision="abc", tensor_parallel=4)


def test_a_teacher_is_asked_as_teacher_and_keeps_its_own_engine():
    spec = ServeSpec(tensor_parallel=2, adapters={"polite": "/adapter"})
    (served,) = serve.models_of(spec, TEACHER, None, ["teacher"], "gpu").values()
    assert (served.model.name, served.model.model) == ("teacher", "org/teacher")
    assert served.model.engine.tensor_parallel == 4
    assert dict(served.adapters) == {}


def test_somebody_elses_teacher_is_not_served():
    teacher = OpenAITeacherSpec(name="gpt", model="gpt-4", api_key_env="KEY")
    with pytest.raises(StageError, match="teacher 'gpt' of kind openai is not served here"):
        serve.models_of(ServeSpec(), teacher, None, ["teacher"], "gpu")


@pytest.mark.parametrize("spec", [ServeSpec(), ServeSpec(max_queued=7, max_queued_tokens=900)])
def test_engines_get_the_limits_of_the_job(tmp_path, spec):
    (tmp_path / "config.json").write_text("{}")
    (teacher,) = serve.models_of(spec, TEACHER, None, ["teacher"], "gpu").values()
    (folder,) = serve.models_in([tmp_path], spec, "gpu").values()
    for served in (teacher, folder):
        limits = (served.max_queued, served.max_queued_tokens)
        assert limits == (spec.max_queued, spec.max_queued_tokens)


@pytest.mark.parametrize("name", ["student", "baseline"])
def test_before_training_there_is_nobody_but_the_teacher(name):
    with pytest.raises(StageError, match=f"there is no {name}: finish training first"):
        serve.models_of(ServeSpec(), TEACHER, None, [name], "gpu")


def test_a_folder_is_asked_by_its_name(tmp_path):
    folder = tmp_path / "phi"
    folder.mkdir()
    with pytest.raises(SpecError, match=r"it has no config\.json"):
        serve.models_in([folder], ServeSpec(), "cpu")
    (folder / "config.json").write_text("{}")
    spec = ServeSpec(adapters={"polite": "/adapter"}, server_args={"tool_call_parser": "hermes"})
    served = serve.models_in([folder], spec, "cpu")[folder.name]
    assert (served.model.name, served.model.model) == ("phi", str(folder))
    assert (dict(served.adapters), dict(served.server_args)) == (spec.adapters, spec.server_args)
    assert served.device == "cpu"


def test_what_a_command_serves_is_compiled_and_what_a_load_test_serves_is_not(
    tmp_path, monkeypatch, fake_job
):
    seen = []

    @contextmanager
    def deployed(models, *_, **__):
        seen.append({name: model.compiled for name, model in models.items()})
        yield

    monkeypatch.setattr(serve.ray_endpoint, "deployed", deployed)
    monkeypatch.setattr(live, "connect", lambda *_: None)
    (tmp_path / "config.json").write_text("{}")
    with live.serving_folders(load_serve(["device=cpu"]), [tmp_path]):
        pass
    job = fake_job()
    job = job.model_copy(update={"generate": GenerateSpec(teachers=[TEACHER])})
    with pipeline.endpoint_of(job, None, Context("t", "qa", 0, "cpu"), ["teacher"]):
        pass
    assert seen == [{tmp_path.name: True}, {"teacher": False}]


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "::1", "port": 8001}, "http://[::1]:8001"),
        ({"tls_cert": "c", "tls_key": "k"}, "https://127.0.0.1:8000"),
    ],
)
def test_clients_are_told_where_it_is(fields, address):
    assert serve.address_of(ServeSpec(**fields)) == address


def test_what_does_not_run_cannot_be_updated(tmp_path):
    with pytest.raises(StageError, match=r"nothing serves this job .* distill serve JOB"):
        serve.announcement(tmp_path)
    told = {"ray_address": "127.0.0.1:6379", "application": "distill-8000"}
    (tmp_path / serve.ANNOUNCEMENT).write_text(json.dumps(told))
    assert serve.announcement(tmp_path) == told
