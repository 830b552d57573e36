"""Fast kernels against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.training.cpu_kernels import linear, use_onednn


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("leading", [(7,), (2, 5), (1, 1)])
def test_linear_is_torchs_linear_in_value_and_gradients(
    leading: tuple[int, ...], biased: bool
) -> None:
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
