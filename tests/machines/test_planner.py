import json

import pytest

from engine.job.spec import CaptureSpec, JobSpec, LoraSpec, TrainSpec
from engine.machines.architectures import facts
from engine.machines.planner import (
    adapters_b,
    plan_devices,
    signal_bytes_per_token,
    state_gb,
    teacher_gb,
)

LLAMA_8B, PHI_4 = facts("meta-llama/Llama-3.1-8B-Instruct"), facts("microsoft/Phi-4-mini-instruct")


@pytest.mark.parametrize(
    ("model", "tensor_parallel", "expected"),
    [
        ("deepseek-ai/DeepSeek-V3", 1, 70_272),
        ("deepseek-ai/DeepSeek-V3", 8, 70_272),  # the latent is whole on every device
        ("meta-llama/Llama-3.1-405B-Instruct", 1, 516_096),
        ("meta-llama/Llama-3.1-405B-Instruct", 8, 64_512),
        ("meta-llama/Llama-3.1-405B-Instruct", 16, 64_512),  # 8 KV heads: copied beyond 8 devices
        ("microsoft/Phi-4-mini-instruct", 1, 131_072),
        ("microsoft/Phi-3.5-mini-instruct", 1, 393_216),
        ("microsoft/Phi-3-mini-4k-instruct", 1, 393_216),
        ("microsoft/Phi-3-mini-128k-instruct", 1, 393_216),
        ("meta-llama/Meta-Llama-3.1-8B", 1, 131_072),
    ],
)
def test_kv_cache_per_token_matches_the_published_table(model, tensor_parallel, expected):
    assert facts(model).kv_bytes_per_token(tensor_parallel) == expected


@pytest.mark.parametrize(
    ("workers", "zero_stage", "bytes_per_parameter"),
    [
        (1, 0, 20),
        (8, 0, 20),
        (8, 1, 4 + 16 / 8),
        (1, 2, 20),
        (8, 2, 2 + 18 / 8),
    ],
)
def test_model_state_follows_the_zero_stage(workers, zero_stage, bytes_per_parameter):
    spec = TrainSpec(student="s", workers=workers, zero_stage=zero_stage)
    assert state_gb(spec, LLAMA_8B) == pytest.approx(8.03 * bytes_per_parameter)


def test_zero_3_adds_the_largest_tensor_and_the_reduce_bucket_to_its_share():
    largest_gb = 4 * 128_256 * 4096 / 1e9 + 2 * 0.5  # DeepSpeed's bucket of 5e8 elements
    assert state_gb(TrainSpec(student="s", workers=8, zero_stage=3), LLAMA_8B) == pytest.approx(
        18.07 + largest_gb, abs=0.01
    )
    assert state_gb(
        TrainSpec(student="s", workers=8, zero_stage=3, offload="cpu"), LLAMA_8B
    ) == pytest.approx(largest_gb)


def test_published_example_of_a_small_student_on_eight_gpus():
    assert state_gb(TrainSpec(student="s", workers=8, zero_stage=2), PHI_4) == pytest.approx(
        16.3, abs=0.1
    )


def test_offloading_leaves_the_weights_on_the_device():
    spec = TrainSpec(student="s", workers=8, zero_stage=2, offload="cpu")
    assert state_gb(spec, LLAMA_8B) == pytest.approx(
        16.06 + 2 * 128_256 * 4096 / 1e9
    )  # and one gradient on its way


def test_full_precision_doubles_weights_and_gradients_only():
    assert state_gb(
        TrainSpec(student="s", zero_stage=2, precision="fp32"), LLAMA_8B
    ) == pytest.approx(8.03 * 24)


def test_adapters_of_every_linear_layer_have_the_published_number_of_parameters():
    # Llama-3.1-8B, rank 16: per layer q, o 8192 each, k, v 5120 each, gate, up, down 18432 each (in
    # + out), times 16 x 32 layers
    assert (
        adapters_b(LoraSpec(rank=16), LLAMA_8B) * 1e9
        == 16 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
        == 41_943_040
    )
    assert adapters_b(
        LoraSpec(rank=8, targets=["q_proj", "v_proj"]), LLAMA_8B
    ) * 1e9 == pytest.approx(8 * 32 * (8192 + 5120))
    # Phi-4-mini's fused projections: 3072 in, 24 heads and twice 8 KV heads of 128 out
    assert adapters_b(LoraSpec(rank=1, targets=["qkv_proj"]), PHI_4) * 1e9 == pytest.approx(
        32 * (3072 + 3072 + 2 * 1024)
    )


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (
            {"zero_stage": 2},
            16.06 + 0.041943 * 20,
        ),  # one worker: gradients and optimizer of the adapters alone, weights frozen
        ({"zero_stage": 2, "workers": 8}, 16.06 + 0.041943 * (2 + 18 / 8)),
        (
            {"zero_stage": 3, "workers": 8},
            16.06 / 8 + 0.041943 * 18 / 8 + 4 * 128_256 * 4096 / 1e9 + 2 * 0.041943,
        ),
        ({"lora": {"quantize": "nf4"}}, 2 * 1.050673 + 0.5 * (8.03 - 1.050673) + 0.041943 * 20),
    ],
)
def test_adapters_leave_the_weights_frozen(train, expected):
    assert state_gb(TrainSpec(student="s", **{"lora": {}} | train), LLAMA_8B) == pytest.approx(
        expected, rel=1e-4
    )


def test_a_live_teacher_is_a_copy_per_worker_and_a_share_at_stage_3():
    spec = {
        "student": "s",
        "loss": "forward_kl",
        "workers": 8,
        "teacher": {"model": "meta-llama/Llama-3.1-8B-Instruct"},
    }
    assert teacher_gb(TrainSpec(**spec), LLAMA_8B) == pytest.approx(16.06)
    assert teacher_gb(TrainSpec(**spec, zero_stage=3), LLAMA_8B) == pytest.approx(16.06 / 8)
    assert teacher_gb(TrainSpec(**spec, precision="fp32"), LLAMA_8B) == pytest.approx(32.12)


def test_nvme_leaves_the_largest_tensor_and_the_bucket_on_the_device():
    spec = TrainSpec(student="s", workers=8, zero_stage=3, offload="nvme", nvme_path="/nvme")
    assert state_gb(spec, LLAMA_8B) == pytest.approx(4 * 128_256 * 4096 / 1e9 + 2 * 0.5)


def test_the_training_line_tells_adapters_the_live_teacher_the_logits_and_long_rope():
    train = {
        "student": "microsoft/Phi-3.5-mini-instruct",
        "loss": "forward_kl",
        "elastic": [2, 8],
        "zero_stage": 3,
        "lora": {"rank": 8},
        "teacher": {"model": "org/unknown"},
        "block_tokens": 4096,
        "offload": "cpu",
    }
    need = plan_devices(a_job(train=train)).needs[1]
    assert need.devices == 2
    assert need.notes[0] == "2 to 8 workers, ZeRO 3, LoRA of rank 8, offload to cpu"
    assert need.notes[2:] == (
        "live teacher org/unknown of unknown size",
        "logits 33.6 MB at a time in place of 1.1 GB",  # 32 MiB; 2 x 4096 x 32064 x 4 bytes
        "trained with its short rope factors; vLLM uses the short ones up to max_model_len 4,096"
        " only",
    )
    longer = plan_devices(a_job(train=train | {"block_tokens": 8192})).needs[1]
    assert longer.notes[-1].startswith("trained with its long rope factors")


def test_signal_costs_six_bytes_per_entry_in_half_precision():
    assert signal_bytes_per_token(CaptureSpec(top_k=20)) == 20 * 6 + 8
    assert signal_bytes_per_token(CaptureSpec(top_k=20, dtype="float32")) == 20 * 8 + 8
    assert signal_bytes_per_token(CaptureSpec(top_k=50, codec="packed"), 129_280) == 137 + 4


def a_job(**changes):
    teacher = {
        "name": "v3",
        "model": "deepseek-ai/DeepSeek-V3",
        "tensor_parallel": 8,
        "replicas": 4,
    }
    return JobSpec(
        **{
            "name": "j",
            "task": "math",
            "prompts": {"train": "a.jsonl"},
            "generate": {"teachers": [teacher]},
            "train": {"student": "microsoft/Phi-4-mini-instruct", "workers": 8},
            "loadtest": {"models": ["student", "teacher"], "rates": [1]},
        }
        | changes
    )


GPT_4 = {
    "name": "gpt",
    "kind": "openai",
    "model": "gpt-4",
    "api_key_env": "KEY",
    "prices": {"input": 30.0, "output": 60.0},
}


def test_devices_per_stage_and_the_widest_stage():
    found = plan_devices(
        a_job(serve={"replicas": 2}, evaluate={"replicas": 3, "tensor_parallel": 2})
    )
    wanted = [("generate", 32), ("train", 8), ("evaluate", 6), ("loadtest", 2 * (1 + 8))]
    assert [(need.stage, need.devices) for need in found.needs] == wanted
    assert found.devices == 32


def test_an_api_teacher_wants_no_device_and_no_load_test_no_line():
    found = plan_devices(a_job(generate={"teachers": [GPT_4]}, loadtest={"models": []}))
    assert [(need.stage, need.devices) for need in found.needs] == [
        ("generate", 0),
        ("train", 8),
        ("evaluate", 1),
    ]
    assert found.lines()[0].endswith(
        "gpt: openai, gpt-4, at most 16 requests at a time; $30 in and $60 out per million tokens"
    )


def test_an_api_teacher_in_batches_is_planned_at_their_price_and_their_hours():
    batched = GPT_4 | {"batch": True}
    found = plan_devices(a_job(generate={"teachers": [batched]}, loadtest={"models": []}))
    assert found.lines()[0].endswith(
        "gpt: openai, gpt-4, in batches, each within 24 hours; $15 in and $30 out per million"
        " tokens"
    )


def test_a_judge_has_a_line_with_its_price_or_its_devices():
    local = {"name": "v3", "model": "deepseek-ai/DeepSeek-V3", "tensor_parallel": 8}
    lines = []
    for teacher in (GPT_4, local):
        judge = {"judge": {"teacher": teacher, "rubric": "r.txt"}}
        need = plan_devices(a_job(evaluate=judge)).needs[3]
        lines.append((need.stage, need.devices, need.notes[0]))
    assert lines == [
        (
            "evaluate",
            0,
            "judge gpt: openai, gpt-4, at most 16 requests at a time; $30 in and $60 out per"
            " million tokens",
        ),
        ("evaluate", 8, "judge v3: 1 x tensor_parallel 8"),
    ]


def test_the_printed_plan_has_weights_and_cache_per_device():
    assert plan_devices(a_job()).lines()[0] == (
        "generate    32 GPU  v3: 4 x tensor_parallel 8; weights 83.9 GB per device; KV cache 70,272"
        " bytes per token and device"
    )


def test_pipeline_stages_divide_weights_and_cache_and_ranges_plan_the_fewest():
    teacher = {
        "name": "v3",
        "model": "deepseek-ai/DeepSeek-V3",
        "tensor_parallel": 8,
        "pipeline_parallel": 2,
        "replicas": [2, 6],
        "accelerator_type": "H100",
    }
    found = plan_devices(a_job(generate={"teachers": [teacher]})).needs[0]
    assert found.devices == 32
    assert found.notes[0] == "v3: 2 to 6 x tensor_parallel 8 x pipeline_parallel 2 on H100"
    assert found.notes[1:] == (
        "weights 41.9 GB per device",
        "KV cache 35,136 bytes per token and device",
    )


def test_data_parallel_ranks_share_the_experts_and_repeat_the_rest():
    shape = facts("deepseek-ai/DeepSeek-V3")
    assert shape.weights_gb_per_device(1, data_parallel=8) == pytest.approx(671 - 653.9 + 653.9 / 8)
    assert LLAMA_8B.weights_gb_per_device(1, data_parallel=8) == pytest.approx(8.03 * 2)


def test_a_served_teacher_brings_all_its_devices():
    teacher = {
        "name": "v3",
        "model": "deepseek-ai/DeepSeek-V3",
        "tensor_parallel": 8,
        "pipeline_parallel": 2,
        "replicas": 4,
    }
    served = plan_devices(a_job(generate={"teachers": [teacher]}, serve={"replicas": 2})).needs[-1]
    assert served.devices == 2 * (1 + 16)
    assert served.notes == (
        "student 2 x tensor_parallel 1 + teacher 2 x tensor_parallel 8 x pipeline_parallel 2",
    )


def test_unknown_hub_models_are_said_to_be_unknown():
    assert "unknown" in plan_devices(a_job(train={"student": "org/new"})).lines()[1]


def test_a_local_folder_speaks_for_itself(tmp_path):
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "intermediate_size": 128,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
        "torch_dtype": "float32",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = facts(str(tmp_path))
    assert (shape.head_dim, shape.kv_heads, shape.max_context, shape.kv_bytes_per_token()) == (
        16,
        2,
        1024,
        2 * 2 * 2 * 16 * 2,
    )
    assert shape.params_b * 1e9 == pytest.approx(
        100 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    )
    (tmp_path / "model.safetensors").write_bytes(b"0" * 4000)
    assert facts(str(tmp_path)).params_b * 1e9 == pytest.approx(1000)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (
            {
                "rope_parameters": {"rope_type": "longrope"},
                "original_max_position_embeddings": 4096,
            },
            4096,
        ),
        ({"rope_scaling": {"type": "su", "original_max_position_embeddings": 2048}}, 2048),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "original_max_position_embeddings": 4096,
            },
            0,
        ),
        ({}, 0),
    ],
)
def test_a_long_rope_folder_tells_its_short_context(tmp_path, rope, expected):
    shape = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 1,
        "vocab_size": 9,
        "max_position_embeddings": 16384,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape | rope))
    assert facts(str(tmp_path)).short_context == expected


def test_a_stretched_rope_extends_the_context(tmp_path):
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "vocab_size": 9}
    context = {"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    (tmp_path / "config.json").write_text(json.dumps(shape | context))
    assert facts(str(tmp_path)).max_context == 16384
