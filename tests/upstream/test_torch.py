"""Inside torch: what engine/training/cpu_kernels.py, head.py, attention.py and
engine/backends/vllm_settings.py lean on beyond its documentation."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from upstream.source_text import text


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("has_bias", [True, False])
def test_onednn_has_a_linear_layer_that_can_be_called(has_bias):
    takes = [
        argument.name for argument in torch.ops.mkldnn._linear_pointwise.default._schema.arguments
    ]
    assert takes == ["X", "W", "B", "attr", "scalars", "algorithm"]
    hidden = torch.randn(3, 8)
    weight = torch.randn(4, 8)
    bias = torch.randn(4) if has_bias else None
    fast = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    torch.testing.assert_close(fast, F.linear(hidden, weight, bias))


def test_a_module_calls_the_forward_that_was_put_on_it_and_runs_its_hooks():
    layer = nn.Linear(2, 2)
    seen = []
    layer.register_forward_hook(lambda module, given, output: seen.append(output))
    layer.forward = lambda hidden: hidden + 1
    assert layer(torch.zeros(2)).tolist() == [1, 1]
    assert len(seen) == 1, "ZeRO-3 gathers weights in such hooks"


def test_flash_attention_of_packed_rows_takes_a_window_and_a_scale():
    from torch.nn.attention.varlen import varlen_attn

    takes = list(inspect.signature(varlen_attn).parameters)
    assert takes[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"scale", "window_size"} <= set(takes)


def test_inductor_takes_the_compiler_that_we_look_for():
    """engine.backends.vllm_settings asks for it without importing torch."""
    code = text("torch/_inductor/config.py")
    assert "os.environ.get('CXX', 'clang++' if sys.platform == 'darwin' else 'g++')" in code
