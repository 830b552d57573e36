"""Each field with its default and another valid value: one table for defaults, roles, descriptions
and identity."""

import json

import pytest
from pydantic import ValidationError

from engine.job import spec
from engine.job.spec import (
    AttentionTransferSpec,
    Block,
    CaptureSpec,
    CurateSpec,
    EvaluateSpec,
    FieldMap,
    GatesSpec,
    GenerateSpec,
    HiddenSpec,
    JobSpec,
    LoadtestSpec,
    LoraSpec,
    PriceSpec,
    PromptsSpec,
    ReportSpec,
    SamplingSpec,
    ServeSpec,
    TeacherSpec,
    TrainSpec,
    WhiteBoxSpec,
)

GIVEN = object()  # the field has no default: BASE gives it
TEACHER = {"name": "t", "model": "m", "api_key_env": "KEY"}
PAIRS = {"layers": [[1, 2]]}
API_TEACHER = TEACHER | {"kind": "openai"}
BASE = {
    FieldMap: {},
    PromptsSpec: {"train": "a.jsonl"},
    TeacherSpec: TEACHER,
    SamplingSpec: {},
    CaptureSpec: {},
    GenerateSpec: {"teachers": [TEACHER]},
    CurateSpec: {},
    TrainSpec: {"student": "s"},
    LoraSpec: {},
    WhiteBoxSpec: {"model": "t"},
    HiddenSpec: PAIRS,
    AttentionTransferSpec: PAIRS,
    GatesSpec: {},
    EvaluateSpec: {},
    ServeSpec: {},
    LoadtestSpec: {"concurrency": [1]},
    ReportSpec: {},
    PriceSpec: {"input": 1, "output": 1},
    JobSpec: {
        "name": "j",
        "task": "math",
        "prompts": {"train": "a.jsonl"},
        "train": {"student": "s"},
        "generate": {"teachers": [TEACHER]},
    },
}
# block -> field -> (role, default, another valid value)
I, P = "identity", "placement"  # noqa: E741
FIELDS = {
    FieldMap: {
        "id": (I, None, "key"),
        "prompt": (I, "prompt", "question"),
        "messages": (I, "messages", "turns"),
        "reference": (I, "reference", "answer"),
        "system": (I, None, "sys"),
    },
    PromptsSpec: {
        "train": (P, GIVEN, ["b.jsonl"]),
        "validation": (P, None, "v.jsonl"),
        "validation_fraction": (I, 0.05, 0.1),
        "fields": (I, FieldMap(), {"id": "key"}),
        "system": (I, None, "Be brief."),
        "on_conflict": (I, "error", "first"),
        "limit": (I, None, 10),
        "shard_rows": (P, 4096, 8),
        "template": (I, None, "{question}"),
    },
    TeacherSpec: {
        "name": (I, GIVEN, "other"),
        "kind": (I, "vllm", "openai"),
        "model": (P, GIVEN, "/elsewhere"),
        "revision": (I, None, "abc"),
        "dtype": (I, "auto", "bfloat16"),
        "max_model_len": (I, None, 1024),
        "system": (I, None, "Be brief."),
        "trust_remote_code": (I, False, True),
        "tensor_parallel": (P, 1, 8),
        "replicas": (P, 1, 4),
        "max_num_seqs": (P, None, 64),
        "kv_cache_gib": (P, None, 2),
        "gpu_memory_utilization": (P, 0.9, 0.5),
        "base_url": (P, None, "http://127.0.0.1:1/v1"),
        "api_key_env": (P, GIVEN, "OTHER_KEY"),
        "fake": (I, {}, {"fail": 1}),
        "quantization": (I, None, "fp8"),
        "kv_cache_dtype": (I, "auto", "fp8"),
        "sampling": (I, None, {"samples": 2}),
        "reasoning_parser": (I, None, "deepseek_r1"),
        "weight": (I, 1.0, 2),
        "routes": (I, [], ["qa"]),
        "engine_args": (I, {}, {"block_size": 32}),
        "pipeline_parallel": (P, 1, 2),
        "data_parallel": (P, 1, 2),
        "expert_parallel": (P, False, True),
        "accelerator_type": (P, None, "H200"),
        "api_version": (P, None, "2025-01-01"),
        "extra_body": (I, {}, {"top_k": 5}),
        "concurrency": (P, 16, 2),
        "requests_per_minute": (P, None, 60),
        "tokens_per_minute": (P, None, 1000),
        "prices": (P, None, {"input": 1, "output": 2}),
    },
    PriceSpec: {"input": (P, GIVEN, 2), "output": (P, GIVEN, 3)},
    SamplingSpec: {
        "temperature": (I, 0.7, 0),
        "top_p": (I, 1.0, 0.9),
        "max_tokens": (I, 512, 64),
        "samples": (I, 1, 4),
        "reproducible": (I, True, False),
        "stop_loops": (I, True, False),
    },
    CaptureSpec: {
        "top_k": (I, 0, 16),
        "dtype": (I, "float16", "float32"),
        "codec": (I, "plain", "packed"),
        "packed_bits": (I, 8, 5),
    },
    GenerateSpec: {
        "teachers": (I, GIVEN, [{"name": "u", "model": "m"}]),
        "sampling": (I, SamplingSpec(), {"samples": 2}),
        "capture": (I, CaptureSpec(), {"top_k": 4}),
        "shard_rows": (P, 512, 16),
        "rows_in_flight": (P, None, 64),
        "part_rows": (P, 512, 16),
        "part_seconds": (P, 60, 5),
        "request_timeout_s": (P, 600, 5),
        "max_attempts": (P, 5, 7),
        "start_timeout_s": (P, 7200, 60),
        "route": (I, "all", "split"),
        "route_by": (I, None, GIVEN),
        "max_cost_usd": (P, None, 5),
        "max_failed_fraction": (P, 0.0, 0.5),
        "min_teacher_score": (P, None, 0.4),
    },
    CurateSpec: {
        "min_tokens": (I, 1, 0),
        "max_tokens": (I, None, 100),
        "keep_truncated": (I, False, True),
        "dedup": (I, "exact", "none"),
        "check_reference": (I, True, False),
    },
    TrainSpec: {
        "student": (P, GIVEN, "/elsewhere"),
        "revision": (I, None, "abc"),
        "init": (I, "pretrained", "random"),
        "tokenizer": (P, None, "/elsewhere"),
        "loss": (I, "sft", "forward_kl"),
        "temperature": (I, 1.0, 2),
        "tail": (I, "bucket", "renormalize"),
        "learning_rate": (I, 2e-5, 1e-3),
        "adam_beta2": (I, 0.999, 0.95),
        "min_learning_rate_ratio": (I, 0.1, 0),
        "warmup_ratio": (I, 0.03, 0),
        "weight_decay": (I, 0.0, 0.1),
        "max_grad_norm": (I, 1.0, 0.5),
        "epochs": (I, 3, 1),
        "block_tokens": (I, 2048, 128),
        "global_batch": (I, None, 64),
        "precision": (I, "bf16", "fp32"),
        "batch_size": (P, 2, 4),
        "accumulation": (P, 1, 2),
        "workers": (P, 1, 8),
        "zero_stage": (P, 2, 3),
        "offload": (P, "none", "cpu"),
        "gradient_checkpointing": (P, False, True),
        "checkpoint_steps": (P, 200, 10),
        "validate_steps": (I, 200, 10),
        "keep_checkpoints": (P, 2, 1),
        "max_failures": (P, 3, 0),
        "sft_weight": (I, 0.0, GIVEN),
        "jsd_beta": (I, 0.5, 0.9),
        "skew": (I, 0.1, 0.2),
        "adaptive_head": (I, 0.5, 0.8),
        "teacher": (I, None, GIVEN),
        "hidden": (I, None, GIVEN),
        "attention_transfer": (I, None, GIVEN),
        "learn_turns": (I, "last", "all"),
        "long_examples": (I, "drop", "split"),
        "schedule": (I, "cosine", "wsd"),
        "decay_ratio": (I, 0.2, 0.5),
        "lora": (I, None, {"rank": 8}),
        "export": (I, "last", "best"),
        "early_stopping": (I, None, 3),
        "elastic": (P, None, [1, 4]),
        "nvme_path": (P, None, "/nvme"),
        "deepspeed": (P, {}, {"wall_clock_breakdown": True}),
        "attention": (P, "auto", "eager"),
        "logits_mib": (P, 32, 16),
        "cache_dir": (P, None, "/cache"),
        "cache_gib": (P, 50.0, 4),
        "trackers": (P, ["tensorboard"], ["mlflow"]),
        "gates": (P, GatesSpec(), {"rescored_examples": 0}),
    },
    LoraSpec: {
        "rank": (I, 16, 8),
        "alpha": (I, 32.0, 8),
        "dropout": (I, 0.0, 0.1),
        "targets": (I, "all-linear", ["q_proj"]),
        "quantize": (I, "none", "nf4"),
    },
    WhiteBoxSpec: {"model": (P, GIVEN, "/elsewhere"), "revision": (I, None, "abc")},
    HiddenSpec: {
        "layers": (I, GIVEN, [[1, 3]]),
        "loss": (I, "mse", "cosine"),
        "weight": (I, 1.0, 2),
    },
    AttentionTransferSpec: {"layers": (I, GIVEN, [[1, 3]]), "weight": (I, 1.0, 2)},
    GatesSpec: {
        "rescored_examples": (P, 8, 0),
        "max_drift": (P, 0.1, 1),
        "min_captured_mass": (P, 0.5, 0),
        "max_loss_error": (P, 0.02, 0.1),
    },
    EvaluateSpec: {
        "metrics": (I, "auto", ["accuracy"]),
        "baseline": (I, True, False),
        "max_tokens": (I, None, 64),
        "bootstrap_samples": (I, 1000, 200),
        "max_model_len": (I, None, 512),
        "tensor_parallel": (P, 1, 2),
        "replicas": (P, 1, 2),
        "max_num_seqs": (P, None, 8),
        "kv_cache_gib": (P, None, 2),
        "dtype": (I, "auto", "float32"),
    },
    ServeSpec: {
        "host": (P, "127.0.0.1", "::1"),
        "port": (P, 8000, 9000),
        "api_key_env": (P, None, "KEY"),
        "replicas": (P, 1, 2),
        "tensor_parallel": (P, 1, 2),
        "max_num_seqs": (P, None, 8),
        "max_model_len": (P, None, 512),
        "kv_cache_gib": (P, None, 2),
        "dtype": (I, "auto", "float32"),
        "start_timeout_s": (P, 900, 60),
    },
    LoadtestSpec: {
        "models": (I, ["student"], ["teacher", "student"]),
        "arrivals": (I, "poisson", "constant"),
        "concurrency": (I, GIVEN, [2]),
        "rates": (I, [], [0.5]),
        "seconds": (I, 30, 5),
        "warmup_seconds": (I, 5, 0),
        "max_tokens": (I, 128, 16),
        "temperature": (I, 0.0, 1),
        "timeout_s": (I, 120, 5),
    },
    ReportSpec: {"html": (I, True, False)},
    JobSpec: {
        "version": (I, 1, None),
        "name": (P, GIVEN, "other"),
        "task": (I, GIVEN, "qa"),
        "seed": (I, 0, 7),
        "device": (P, "gpu", "cpu"),
        "prompts": (I, GIVEN, {"train": "a.jsonl", "limit": 5}),
        "generate": (I, GIVEN, {"teachers": [{"name": "u", "model": "m"}]}),
        "curate": (I, CurateSpec(), {"dedup": "none"}),
        "train": (I, GIVEN, {"student": "s", "epochs": 1}),
        "evaluate": (I, EvaluateSpec(), {"baseline": False}),
        "serve": (I, ServeSpec(), {"dtype": "float32"}),
        "loadtest": (I, LoadtestSpec(concurrency=[1, 4, 16]), {"models": []}),
        "report": (I, ReportSpec(), {"html": False}),
    },
}
CASES = [
    pytest.param(block, name, *case, id=f"{block.__name__}.{name}")
    for block, fields in FIELDS.items()
    for name, case in fields.items()
]


def test_the_table_above_knows_every_field_of_every_block():
    blocks = {
        value
        for value in vars(spec).values()
        if isinstance(value, type) and issubclass(value, Block)
    } - {Block}
    assert {block: set(block.model_fields) for block in blocks} == {
        block: set(fields) for block, fields in FIELDS.items()
    }


@pytest.mark.parametrize(("block", "name", "role", "default", "other"), CASES)
def test_field_has_its_role_its_default_and_a_description(block, name, role, default, other):
    field = block.model_fields[name]
    assert field.json_schema_extra == {"role": role}
    assert len(field.description) > 5
    if default is not GIVEN:
        assert getattr(block(**BASE[block]), name) == default


@pytest.mark.parametrize(
    ("block", "name", "role", "default", "other"),
    [
        case
        for case in CASES
        if case.id != "JobSpec.version"
        and case.values[4] is not GIVEN  # one value; those that go with another field
    ],
)
def test_identity_fields_change_the_identity_and_placement_fields_do_not(
    block, name, role, default, other
):
    before, after = block(**BASE[block]), block(**BASE[block] | {name: other})
    assert before != after
    assert (before.identity_fields() != after.identity_fields()) == (role == I)


@pytest.mark.parametrize(
    "more",
    [
        {"loss": "tvd", "sft_weight": 0.5},
        {"teacher": {"model": "t", "revision": "abc"}},
        {"hidden": PAIRS},
        {"hidden": PAIRS | {"loss": "cosine"}},
        {"attention_transfer": PAIRS},
    ],
)
def test_what_goes_with_another_field_is_identity_too(more):
    base = BASE[TrainSpec] | {"loss": more.get("loss", "forward_kl"), "teacher": {"model": "t"}}
    assert TrainSpec(**base | more).identity_fields() != TrainSpec(**base).identity_fields()


def test_placement_inside_nested_blocks_leaves_the_identity_of_the_job_alone():
    bigger = {
        "prompts": {"train": "a.jsonl", "shard_rows": 9},
        "generate": {"teachers": [TEACHER | {"replicas": 8}], "part_rows": 7},
        "train": {"student": "s", "workers": 8, "zero_stage": 3, "batch_size": 1},
        "serve": {"replicas": 3},
        "device": "cpu",
    }
    assert (
        JobSpec(**BASE[JobSpec] | bigger).identity_fields()
        == JobSpec(**BASE[JobSpec]).identity_fields()
    )


def test_specs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        TrainSpec(student="s").epochs = 5


BAD = {
    PromptsSpec: [
        {"train": 3},
        {"train": None},
        {"validation_fraction": 1},
        {"validation_fraction": -0.1},
        {"limit": 0},
        {"shard_rows": 0},
        {"on_conflict": "last"},
        {"fields": {"text": "x"}},
        {"template": "no column"},
    ],
    TeacherSpec: [
        {"name": "a/b"},
        {"name": "x" * 65},
        {"kind": "hf"},
        {"tensor_parallel": 0},
        {"replicas": 0},
        {"replicas": "2"},
        {"replicas": [3, 2]},
        {"replicas": [0, 2]},
        {"kind": "openai", "replicas": 2},
        {"prices": {"input": 1, "output": 2}, "replicas": 2},
        {"base_url": "https://me:word@host/v1"},
        {"gpu_memory_utilization": 1.1},
        {"max_model_len": 8},
        {"api_key_env": "sk-123"},
        {"kind": "openai", "api_key_env": None},
    ],
    SamplingSpec: [
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"max_tokens": 0},
        {"samples": 0},
        {"reproducible": 1},
    ],
    CaptureSpec: [{"top_k": -1}, {"top_k": 1025}, {"dtype": "bfloat16"}],
    GenerateSpec: [
        {"teachers": []},
        {"teachers": [TEACHER, TEACHER]},
        {"max_failed_fraction": 1.1},
        {"min_teacher_score": 20},
        {"part_seconds": 0},
        {"max_cost_usd": 5, "teachers": [API_TEACHER]},
        {"route": "by"},
        {"route_by": "task"},
        {"route": "by", "route_by": "task", "teachers": [TEACHER, TEACHER | {"name": "u"}]},
        {
            "route": "by",
            "route_by": "task",
            "teachers": [TEACHER | {"routes": ["qa"]}, TEACHER | {"name": "u", "routes": ["qa"]}],
        },
    ],
    CurateSpec: [{"min_tokens": -1}, {"dedup": "near"}],
    TrainSpec: [
        {"learning_rate": 0},
        {"learning_rate": "2e-5"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"zero_stage": 4},
        {"workers": 0},
        {"batch_size": 0},
        {"warmup_ratio": 1},
        {"loss": "kl"},
        {"temperature": 0},
        {"precision": "fp16"},
        {"lerning_rate": 1},
        {"offload": "cpu", "zero_stage": 0},
        {"offload": "nvme", "zero_stage": 3},
        {"offload": "nvme", "nvme_path": "/n"},
        {"elastic": [2]},
        {"elastic": [3, 2]},
        {"global_batch": 6, "workers": 4},
        {"sft_weight": 0.5},
        {"loss": "tvd", "learn_turns": "all"},
        {"loss": "uld", "teacher": {"model": "t"}},
        {"teacher": {"model": "t"}},
        {"offload": "nvme", "nvme_path": "/n", "zero_stage": 3, "elastic": [1, 2]},
        {"offload": "nvme", "nvme_path": "/n", "zero_stage": 3, "export": "best"},
        {"hidden": PAIRS},
        {"attention_transfer": PAIRS},
        {"teacher": {"model": "t"}, "attention_transfer": PAIRS, "attention": "sdpa"},
        {"loss": "reverse_kl", "lora": {"targets": ["q_proj", "lm_head"]}},
        {"loss": "jsd", "jsd_beta": 1},
        {"skew": 0},
    ],
    EvaluateSpec: [{"metrics": "bleu"}, {"bootstrap_samples": 10}],
    ServeSpec: [{"port": 70000}, {"port": 0}, {"api_key_env": "a key"}],
    LoadtestSpec: [
        {"concurrency": []},
        {"concurrency": [0]},
        {"rates": [-1.0]},
        {"models": ["gpt"]},
        {"seconds": 0},
    ],
    ReportSpec: [{"html": "yes"}],
    JobSpec: [
        {"version": 2},
        {"task": "maths"},
        {"seed": 2**31},
        {"name": ""},
        {"name": "../up"},
        {"device": "tpu"},
    ],
}


@pytest.mark.parametrize(
    ("block", "values"), [(block, values) for block, many in BAD.items() for values in many]
)
def test_a_bad_value_is_refused(block, values):
    with pytest.raises(ValidationError):
        block(**BASE[block] | values)


@pytest.mark.parametrize(
    "block",
    [block for block in BASE if any(field.is_required() for field in block.model_fields.values())],
)
def test_a_required_field_has_no_default(block):
    with pytest.raises(ValidationError, match="Field required"):
        block()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": {"student": "s", "loss": "forward_kl"}},
            r"generate\.capture\.top_k=0 stores none",
        ),
        (
            {
                "generate": {"teachers": [API_TEACHER]},
                "loadtest": {"models": ["teacher"], "rates": [1]},
            },
            "not load-tested",
        ),
        ({"generate": {"teachers": [API_TEACHER], "capture": {"top_k": 21}}}, "gives at most 20"),
        (
            {
                "generate": {"teachers": [API_TEACHER], "capture": {"top_k": 4}},
                "train": {"student": "s", "loss": "forward_kl"},
            },
            "wants token ids",
        ),
        ({"serve": {"host": "0.0.0.0"}}, "not loopback"),
        (
            {"train": {"student": "s", "offload": "cpu", "zero_stage": 0}},
            r"train\.offload=cpu .* zero_stage: 1, 2 or 3",
        ),
    ],
)
def test_blocks_that_contradict_each_other_are_refused_with_the_way_out(changes, message):
    with pytest.raises(ValidationError, match=message):
        JobSpec(**BASE[JobSpec] | changes)


@pytest.mark.parametrize(
    ("one", "other"),
    [({"top_k": 20}, {"top_k": 20.0}), ({"a": [1e3]}, {"a": [1000]}), ({"x": 0.0}, {"x": -0.0})],
)
def test_a_number_in_a_free_map_is_one_however_it_is_written(one, other):
    def identity(body):
        return json.dumps(
            TeacherSpec(name="t", kind="fake", model="m", extra_body=body).identity_fields()
        )

    assert identity(one) == identity(other) != identity({"top_k": 20.5})


API = {
    "name": "t",
    "kind": "openai",
    "model": "m",
    "api_key_env": "K",
    "prices": {"input": 1, "output": 2},
}


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({}, 64),
        ({"n": 5}, 320),
        ({"best_of": 3.0}, 192),
        ({"max_tokens": 2048.0, "max_completion_tokens": None}, 2048),
        ({"max_tokens": 16}, 64),
        ({"max_completion_tokens": 16}, 16),
        ({"max_output_tokens": 100}, 100),
    ],
)
def test_the_most_that_an_answer_can_cost_knows_what_is_asked_for_besides(body, most):
    assert TeacherSpec(**API, extra_body=body).most_tokens(64) == most


@pytest.mark.parametrize(
    "body", [{"max_completion_tokens": None}, {"n": "5"}, {"max_tokens": 0.5}, {"n": True}]
)
def test_a_body_whose_cost_cannot_be_bounded_is_refused(body):
    with pytest.raises(ValidationError, match=r"extra_body"):
        TeacherSpec(**API, extra_body=body)
