"""Attention of packed rows against transformers' own under a mask, and which one a student gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import varlen
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from engine.job.spec import TrainSpec
from engine.training import attention
from engine.training.attention import PER_EXAMPLE, VARLEN, attention_of

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ENDS = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
KINDS = [
    (LlamaConfig, {}),
    (Qwen2Config, {}),
    (Qwen3Config, {"head_dim": 8}),
    (Phi3Config, {}),
    (Phi3Config, {"sliding_window": 5}),
    (Gemma2Config, {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": None}),
]


def varlen_as_documented(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch's varlen_attn, which runs on GPUs only, by one mask over all tokens."""
    assert cu_seq_q.dtype == torch.int32
    assert int(cu_seq_q.diff().max()) <= max_q == max_k
    assert torch.equal(cu_seq_q, cu_seq_k)
    at = torch.arange(len(query))
    example = torch.bucketize(at, cu_seq_q.long(), right=True)
    back = at[:, None] - at[None, :]
    left, right = window_size
    seen = (
        (example[:, None] == example[None, :])
        & (back >= -right)
        & ((back <= left) if left >= 0 else True)
    )
    return (
        F.scaled_dot_product_attention(
            *(side.transpose(0, 1).unsqueeze(0) for side in (query, key, value)),
            attn_mask=seen,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        .squeeze(0)
        .transpose(0, 1)
    )


@pytest.mark.parametrize("name", [PER_EXAMPLE, VARLEN])
@pytest.mark.parametrize(
    ("kind", "more"), KINDS, ids=lambda value: getattr(value, "model_type", str(value))
)
def test_packed_attention_is_attention_under_the_packed_mask(
    name: str, kind: Any, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_as_documented)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        kind(**SHAPE, **ENDS, **more), attn_implementation="sdpa"
    ).eval()
    ids = torch.randint(3, 50, (2, 18))
    positions = torch.stack(
        [torch.cat([torch.arange(n) for n in lengths]) for lengths in ((11, 4, 3), (18,))]
    )
    results = []
    for implementation in ("sdpa", name):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        out = model.base_model(
            input_ids=ids, position_ids=positions, use_cache=False
        ).last_hidden_state
        out.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.base_model.parameters()])
        # of the largest, for other processors round a sum of them otherwise
        results.append([out.detach(), gradient / gradient.abs().max()])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cap", "device", "expected"),
    [(50.0, "cpu", "eager"), (None, "cpu", PER_EXAMPLE), (50.0, "gpu", "eager")],
)
def test_a_student_that_caps_its_attention_keeps_the_cap(
    cap: float | None, device: str, expected: str
) -> None:
    assert (
        attention_of(TrainSpec(student="x"), device, Gemma2Config(attn_logit_softcapping=cap))
        == expected
    )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_student_with_attention_sinks_keeps_them(device: str) -> None:
    assert attention_of(TrainSpec(student="x"), device, GptOssConfig()) == PER_EXAMPLE


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_sinks_take_their_probability_within_an_example(kind: str) -> None:
    """Each example of a packed row is what transformers' eager attention makes of it alone, and so
    are the gradients, those of the sinks among them."""
    torch.manual_seed(0)
    shape = GptOssConfig(
        **SHAPE | ENDS,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=5,
        layer_types=[kind] * SHAPE["num_hidden_layers"],
        initializer_range=0.5,
    )
    model = AutoModelForCausalLM.from_config(shape, attn_implementation="eager")
    ids = torch.randint(3, 50, (1, 20))
    lengths = (11, 9)
    alone = [model.base_model(input_ids=part, use_cache=False)[0] for part in ids.split(lengths, 1)]
    expected = torch.cat(alone, 1)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_attn_implementation(PER_EXAMPLE)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    packed = model.base_model(input_ids=ids, position_ids=positions, use_cache=False)[0]
    packed.square().sum().backward()
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)
    assert any(name.endswith("sinks") for name in gradients)
    for name, gradient in gradients.items():
        found = model.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("precision", "more", "capability", "expected"),
    [
        ("bf16", {}, (9, 0), VARLEN),
        ("bf16", {}, (7, 5), "sdpa"),
        ("fp32", {}, (9, 0), "sdpa"),
        ("bf16", {"attention_dropout": 0.1}, (9, 0), "sdpa"),
    ],
)
def test_a_gpu_without_the_flash_attention_package_takes_torchs(
    precision: str,
    more: dict[str, Any],
    capability: tuple[int, int],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: False)
    spec = TrainSpec(student="x", precision=precision)
    assert attention_of(spec, "gpu", LlamaConfig(**SHAPE, **ENDS, **more)) == expected
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    assert attention_of(spec, "gpu", LlamaConfig(**SHAPE, **ENDS, **more)) == "flash_attention_2"
