"""lm-eval's part of evaluate, with a process that speaks as the harness' does, and no model."""

import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.backends.lm_eval_harness import opened
from engine.errors import StageError
from engine.job.spec import EvaluateSpec, GenerateSpec, Model, SamplingSpec
from engine.run.context import Context
from engine.run.facts import GenerateInfo
from engine.run.progress import Progress
from engine.stages.evaluate.harness import score_with_harness

FAKE = str(Path(__file__).parents[1] / "drivers/fake_lm_eval.py")
SPEC = EvaluateSpec(lm_eval=["a.yaml"], bootstrap_samples=1000)
MODELS = [Model("student", "folder/student", None, SPEC), Model("baseline", "hub/b", "abc", SPEC)]
VLLM = {"name": "big", "kind": "vllm", "model": "folder/big", "trust_remote_code": True}
PAID = {
    "name": "api",
    "kind": "openai",
    "model": "m",
    "api_key_env": "NONE",
    "prices": {"input": 1.0, "output": 2.0},
}


def generate_by(*teachers, **fields):
    return GenerateSpec(teachers=list(teachers), sampling=SamplingSpec(max_tokens=77), **fields)


@pytest.fixture
def score(tmp_path):
    """Score, and tell which models were served, and what the harness was asked of each."""

    def run(generate, fault="", models=MODELS, spent_usd=0.0, spec=SPEC):
        served = []
        info = GenerateInfo(
            prompts=0,
            completions=0,
            tokens_in=0,
            tokens_out=0,
            tokens_per_second=None,
            status={},
            cost_usd=spent_usd,
        )
        generated = SimpleNamespace(manifest=SimpleNamespace(info=info))

        @contextlib.contextmanager
        def endpoint(names):
            served.append(names)
            yield SimpleNamespace(base_url="http://here/v1", api_key="k")

        found = score_with_harness(
            spec,
            models,
            generate,
            generated,
            tmp_path,
            Context("t", "math", 3, progress=Progress()),
            endpoint=endpoint,
            harness=partial(opened, command=(sys.executable, FAKE, fault)),
        )
        asked = {}
        for path in (tmp_path / "lm_eval-work").glob("asked-*.jsonl"):
            name = path.stem.removeprefix("asked-")
            asked[name] = [json.loads(line) for line in path.read_text().splitlines()]
        return found, served, asked

    return run


def test_a_job_without_task_files_serves_nothing(score, tmp_path):
    found, served, _ = score(generate_by(VLLM), spec=EvaluateSpec())
    assert (found.info, found.files, found.warnings, served) == (None, {}, [], [])
    assert list(tmp_path.iterdir()) == []


def test_each_model_is_served_in_its_turn_and_asked_with_its_own_tokenizer(score):
    found, served, asked = score(generate_by(VLLM))
    assert served == [["teacher"], ["student"], ["baseline"]]
    (teacher,) = asked["teacher"]
    assert (teacher["name"], teacher["tokenizer"]) == ("teacher", "folder/big")
    assert teacher["trust_remote_code"] is True
    (baseline,) = asked["baseline"]
    assert (baseline["tokenizer"], baseline["revision"]) == ("hub/b", "abc")
    assert (baseline["url"], baseline["key"]) == ("http://here/v1", "k")
    assert baseline["max_tokens"] == 77
    assert found.info.version == "0.0"
    assert found.info.tasks["choice"].kind == "multiple_choice"
    assert found.info.scores["student"][0].stderr == 0.25
    assert found.info.chat_template == {"teacher": True, "student": True, "baseline": True}
    assert found.info.unknown == {}
    assert len([text for text in found.warnings if "3 texts" in text]) == 3


def test_results_and_samples_are_files_of_the_stage(score, tmp_path):
    found, _, _ = score(generate_by(VLLM), models=MODELS[:1])
    assert found.files == {
        "lm_eval/teacher.json": 1,
        "lm_eval/teacher.jsonl": 2,
        "lm_eval/student.json": 1,
        "lm_eval/student.jsonl": 2,
    }
    assert all((tmp_path / name).is_file() for name in found.files)
    assert not list((tmp_path / "lm_eval-work").glob("*/answers.db"))


def test_a_teacher_behind_an_api_is_asked_without_an_endpoint_within_what_is_left(score):
    found, served, asked = score(
        generate_by(PAID, max_cost_usd=5.0), models=MODELS[:1], spent_usd=3.5
    )
    assert served == [["student"]]
    (teacher,) = asked["teacher"]
    assert teacher["kind"] == "api"
    assert teacher["limit_usd"] == 1.5
    assert teacher["teacher"]["model"] == "m"
    assert found.info.unknown == {"teacher": {"choice": "no log-probabilities"}}
    assert found.info.cost_usd == 0.125
    assert any("1 prompts of its tasks are too long for teacher" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("generate", "reason"),
    [
        (generate_by({"name": "f", "kind": "fake", "model": "f"}), "of kind fake"),
        (
            generate_by(VLLM, {"name": "b", "kind": "vllm", "model": "b"}, route="split"),
            "several teachers answer",
        ),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_unknown_with_the_reason(score, generate, reason):
    found, served, _ = score(generate, models=MODELS[:1])
    assert served == [["student"]]
    assert found.info.unknown["teacher"].keys() == {"sums", "choice"}
    assert reason in found.info.unknown["teacher"]["sums"]
    assert "teacher" not in found.info.scores


def test_a_model_that_is_done_is_neither_served_nor_asked_again(score, tmp_path):
    first, _, _ = score(generate_by(VLLM))
    (tmp_path / "lm_eval/student.json").unlink()
    again, served, asked = score(generate_by(VLLM))
    assert served == [["student"]]
    assert [len(asked[name]) for name in ("teacher", "student", "baseline")] == [1, 2, 1]
    assert again.info == first.info


def test_what_the_harness_cannot_do_ends_the_stage_and_keeps_the_models_before(score, tmp_path):
    with pytest.raises(StageError, match="task sums: no"):
        score(generate_by(VLLM), fault="score")
    assert not (tmp_path / "lm_eval/teacher.json").exists()
    score(generate_by(VLLM), models=[])
    with pytest.raises(StageError, match="task sums: no"):
        score(generate_by(VLLM), fault="score")
    assert (tmp_path / "lm_eval/teacher.json").exists()
