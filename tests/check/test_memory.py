"""Weights that do not fit the accelerator which the job names are found before anything starts."""

import pytest
from conftest import REPOSITORY

from engine.check.job import problems_of
from engine.check.memory import memory_problems
from engine.job.jobfile import load_job
from engine.job.spec import EvaluateSpec
from engine.machines.architectures import facts

V3 = facts("deepseek-ai/DeepSeek-V3")


def told(shape=V3, device="gpu", **engine):
    return list(memory_problems("generate.teachers.0", shape, EvaluateSpec(**engine), device))


def test_weights_beyond_the_memory_are_told_with_a_layout_that_holds_them():
    (problem,) = told(tensor_parallel=8, accelerator_type="H100")
    assert problem.startswith("generate.teachers.0: 84 GB of weights a device do not fit H100")
    assert "pipeline_parallel" in problem
    assert told(tensor_parallel=8, pipeline_parallel=2, accelerator_type="H100") == []


def test_a_teacher_that_fits_nowhere_wants_another_accelerator_or_model():
    (problem,) = told(accelerator_type="A10G", gpu_memory_utilization=0.2)
    assert problem.endswith("choose another accelerator, or a smaller model")


@pytest.mark.parametrize(
    "engine",
    [
        {"accelerator_type": None},
        {"accelerator_type": "X9"},
        {"accelerator_type": "H100", "engine_args": {"cpu_offload_gb": 64}},
        {"accelerator_type": "H100", "device": "cpu"},
        {"accelerator_type": "H100", "shape": None},
    ],
)
def test_what_is_not_known_is_believed(engine):
    assert told(**engine) == []


def test_no_shipped_job_is_refused_for_its_memory():
    for path in sorted((REPOSITORY / "jobs").glob("*.yaml")):
        assert [one for one in problems_of(load_job(path)) if "do not fit" in one] == []
