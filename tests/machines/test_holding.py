from pathlib import Path

import pytest
from conftest import REPOSITORY

from engine.job.jobfile import load_job
from engine.machines.cluster_file import NodeKind
from engine.machines.holding import asks_of, count_nodes, problems_on

JOBS = REPOSITORY / "jobs"
V3 = "deepseek-v3-to-phi-4-mini"
BY_TENSORS = ("generate.teachers.0.tensor_parallel=8", "generate.teachers.0.data_parallel=1")


def job_of(name, *sets):
    return load_job(JOBS / f"{name}.yaml", sets)


def nodes(count, accelerator="H200", devices=8, memory_gb=141.0, cpus=128.0):
    head = NodeKind("head", (1, 1), None, 0, None, 0.0, 64.0)
    return [head, NodeKind("gpu", (0, count), accelerator, devices, memory_gb, cpus, 1000.0)]


def test_stages_ask_one_after_the_other():
    asks = asks_of(job_of("llama-3.1-405b-to-llama-3.1-8b", "generate.teachers.0.replicas=2"))
    wants = {
        name: [(ask.layout.replicas[0], ask.layout.devices) for ask in each]
        for name, each in asks.items()
    }
    assert wants["generate.teachers.0"] == [(2, 8)]
    assert wants["train"] == [(8, 1)]
    assert "generate.teachers.0" not in asks_of(job_of("gpt-4-to-phi-3.5-mini")), (
        "an API takes none"
    )


def test_a_judge_with_weights_of_its_own_must_fit_too():
    teacher = "{name: j, model: deepseek-ai/DeepSeek-V3, tensor_parallel: 8}"
    judge = f"evaluate.judge={{rubric: jobs/rubric.txt, teacher: {teacher}}}"
    job = job_of("quickstart", "device=gpu", judge)
    (problem,) = problems_on(job, nodes(1, "L4", 4, 24.0))
    assert problem.startswith("evaluate.judge.teacher wants 8 GPUs")
    assert problems_on(job, nodes(1)) == []


@pytest.mark.parametrize(
    ("machines", "told"),
    [
        (nodes(4), []),
        (nodes(3), ["wants 32 H200 GPUs", "3 x 8 H200 of 141 GB", "set replicas: 3"]),
        (
            nodes(4, "H100", memory_gb=80.0),
            [
                "set accelerator_type: H100, tensor_parallel: 8, pipeline_parallel: 2,"
                " data_parallel: 1, replicas: 2"
            ],
        ),
        (nodes(4, "B200", memory_gb=180.0), ["set accelerator_type: B200"]),
        (nodes(1, "L4", 4, 24.0), ["no layout of it fits there; give a cluster file of more"]),
        (nodes(8, devices=4), ["tensor_parallel: 4, pipeline_parallel: 2, data_parallel: 1"]),
    ],
    ids=["fits", "too few", "too small", "another kind", "hopeless", "narrow"],
)
def test_a_teacher_gets_the_nearest_layout_that_fits(machines, told):
    problems = teacher_problems(machines)
    assert len(problems) == bool(told)
    for words in told:
        assert words in problems[0]


@pytest.mark.parametrize(
    ("machines", "told"),
    [
        (nodes(4), []),
        (
            nodes(4, "H100", memory_gb=80.0),
            ["set accelerator_type: H100, pipeline_parallel: 2, replicas: 2"],
        ),
        (nodes(8, devices=4), ["set tensor_parallel: 4, pipeline_parallel: 2"]),
    ],
    ids=["fits", "too small", "narrow"],
)
def test_one_that_is_split_by_tensors_stays_so(machines, told):
    problems = teacher_problems(machines, *BY_TENSORS)
    assert len(problems) == bool(told)
    for words in told:
        assert words in problems[0]


def teacher_problems(machines, *sets):
    job = job_of(V3, "generate.teachers.0.replicas=4", *sets)
    return [each for each in problems_on(job, machines) if each.startswith("generate")]


def test_a_judge_of_ours_needs_machines_like_a_teacher():
    teacher = "{name: j, model: deepseek-ai/DeepSeek-V3, tensor_parallel: 8, replicas: 4}"
    job = job_of(
        V3,
        f"evaluate.judge={{rubric: r.txt, teacher: {teacher}}}",
        "generate.teachers.0.replicas=1",
    )
    assert count_nodes(job, nodes(8)) == 4
    (problem,) = problems_on(job, nodes(3))
    assert problem.startswith("evaluate.judge.teacher wants 32 GPUs")
    assert problem.endswith("set replicas: 3")


def test_weights_that_no_gpu_holds_are_told_in_gigabytes():
    """8 x 80 GB hold 640 GB, of which an engine takes 0.9."""
    anywhere = ("generate.teachers.0.accelerator_type=null", "generate.teachers.0.replicas=1")
    job = job_of(V3, *anywhere, *BY_TENSORS)
    (problem,) = problems_on(job, nodes(4, "H100", memory_gb=80.0))
    assert "84 GB of weights on each" in problem
    assert problem.endswith("the nearest that fits: set pipeline_parallel: 2")


def test_training_state_that_no_gpu_holds_gets_the_first_setting_that_does():
    job = job_of("llama-3.1-405b-to-llama-3.1-8b", "train.zero_stage=2")
    train = [
        each for each in problems_on(job, nodes(4, "H100", memory_gb=32.0)) if "model state" in each
    ]
    assert len(train) == 1
    assert "set zero_stage: 3, workers: 8" in train[0]


def test_what_the_file_does_not_tell_is_no_problem():
    unknown = [NodeKind("node", (4, 4), None, 8, None, None, None)]
    assert problems_on(job_of(V3), unknown) == []
    assert problems_on(job_of("quickstart"), unknown) == [], "its CPUs are not known"
    assert problems_on(job_of(V3), []) == [], "a running cluster tells itself"


def test_a_job_for_cpus_counts_cpus():
    assert problems_on(job_of("quickstart"), nodes(1, cpus=64.0)) == []
    (problem, *_) = problems_on(job_of("quickstart"), nodes(1, cpus=1.0))
    assert "1 x 8 H200" in problem


@pytest.mark.parametrize(
    ("sets", "count"),
    [
        ([], 4),
        (["generate.teachers.0.replicas=2"], 2),
        (["generate.teachers.0.replicas=[1, 3]"], 3),
        (["generate.teachers.0.replicas=[1, 9]"], 4),
        (["generate.teachers.0.replicas=1", "train.workers=9"], 2),
    ],
)
def test_as_many_nodes_as_the_widest_stage_can_use(sets, count):
    assert count_nodes(job_of(V3, *sets), nodes(4)) == count


def test_nothing_is_read_from_a_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = job_of(V3)
    assert not Path(str(job.prompts.train)).exists()
    assert problems_on(job, nodes(4)) == []


def test_an_accelerator_that_nobody_knows_is_doubted_and_never_advised():
    (problem,) = [
        each for each in problems_on(job_of(V3), nodes(4, "H2OO", memory_gb=None)) if "H200" in each
    ]
    assert "4 x 8 H2OO (no accelerator that is known; did you mean H20" in problem
    assert "no layout of it fits there" in problem
