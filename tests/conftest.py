"""What several test modules share: one Ray cluster, small prompt files, a job with the fake teacher."""

import json
from pathlib import Path

import pytest

from engine.spec import JobSpec

REPOSITORY = Path(__file__).parents[1]
KEY = "a-key-for-tests"


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One local Ray cluster for the whole session; its processes guard every Serve route with KEY."""
    from engine.backends import bearer_guard, ray_cluster

    with ray_cluster.connected(None, shared=tmp_path_factory.getbasetemp(), environment=bearer_guard.key_environment(KEY), num_cpus=4):
        yield


def write_prompts(path: Path, count: int, first: int = 0) -> Path:
    rows = [{"prompt": f"What is {n} plus {n + 1}? #### {2 * n + 1}", "reference": str(2 * n + 1)} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def fake_job(tmp_path):
    """Build a job whose teacher repeats the prompt's words; its model folder is never read."""

    def build(count: int = 40, **changes) -> JobSpec:
        job = {
            "name": "fake", "task": "math", "device": "cpu",
            "prompts": {
                "train": str(write_prompts(tmp_path / "train.jsonl", count)),
                "validation": str(write_prompts(tmp_path / "validation.jsonl", 8, first=1000)),
            },
            "generate": {"teachers": [{"name": "t", "kind": "fake", "model": "fake"}], "sampling": {"temperature": 0.0}},
            "train": {"student": str(REPOSITORY / "jobs/quickstart/student"), "init": "random", "block_tokens": 256,
                      "tokenizer": str(REPOSITORY / "jobs/quickstart/teacher")},
            "loadtest": {"models": []},
        }
        for name, block in changes.items():
            job[name] = job[name] | block if isinstance(block, dict) and isinstance(job.get(name), dict) else block
        return JobSpec.model_validate(job)

    return build


@pytest.fixture
def answer_here():
    """Run prompts and generate of a job in this process, without Ray; publishes and returns generate's folder."""
    from engine import pipeline, rundir
    from engine.backends import fake
    from engine.progress import Context
    from engine.stages import generate

    def answer(job, runs, *, supersede=False):
        pipeline.run(job, runs, until="prompts")
        folders = {plan.stage: plan.folder for plan in pipeline.plan(job, runs)}
        inputs, out = {"prompts": folders["prompts"]}, folders["generate"]
        (out / "data").mkdir(parents=True, exist_ok=True)
        counts = generate.run(job.generate, inputs, out, Context(job.name, job.task, job.seed), stream=fake.stream)
        identity = pipeline.identity_of(pipeline.STAGES[1], job, inputs, out.parent)
        rundir.publish(out, "generate", identity, counts, 0.0, supersede=supersede)
        return out

    return answer
