"""What is replaced in the small job, and what is kept."""

import re

import pytest
from conftest import REPOSITORY
from doubles.rehearsed import LORA, Models

from engine.job.jobfile import load_job
from engine.rehearsal.api_server import KEY
from engine.rehearsal.differences import differences
from engine.rehearsal.ground import KEY_VARIABLE, Ground
from engine.rehearsal.little_job import little_job
from engine.rehearsal.preparation import not_tried

JOBS = sorted((REPOSITORY / "jobs").glob("*.yaml"))
# Everything that changes a result and is not the job's own: lengths, numbers of rows and requests,
# what a random model cannot do, and what no CPU has.
REPLACED = re.compile(
    r"prompts\.validation_fraction"
    r"|generate\.(teachers\.\d+\.)?sampling\.(max_tokens|samples)"
    r"|(generate\.teachers\.\d+|evaluate(\.judge\.teacher)?|serve)"
    r"\.(max_model_len|quantization|kv_cache_dtype|engine_args.*|revision)"
    r"|evaluate(\.judge)?\.max_tokens"
    r"|curate\.(check_reference|keep_truncated|min_tokens|max_tokens)"
    # and what would leave nothing of random answers, or of a few made-up rows: OFF
    r"|train\.(epochs|block_tokens|global_batch|revision|lora\.quantize|teacher\.revision)"
    r"|loadtest\..*"
)


def small(job, **ground):
    given = {"train": ["/rows/train.jsonl"], "validation": ["/rows/validation.jsonl"], "shrink": 8}
    return little_job(job, Ground(models=Models(), **given | ground))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_of_every_job_only_lengths_and_numbers_change(path):
    job = load_job(path)
    little = small(job, api="http://127.0.0.1:1")
    changed = [line.partition(":")[0] for line in differences(job, little)]
    assert [name for name in changed if not REPLACED.fullmatch(name)] == []
    assert little.device == "cpu"
    assert little.name == job.name
    teachers = zip(job.generate.teachers, little.generate.teachers, strict=True)
    assert all(one.kind == other.kind for one, other in teachers)


def test_what_the_job_is_about_is_kept():
    sets = ["train.schedule=wsd", "train.trackers=[tensorboard]", "generate.capture.codec=packed"]
    job = load_job(LORA, [*sets, "evaluate.metrics=[exact_match]", "train.zero_stage=1"])
    little = small(job)
    assert little.train.loss == job.train.loss
    assert little.train.lora == job.train.lora
    for name in ("learning_rate", "schedule", "precision", "zero_stage", "trackers"):
        assert getattr(little.train, name) == getattr(job.train, name), name
    assert little.train.gradient_checkpointing
    assert little.generate.capture == job.generate.capture
    assert little.evaluate.metrics == ["exact_match"]
    assert little.evaluate.baseline


def test_placement_is_replaced():
    job = load_job(
        LORA,
        [
            "train.offload=cpu",
            "train.deepspeed={zero_optimization: {"
            "offload_optimizer: {buffer_count: 5}, overlap_comm: true}}",
        ],
    )
    little = small(job)
    teacher = little.generate.teachers[0]
    assert (teacher.devices, teacher.replica_range, teacher.accelerator_type) == (1, (1, 1), None)
    assert (little.train.workers, little.train.offload) == (2, "none")
    assert little.train.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    assert little.serve.port != job.serve.port
    assert little.evaluate.replica_range == (1, 1)


def test_lengths_are_divided_on_the_same_side_of_each_limit():
    job = load_job(REPOSITORY / "jobs/deepseek-v3-to-phi-4-mini.yaml")
    little = small(job)
    assert little.generate.teachers[0].max_model_len == 16_384 // 8
    assert little.train.block_tokens == 8192 // 8  # above the small model's 512 short positions
    assert little.serve.max_model_len == 16_384 // 8
    assert small(job, shrink=1).train.block_tokens == 8192


def test_what_random_answers_cannot_pass_is_off():
    job = load_job(LORA, ["curate.min_tokens=20", "generate.min_teacher_score=0.5"])
    little = small(job)
    assert (little.curate.check_reference, little.curate.keep_truncated) == (False, True)
    assert little.curate.min_tokens == 1
    assert little.generate.min_teacher_score is None
    assert little.train.gates.min_captured_mass == 0
    assert little.curate.dedup == job.curate.dedup


def test_rules_that_would_leave_nothing_are_off_and_said_to_be():
    judge = "{teacher: {kind: openai, name: j, model: m, api_key_env: K}, rubric: r, keep: '>= 4'}"
    sets = ["curate.languages=[en]", "curate.majority={min_agreement: 0.9}"]
    sets += ["curate.select={per_prompt: 1, by: [judge]}", f"curate.judge={judge}"]
    job = load_job(LORA, [*sets, "prompts.near_duplicates=0.8"])
    little = small(job, api="http://127.0.0.1:1")
    assert (little.curate.languages, little.curate.majority) == (None, None)
    assert little.prompts.near_duplicates is None
    assert little.curate.select == job.curate.select
    assert (little.curate.judge.keep, little.curate.judge.scale) == (None, [1, 5])
    assert little.curate.judge.teacher.base_url == "http://127.0.0.1:1/v1"
    (said,) = [doubt for doubt in not_tried(job) if "off" in doubt]
    assert "curate.languages, curate.majority, prompts.near_duplicates: off" in said


def test_a_batch_is_asked_live():
    path = REPOSITORY / "jobs/gpt-4-to-phi-3.5-mini.yaml"
    sets = ["generate.teachers.0.batch=true", "generate.teachers.0.batch_rows=100"]
    job = load_job(path, [*sets, "generate.teachers.0.concurrency=16"])
    assert not small(job, api="http://127.0.0.1:1").generate.teachers[0].batch


def test_an_api_is_asked_here_with_a_key_of_its_own():
    job = load_job(REPOSITORY / "jobs/gpt-4-to-phi-3.5-mini.yaml")
    teacher = small(job, api="http://127.0.0.1:1").generate.teachers[0]
    assert (teacher.base_url, teacher.api_key_env) == ("http://127.0.0.1:1/v1", KEY_VARIABLE)
    assert teacher.prices == job.generate.teachers[0].prices
    claude = load_job(REPOSITORY / "jobs/claude-to-phi-3.5-mini.yaml")
    assert small(claude, api="http://127.0.0.1:1").generate.teachers[0].base_url.endswith(":1")
    azure = load_job(
        REPOSITORY / "jobs/gpt-4-to-phi-3.5-mini.yaml",
        ["generate.teachers.0.api_version=v", "generate.teachers.0.base_url=https://x.example"],
    )
    assert small(azure, api="http://127.0.0.1:1").generate.teachers[0].base_url.endswith(":1")
    assert KEY not in little_text(job)


def little_text(job):
    return small(job, api="http://127.0.0.1:1").model_dump_json()


def test_an_endpoint_that_is_open_to_others_stays_on_this_machine(monkeypatch):
    sets = ["serve.host=0.0.0.0", "serve.api_key_env=OURS", "serve.insecure=true"]
    serve = small(load_job(LORA, sets)).serve
    assert (serve.host, serve.api_key_env, serve.insecure) == ("127.0.0.1", KEY_VARIABLE, False)


def test_each_kind_of_load_has_one_short_level():
    sets = ["loadtest.concurrency=[8, 32]", "loadtest.sessions={users: [16]}"]
    load = small(load_job(LORA, sets)).loadtest
    assert (load.concurrency, load.rates, load.sessions.users) == ([2], [4.0], [2])
    assert (load.seconds, load.max_tokens) == (2.0, 8)
    none = small(load_job(LORA, ["loadtest.rates=[]"])).loadtest
    assert none.closed_levels == [1]
    assert small(load_job(LORA, ["loadtest.models=[]"])).loadtest.models == []


def test_layers_that_are_matched_are_there():
    sets = [
        "train.teacher={model: meta-llama/Llama-3.1-70B-Instruct}",
        "train.hidden={layers: [[16, 40]]}",
        "train.lora=null",
    ]
    train = small(load_job(LORA, sets)).train
    assert train.hidden.layers == [[16, 40]]
    assert train.student.endswith("-16")
    assert train.teacher.model.endswith("-40")
