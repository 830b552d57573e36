"""Fast kernels against torch's and transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config

from engine.stages.train.cpu_kernels import PER_EXAMPLE, linear, use_onednn

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
ENDS = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
KINDS = [
    (LlamaConfig, {}), (Qwen2Config, {}), (Qwen3Config, {"head_dim": 8}), (Phi3Config, {}), (Phi3Config, {"sliding_window": 5}),
    (Gemma2Config, {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": None}),
]


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("leading", [(7,), (2, 5), (1, 1)])
def test_linear_is_torchs_linear_in_value_and_gradients(leading: tuple[int, ...], biased: bool) -> None:
    results = []
    for function in (linear, F.linear):
        hidden, weight, bias = tensors((*leading, 24), (16, 24), (16,))
        out = function(hidden, weight, bias if biased else None)
        out.square().sum().backward()
        results.append([out.detach(), hidden.grad, weight.grad, *([bias.grad] if biased else [])])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_linear_leaves_other_types_and_empty_inputs_to_torch() -> None:
    hidden, weight = tensors((3, 8), (4, 8), dtype=torch.float64)
    assert torch.equal(linear(hidden, weight), F.linear(hidden, weight))
    hidden, weight = tensors((0, 8), (4, 8))
    assert linear(hidden, weight).shape == (0, 4)


def test_only_fp32_linear_layers_change() -> None:
    layers = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4).bfloat16(), nn.LayerNorm(8)])
    use_onednn(layers)
    assert [("forward" in vars(layer)) for layer in layers] == [True, False, False]
    frozen = layers[0].requires_grad_(False)
    out = frozen(tensors((3, 8))[0])
    out.sum().backward()
    assert frozen.weight.grad is None


@pytest.mark.parametrize(("kind", "more"), KINDS, ids=lambda value: getattr(value, "model_type", str(value)))
def test_attention_by_example_is_attention_under_the_packed_mask(kind: Any, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**SHAPE, **ENDS, **more), attn_implementation="sdpa").eval()
    ids = torch.randint(3, 50, (2, 18))
    positions = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in ((11, 4, 3), (18,))])
    results = []
    for name in ("sdpa", PER_EXAMPLE):
        model.set_attn_implementation(name)
        model.zero_grad()
        out = model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        out.square().sum().backward()
        results.append([out.detach(), torch.cat([p.grad.flatten() for p in model.base_model.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
