"""Each field with its default and another valid value: one table for defaults, roles, descriptions
and identity."""

import json

import pytest
from pydantic import ValidationError

from engine.errors import SpecError
from engine.job import spec
from engine.job.field_texts import field_texts
from engine.job.jobfile import load_job
from engine.job.spec import (
    AdaptiveKlLoss,
    AnthropicTeacherSpec,
    AnyLoss,
    ApiTeacher,
    AskedJudgeSpec,
    AskingSpec,
    AttentionTransferSpec,
    BalanceSpec,
    Block,
    CaptureSpec,
    CurateJudgeSpec,
    CurateSpec,
    DecontaminateSpec,
    DifficultySpec,
    DistributionLoss,
    DistributionSpec,
    EngineSpec,
    EvaluateSpec,
    FakeTeacherSpec,
    FieldMap,
    ForwardKlLoss,
    GatesSpec,
    GenerateSpec,
    HiddenSpec,
    JobSpec,
    JsdLoss,
    JudgeSpec,
    LiveTeacherSpec,
    LoadtestSpec,
    LoraSpec,
    MajoritySpec,
    NearDuplicatesSpec,
    OpenAITeacherSpec,
    PiiSpec,
    PriceSpec,
    PromptLeaksSpec,
    PromptsSpec,
    ReportSpec,
    ReverseKlLoss,
    SamplingSpec,
    SelectSpec,
    ServeSpec,
    SessionsSpec,
    SftLoss,
    SkewForwardKlLoss,
    SkewReverseKlLoss,
    SloSpec,
    TraceSpec,
    TrainSpec,
    TvdLoss,
    UldLoss,
    VerifySpec,
    VllmTeacherSpec,
)

GIVEN = object()  # the field has no default: BASE gives it
TEACHER = {"name": "t", "model": "m"}
PAIRS = {"layers": [[1, 2]]}
API_TEACHER = TEACHER | {"kind": "openai", "api_key_env": "KEY"}
KEYED = TEACHER | {"api_key_env": "KEY"}
PRICED = API_TEACHER | {"prices": {"input": 1, "output": 2}}
JUDGE = {"teacher": PRICED, "rubric": "rubric.txt"}
DISTRIBUTIONS = (
    ForwardKlLoss,
    ReverseKlLoss,
    JsdLoss,
    SkewForwardKlLoss,
    SkewReverseKlLoss,
    AdaptiveKlLoss,
    TvdLoss,
    UldLoss,
)
BASE = {
    FieldMap: {},
    PromptsSpec: {"train": "a.jsonl"},
    PromptLeaksSpec: {},
    EngineSpec: {},
    VllmTeacherSpec: TEACHER,
    OpenAITeacherSpec: KEYED,
    AnthropicTeacherSpec: KEYED,
    FakeTeacherSpec: TEACHER,
    SamplingSpec: {},
    CaptureSpec: {},
    AskingSpec: {},
    GenerateSpec: {"teachers": [TEACHER]},
    CurateSpec: {},
    CurateJudgeSpec: JUDGE,
    SelectSpec: {},
    MajoritySpec: {},
    DifficultySpec: {},
    NearDuplicatesSpec: {},
    DecontaminateSpec: {},
    PiiSpec: {},
    BalanceSpec: {"by": "source", "most": 9},
    VerifySpec: {},
    SftLoss: {},
    **{loss: {} for loss in DISTRIBUTIONS},
    TrainSpec: {"student": "s"},
    LoraSpec: {},
    LiveTeacherSpec: {"model": "t"},
    HiddenSpec: PAIRS,
    AttentionTransferSpec: PAIRS,
    GatesSpec: {},
    EvaluateSpec: {},
    JudgeSpec: JUDGE,
    ServeSpec: {},
    LoadtestSpec: {"slo": {"ttft_ms": 500.0}},
    SloSpec: {"ttft_ms": 500.0},
    DistributionSpec: {},
    SessionsSpec: {"users": [1]},
    TraceSpec: {"path": "trace.csv"},
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
ENGINE = {
    "dtype": (I, "auto", "bfloat16"),
    "quantization": (I, None, "fp8"),
    "kv_cache_dtype": (I, "auto", "fp8"),
    "max_model_len": (I, None, 1024),
    "engine_args": (I, {}, {"block_size": 32}),
    "tensor_parallel": (P, 1, 8),
    "pipeline_parallel": (P, 1, 2),
    "data_parallel": (P, 1, 2),
    "expert_parallel": (P, False, True),
    "replicas": (P, 1, 4),
    "accelerator_type": (P, None, "H200"),
    "max_num_seqs": (P, None, 64),
    "kv_cache_gib": (P, None, 2),
    "gpu_memory_utilization": (P, 0.9, 0.5),
}
ANY_TEACHER = {
    "name": (I, GIVEN, "other"),
    "model": (P, GIVEN, "/elsewhere"),
    "system": (I, None, "Be brief."),
    "sampling": (I, None, {"samples": 2}),
    "weight": (I, 1.0, 2),
    "routes": (I, [], ["qa"]),
}
API_TEACHER_FIELDS = ANY_TEACHER | {
    "base_url": (P, None, "http://127.0.0.1:1/v1"),
    "api_key_env": (P, GIVEN, "OTHER_KEY"),
    "extra_body": (I, {}, {"top_k": 5}),
    "concurrency": (P, 16, 2),
    "requests_per_minute": (P, None, 60),
    "tokens_per_minute": (P, None, 1000),
    "prices": (P, None, {"input": 1, "output": 2}),
    "batch": (P, False, True),
    "batch_rows": (P, None, GIVEN),
}
DISTRIBUTION = {
    "sft_weight": (I, 0.0, 0.5),
    "temperature": (I, 1.0, 2),
    "tail": (I, "bucket", "renormalize"),
}
ASKING = {
    "capture": (I, CaptureSpec(), {"top_k": 4}),
    "shard_rows": (P, 512, 16),
    "rows_in_flight": (P, None, 64),
    "part_rows": (P, 512, 16),
    "part_seconds": (P, 60, 5),
    "request_timeout_s": (P, 600, 5),
    "max_attempts": (P, 5, 7),
    "start_timeout_s": (P, 7200, 60),
    "max_cost_usd": (P, None, 5),
}
JUDGING = {
    "teacher": (I, GIVEN, PRICED | {"name": "other"}),
    "rubric": (P, GIVEN, "other.txt"),
    "references": (I, True, False),
    "max_tokens": (I, 1024, 64),
    "max_cost_usd": (P, None, 5),
    "max_failed_fraction": (P, 0.0, 0.1),
    "request_timeout_s": (P, 600, 5),
    "max_attempts": (P, 5, 7),
    "part_seconds": (P, 60, 5),
}
FIELDS = {
    FieldMap: {
        "id": (I, None, "key"),
        "prompt": (I, "prompt", "question"),
        "messages": (I, "messages", "turns"),
        "reference": (I, "reference", "answer"),
        "tools": (I, "tools", None),
        "labels": (I, {}, {"1": "neutral"}),
        "system": (I, None, "sys"),
    },
    PromptsSpec: {
        "train": (P, GIVEN, ["b.jsonl"]),
        "validation": (P, None, "v.jsonl"),
        "validation_fraction": (I, 0.05, 0.1),
        "fields": (I, FieldMap(), {"id": "key"}),
        "system": (I, None, "Be brief."),
        "turns": (I, "last", "each"),
        "on_conflict": (I, "error", "first"),
        "limit": (I, None, 10),
        "shard_rows": (P, 4096, 8),
        "template": (I, None, "{question}"),
        "split_by": (I, None, "document"),
        "decontaminate": (I, None, {"action": "flag"}),
        "near_duplicates": (I, None, 0.9),
        "workers": (P, None, 4),
    },
    PromptLeaksSpec: {
        "against": (P, [], ["bench.jsonl"]),
        "coverage": (I, 0.3, 0.5),
        "action": (I, "drop", "flag"),
    },
    EngineSpec: ENGINE,
    VllmTeacherSpec: ENGINE
    | ANY_TEACHER
    | {
        "kind": (I, "vllm", GIVEN),
        "revision": (I, None, "abc"),
        "trust_remote_code": (I, False, True),
        "reasoning_parser": (I, None, "deepseek_r1"),
        "tool_parser": (I, None, "hermes"),
    },
    OpenAITeacherSpec: API_TEACHER_FIELDS
    | {"kind": (I, "openai", GIVEN), "api_version": (P, None, "2025-01-01")},
    AnthropicTeacherSpec: API_TEACHER_FIELDS | {"kind": (I, "anthropic", GIVEN)},
    FakeTeacherSpec: ENGINE
    | ANY_TEACHER
    | {
        "kind": (I, "fake", GIVEN),
        "fake": (I, {}, {"fail": 1}),
        "concurrency": (P, 16, 2),
        "prices": (P, None, {"input": 1, "output": 2}),
    },
    PriceSpec: {
        "input": (P, GIVEN, 2),
        "output": (P, GIVEN, 3),
        "batch_discount": (P, 0.5, 0.25),
    },
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
        "packed_bits": (I, 8, GIVEN),
    },
    AskingSpec: ASKING,
    GenerateSpec: ASKING
    | {
        "teachers": (I, GIVEN, [{"name": "u", "model": "m"}]),
        "sampling": (I, SamplingSpec(), {"samples": 2}),
        "route": (I, "all", "split"),
        "route_by": (I, None, GIVEN),
        "limit": (P, None, 500),
        "max_failed_fraction": (P, 0.0, 0.5),
        "min_teacher_score": (P, None, 0.4),
    },
    CurateSpec: {
        "min_tokens": (I, 1, 0),
        "max_tokens": (I, None, 100),
        "keep_truncated": (I, False, True),
        "dedup": (I, "exact", "none"),
        "check_reference": (I, True, False),
        "verify": (I, VerifySpec(), {"qa": "exact"}),
        "languages": (I, None, ["en"]),
        "repetition": (I, None, 0.3),
        "refusals": (I, None, "flag"),
        "pii": (I, None, {}),
        "decontaminate": (I, None, {}),
        "majority": (I, None, {}),
        "difficulty": (I, None, {}),
        "judge": (I, None, JUDGE),
        "select": (I, None, {}),
        "near_duplicates": (I, None, {}),
        "balance": (I, None, {"by": "source", "most": 9}),
        "workers": (P, None, 4),
    },
    SelectSpec: {
        "per_prompt": (I, 1, 2),
        "by": (I, ["correct", "shorter"], ["shorter"]),
        "across": (I, None, "teachers"),
    },
    MajoritySpec: {"min_agreement": (I, 0.5, 0.6)},
    DifficultySpec: {"keep": (I, [0.1, 0.9], [0.2, 0.8])},
    NearDuplicatesSpec: {"of": (I, "example", "answer"), "jaccard": (I, 0.8, 0.9)},
    DecontaminateSpec: {"against": (P, [], ["bench.jsonl"]), "coverage": (I, 0.3, 0.5)},
    PiiSpec: {"kinds": (I, [], ["email"]), "action": (I, "drop", "flag")},
    BalanceSpec: {
        "by": (I, GIVEN, "label"),
        "most": (I, GIVEN, 5),
        "share": (I, None, 0.4),
    },
    CurateJudgeSpec: JUDGING
    | {
        "keep": (I, None, ">= 4"),
        "scale": (I, [1, 5], [1, 10]),
    },
    VerifySpec: {
        "math": (I, "rules+math_verify", "rules"),
        "timeout_s": (I, 2.0, 5.0),
        "qa": (I, None, "f1>=0.5"),
    },
    TrainSpec: {
        "student": (P, GIVEN, "/elsewhere"),
        "revision": (I, None, "abc"),
        "init": (I, "pretrained", "random"),
        "tokenizer": (P, None, "/elsewhere"),
        "loss": (I, SftLoss(), "forward_kl"),
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
        "teacher": (I, None, GIVEN),
        "hidden": (I, None, GIVEN),
        "attention_transfer": (I, None, GIVEN),
        "long_examples": (I, "drop", "split"),
        "schedule": (I, "cosine", "wsd"),
        "decay_ratio": (I, 0.2, GIVEN),
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
        "keep_adapter": (I, False, True),
    },
    LiveTeacherSpec: {"model": (P, GIVEN, "/elsewhere"), "revision": (I, None, "abc")},
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
    SftLoss: {"kind": (I, "sft", GIVEN), "learn_turns": (I, "last", "all")},
    ForwardKlLoss: DISTRIBUTION | {"kind": (I, "forward_kl", GIVEN)},
    ReverseKlLoss: DISTRIBUTION | {"kind": (I, "reverse_kl", GIVEN)},
    JsdLoss: DISTRIBUTION | {"kind": (I, "jsd", GIVEN), "beta": (I, 0.5, 0.9)},
    SkewForwardKlLoss: DISTRIBUTION
    | {"kind": (I, "skew_forward_kl", GIVEN), "skew": (I, 0.1, 0.2)},
    SkewReverseKlLoss: DISTRIBUTION
    | {"kind": (I, "skew_reverse_kl", GIVEN), "skew": (I, 0.1, 0.2)},
    AdaptiveKlLoss: DISTRIBUTION | {"kind": (I, "adaptive_kl", GIVEN), "head": (I, 0.5, 0.8)},
    TvdLoss: DISTRIBUTION | {"kind": (I, "tvd", GIVEN)},
    UldLoss: DISTRIBUTION | {"kind": (I, "uld", GIVEN)},
    EvaluateSpec: ENGINE
    | {
        "metrics": (I, "auto", ["accuracy"]),
        "baseline": (I, True, False),
        "max_tokens": (I, None, 64),
        "reasoning_parser": (I, None, "deepseek_r1"),
        "tool_parser": (I, None, "hermes"),
        "cluster_by": (I, None, "dialogue_id"),
        "lm_eval": (P, [], ["a.yaml"]),
        "bootstrap_samples": (I, 10_000, 2_000),
        "judge": (I, None, JUDGE),
    },
    JudgeSpec: JUDGING
    | {
        "against": (I, ["teacher", "baseline"], ["teacher"]),
        "scale": (I, None, [1, 5]),
    },
    ServeSpec: ENGINE
    | {
        "host": (P, "127.0.0.1", "::1"),
        "port": (P, 8000, 9000),
        "api_key_env": (P, None, "KEY"),
        "api_keys": (P, {}, {"ann": "KEY"}),
        "api_keys_file": (P, None, "keys.yaml"),
        "tls_cert": (P, None, GIVEN),
        "tls_key": (P, None, GIVEN),
        "insecure": (P, False, True),
        "open_health": (P, False, True),
        "cors_origins": (P, [], ["https://a.example"]),
        "fronts": (P, 1, 2),
        "routing": (P, "least_open", "prefix"),
        "target_open": (P, 16.0, 8),
        "upscale_delay_s": (P, 10.0, 0),
        "downscale_delay_s": (P, 300.0, 60),
        "drain_s": (P, 120.0, 0),
        "max_queued": (P, 512, 0),
        "max_queued_tokens": (P, None, 8192),
        "wait_s": (P, 60.0, 0),
        "header_timeout_s": (P, 20.0, 5),
        "max_body_mib": (P, 8.0, 0.5),
        "max_connections": (P, 4_000, 100),
        "adapters": (P, {}, {"polite": "/adapter"}),
        "server_args": (P, {}, {"tool_call_parser": "hermes"}),
        "start_timeout_s": (P, 900, 60),
    },
    LoadtestSpec: {
        "models": (I, ["student"], ["teacher", "student"]),
        "arrivals": (I, "poisson", "constant"),
        "burstiness": (I, 0.25, 0.5),
        "concurrency": (I, [], [2]),
        "rates": (I, [], [0.5]),
        "sessions": (I, None, {"users": [4]}),
        "trace": (I, None, {"path": "trace.csv", "speed": 2.0}),
        "slo": (I, GIVEN, {"e2e_ms": 900.0}),
        "search": (I, None, "rate"),
        "output_tokens": (I, None, {"kind": "lognormal", "mean": 40.0, "cv": 0.5}),
        "input_words": (I, None, {"mean": 100.0}),
        "body": (I, {}, {"ignore_eos": True}),
        "price_per_hour": (I, None, 3.5),
        "processes": (P, 1, 2),
        "seconds": (I, 30, 5),
        "warmup_seconds": (I, 5, 0),
        "max_tokens": (I, 128, 16),
        "temperature": (I, 0.0, 1),
        "timeout_s": (I, 120, 5),
    },
    SloSpec: {
        "ttft_ms": (I, GIVEN, 200.0),
        "tpot_ms": (I, None, 50.0),
        "e2e_ms": (I, None, 900.0),
        "percentile": (I, 99.0, 95),
    },
    DistributionSpec: {
        "kind": (I, "fixed", "normal"),
        "mean": (I, 1.0, 2),
        "cv": (I, 0.0, 0.5),
        "low": (I, None, 1),
        "high": (I, None, 9),
    },
    SessionsSpec: {
        "users": (I, GIVEN, [2, 4]),
        "turns": (I, DistributionSpec(mean=4.0), {"mean": 2.0}),
        "think_s": (I, DistributionSpec(kind="exponential", mean=2.0), {"mean": 0.5}),
    },
    TraceSpec: {"path": (P, GIVEN, "other.csv"), "speed": (I, 1.0, 2)},
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
        "loadtest": (I, LoadtestSpec(), {"models": []}),
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
    } - {Block, AnyLoss, ApiTeacher, AskedJudgeSpec, DistributionLoss}  # never given themselves
    assert {block: set(block.model_fields) for block in blocks} == {
        block: set(fields) for block, fields in FIELDS.items()
    }


@pytest.mark.parametrize(("block", "name", "role", "default", "other"), CASES)
def test_field_has_its_role_its_default_and_a_description(block, name, role, default, other):
    field = block.model_fields[name]
    assert field.json_schema_extra == {"role": role}
    assert len(field_texts(block)[name]) > 5
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
        {"teacher": {"model": "t", "revision": "abc"}},
        {"hidden": PAIRS},
        {"hidden": PAIRS | {"loss": "cosine"}},
        {"attention_transfer": PAIRS},
    ],
)
def test_what_goes_with_another_field_is_identity_too(more):
    base = BASE[TrainSpec] | {"loss": "forward_kl", "teacher": {"model": "t"}}
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


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ({}, [1, 4, 16]),
        ({"seconds": 2}, [1, 4, 16]),
        ({"concurrency": [2]}, [2]),
        ({"rates": [1.0]}, []),
        ({"sessions": {"users": [3]}}, []),
        ({"trace": {"path": "a.csv"}}, []),
        ({"slo": {"ttft_ms": 1.0}, "search": "rate"}, []),
    ],
)
def test_a_load_test_has_levels_of_its_own_unless_a_load_is_given(given, levels):
    assert LoadtestSpec(**given).closed_levels == levels


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
    VllmTeacherSpec: [
        {"name": "a/b"},
        {"name": "x" * 65},
        {"kind": "hf"},
        {"tensor_parallel": 0},
        {"replicas": 0},
        {"replicas": "2"},
        {"replicas": [3, 2]},
        {"replicas": [0, 2]},
        {"gpu_memory_utilization": 1.1},
        {"max_model_len": 8},
        {"api_key_env": "KEY"},
        {"concurrency": 4},
    ],
    OpenAITeacherSpec: [
        {"replicas": 2},
        {"base_url": "https://me:word@host/v1"},
        {"api_key_env": "sk-123"},
        {"api_key_env": None},
        {"batch_rows": 100},
        {"batch": True, "batch_rows": 100_001},
        {"batch": True, "requests_per_minute": 60},
    ],
    AnthropicTeacherSpec: [{"api_version": "2025-01-01"}],
    FakeTeacherSpec: [{"prices": {"input": 1, "output": 2}, "replicas": 2}],
    SftLoss: [{"sft_weight": 0.5}, {"temperature": 2}],
    JsdLoss: [{"beta": 1}, {"skew": 0.2}, {"temperature": 0}],
    SkewForwardKlLoss: [{"skew": 0}, {"beta": 0.5}],
    TvdLoss: [{"learn_turns": "all"}],
    SamplingSpec: [
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"max_tokens": 0},
        {"samples": 0},
        {"reproducible": 1},
    ],
    CaptureSpec: [{"top_k": -1}, {"top_k": 1025}, {"dtype": "bfloat16"}, {"packed_bits": 5}],
    GenerateSpec: [
        {"teachers": []},
        {"teachers": [TEACHER, TEACHER]},
        {"max_failed_fraction": 1.1},
        {"limit": 0},
        {"min_teacher_score": 20},
        {"part_seconds": 0},
        {"max_cost_usd": 5, "teachers": [API_TEACHER]},
        {"route": "by"},
        {"teachers": [TEACHER | {"weight": 2}]},
        {"teachers": [TEACHER | {"routes": ["qa"]}]},
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
        {"temperature": 2},
        {"precision": "fp16"},
        {"lerning_rate": 1},
        {"offload": "cpu", "zero_stage": 0},
        {"offload": "nvme", "zero_stage": 3},
        {"offload": "nvme", "nvme_path": "/n"},
        {"elastic": [2]},
        {"elastic": [3, 2]},
        {"global_batch": 6, "workers": 4},
        {"loss": {"kind": "jsd", "skew": 0.2}},
        {"loss": {}},
        {"schedule": "cosine", "decay_ratio": 0.5},
        {"schedule": "constant", "min_learning_rate_ratio": 0.5},
        {"loss": {"kind": "jsd", "tail": "drop"}, "teacher": {"model": "t"}},
        {"loss": "uld", "teacher": {"model": "t"}},
        {"teacher": {"model": "t"}},
        {"offload": "nvme", "nvme_path": "/n", "zero_stage": 3, "elastic": [1, 2]},
        {"offload": "nvme", "nvme_path": "/n", "zero_stage": 3, "export": "best"},
        {"hidden": PAIRS},
        {"attention_transfer": PAIRS},
        {"teacher": {"model": "t"}, "attention_transfer": PAIRS, "attention": "sdpa"},
        {"loss": "reverse_kl", "lora": {"targets": ["q_proj", "lm_head"]}},
    ],
    EvaluateSpec: [{"metrics": "bleu"}, {"bootstrap_samples": 10}],
    JudgeSpec: [
        {"scale": [5, 1]},
        {"scale": [1]},
        {"against": []},
        {"against": ["student"]},
        {"max_tokens": 0},
        {"max_failed_fraction": 2},
        {"teacher": TEACHER, "max_cost_usd": 5},
        {"teacher": PRICED | {"sampling": {}}},
        {"teacher": PRICED | {"weight": 2}},
        {"teacher": PRICED | {"routes": ["qa"]}},
    ],
    ServeSpec: [
        {"port": 70000},
        {"port": 0},
        {"api_key_env": "a key"},
        {"api_keys": {"an n": "KEY"}},
        {"api_keys": {"ann": "sk-key"}},
        {"replicas": 0},
        {"replicas": [0, 0]},
        {"replicas": [2, 1]},
        {"replicas": [1, 2, 3]},
        {"routing": "random"},
        {"fronts": 0},
        {"target_open": 0},
        {"header_timeout_s": 0},
    ],
    LoadtestSpec: [
        {"concurrency": [0]},
        {"concurrency": [2, 2]},
        {"rates": [-1.0]},
        {"sessions": {"users": [0]}},
        {"sessions": {"users": []}},
        {"slo": {}},
        {"slo": {"ttft_ms": 0}},
        {"search": "rate", "slo": None},
        {"arrivals": "bursts"},
        {"models": ["gpt"]},
        {"seconds": 0},
    ],
    ReportSpec: [{"html": "yes"}],
    FieldMap: [{"labels": {"0": "maybe"}}],
    VerifySpec: [
        {"math": "sympy"},
        {"timeout_s": 0},
        {"qa": "includes"},
        {"qa": "f1>=2"},
        {"qa": "f1>=x"},
    ],
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
        (
            {"prompts": {"train": "a.jsonl", "fields": {"labels": {0: "entailment"}}}},
            r"prompts\.fields\.labels names labels, which task math has none of",
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


TLS = {"tls_cert": "/tls/tls.crt", "tls_key": "/tls/tls.key"}
OPEN = {"host": "0.0.0.0"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (OPEN, "not loopback: serve.api_key_env must name"),
        (OPEN | {"host": "::"}, "not loopback"),
        (OPEN | {"insecure": True}, "not loopback: serve.api_key_env must name"),
        (OPEN | TLS, "not loopback: serve.api_key_env must name"),
        (OPEN | {"api_key_env": "KEY"}, "reads the key: give .* or, .*--insecure"),
        (OPEN | {"api_keys": {"ann": "KEY"}}, "without TLS"),
        (OPEN | {"api_keys_file": "keys.yaml"}, "without TLS"),
        ({"tls_cert": "/tls/tls.crt"}, "go together; give both"),
        ({"tls_key": "/tls/tls.key"}, "go together; give both"),
    ],
)
def test_an_endpoint_is_closed_to_others_or_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        ServeSpec(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "localhost"},
        {"host": "::1"} | TLS,
        OPEN | TLS | {"api_key_env": "KEY"},
        OPEN | TLS | {"api_keys_file": "keys.yaml"},
        OPEN | {"insecure": True, "api_keys": {"ann": "KEY"}},
    ],
)
def test_loopback_needs_no_key_and_elsewhere_one_over_tls_or_said_to_be_insecure(fields):
    assert ServeSpec(**fields).has_keys == ("host" in fields and fields["host"] == "0.0.0.0")


def test_only_what_is_served_may_have_no_replica():
    assert ServeSpec(replicas=[0, 2]).replica_range == (0, 2)
    with pytest.raises(ValidationError, match="a number from 1, or"):
        VllmTeacherSpec(**TEACHER, replicas=[0, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": []}, "nothing would be judged; name teacher or"),
        ({"scale": [5, 5]}, r"scale=\[5, 5\]; give \[worst, best\], such as"),
        ({"teacher": TEACHER, "max_cost_usd": 5}, "max_cost_usd=5, but t has no prices; give them"),
        ({"teacher": PRICED | {"weight": 2}}, "teacher.weight is not read: a judge is asked"),
    ],
)
def test_a_judge_that_cannot_be_as_written_is_refused_with_the_way_out(changes, message):
    with pytest.raises(ValidationError, match=message):
        JudgeSpec.model_validate(JUDGE | changes)


def test_a_judge_without_kind_is_vllms_and_replies_greedily():
    judge = JudgeSpec.model_validate({"teacher": TEACHER, "rubric": "r.txt", "max_tokens": 40})
    assert (judge.teacher.kind, judge.prices) == ("vllm", None)
    assert (judge.sampling().temperature, judge.sampling().max_tokens) == (0, 40)


def test_the_key_of_a_judge_is_named_with_its_field():
    job = JobSpec(**BASE[JobSpec] | {"evaluate": {"judge": JUDGE}})
    assert job.key_variables() == {"evaluate.judge.teacher.api_key_env": "KEY"}


def test_each_variable_of_a_key_is_named_with_its_field():
    spec = ServeSpec(api_key_env="ONE", api_keys={"ann": "TWO"})
    assert spec.key_variables() == {"serve.api_key_env": "ONE", "serve.api_keys.ann": "TWO"}


@pytest.mark.parametrize(
    ("one", "other"),
    [({"top_k": 20}, {"top_k": 20.0}), ({"a": [1e3]}, {"a": [1000]}), ({"x": 0.0}, {"x": -0.0})],
)
def test_a_number_in_a_free_map_is_one_however_it_is_written(one, other):
    def identity(body):
        return json.dumps(OpenAITeacherSpec(**KEYED, extra_body=body).identity_fields())

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
    assert OpenAITeacherSpec(**API, extra_body=body).most_tokens(64) == most


@pytest.mark.parametrize(
    "body", [{"max_completion_tokens": None}, {"n": "5"}, {"max_tokens": 0.5}, {"n": True}]
)
def test_a_body_whose_cost_cannot_be_bounded_is_refused(body):
    with pytest.raises(ValidationError, match=r"extra_body"):
        OpenAITeacherSpec(**API, extra_body=body)


PROBES = [
    (
        {"kind": "openai", "api_key_env": "K", "tensor_parallel": 8},
        {},
        "kind vllm, not of kind openai",
    ),
    ({"kind": "openai", "api_key_env": "K", "engine_args": {"a": 1}}, {}, "kind vllm, not of"),
    ({"kind": "openai", "api_key_env": "K", "reasoning_parser": "r"}, {}, "kind vllm, not of"),
    ({"kind": "openai", "api_key_env": "K", "replicas": 2}, {}, "kind vllm, not of kind openai"),
    ({"kind": "anthropic", "api_key_env": "K", "quantization": "fp8"}, {}, "not of kind anthropic"),
    ({"kind": "anthropic", "api_key_env": "K", "api_version": "1"}, {}, "kind openai, not of"),
    ({"api_key_env": "K"}, {}, "kind openai or anthropic, not of kind vllm"),
    ({"kind": "vllm", "base_url": "http://h"}, {}, "kind openai or anthropic, not of kind vllm"),
    ({}, {"loss": "sft", "skew": 0.9}, r"train\.skew: is a field of loss, kind skew_forward_kl or"),
    (
        {},
        {"loss": "sft", "temperature": 4},
        r"train\.temperature: is a field of loss, kind forward",
    ),
    (
        {},
        {"loss": {"kind": "sft", "tail": "drop"}},
        r"train\.loss\.tail: is a field of kind forward",
    ),
    ({}, {"loss": {"kind": "jsd", "skew": 0.9}}, "kind skew_forward_kl or skew_reverse_kl, not of"),
    ({}, {"loss": "jsd", "jsd_beta": 0.4}, r"write loss: \{kind: jsd, beta: \.\.\.\}"),
    ({}, {"loss": "tvd", "sft_weight": 0.4}, r"write loss: \{kind: tvd, sft_weight: \.\.\.\}"),
    ({}, {"loss": {"kind": "jsd", "betta": 0.4}}, "unknown field; did you mean beta"),
    (
        {"kind": "openai", "api_key_env": "K", "tensor_paralel": 2},
        {},
        "did you mean tensor_parallel, a field of kind vllm",
    ),
    ({"kind": "opena"}, {}, "did you mean openai"),
    ({}, {"loss": "jsdd"}, "did you mean jsd"),
]


@pytest.mark.parametrize(("teacher", "train", "said"), PROBES)
def test_a_field_of_another_kind_is_refused_with_the_kind_that_it_belongs_to(
    teacher, train, said, tmp_path
):
    job = BASE[JobSpec] | {
        "generate": {"teachers": [TEACHER | teacher]},
        "train": {"student": "s"} | train,
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
    with pytest.raises(SpecError, match=said):
        load_job(tmp_path / "job.yaml")


def test_nothing_of_other_losses_is_in_the_identity_of_sft():
    assert TrainSpec(student="s", loss="sft").identity_fields()["loss"] == {
        "kind": "sft",
        "learn_turns": "last",
    }
    assert TrainSpec(student="s", loss="jsd") == TrainSpec(student="s", loss={"kind": "jsd"})


def test_an_endpoint_inside_a_stage_is_on_loopback_with_the_keys_and_another_engine():
    served = ServeSpec(
        **OPEN | {"host": "::", "api_key_env": "K", "insecure": True},
        port=9001,
        dtype="bfloat16",
        server_args={"chat_template": "x"},
        adapters={"a": "folder"},
    )
    inside = served.inside(EvaluateSpec(dtype="float32", replicas=2, max_model_len=99))
    assert (inside.host, inside.port, inside.api_key_env) == ("127.0.0.1", 9001, "K")
    assert (inside.dtype, inside.replicas, inside.max_model_len) == ("float32", 2, 99)
    assert (inside.server_args, inside.adapters, inside.insecure) == ({}, {}, False)
    assert ServeSpec.model_validate(inside.model_dump()) == inside
