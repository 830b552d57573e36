"""Attention of packed rows: which one trains a student, and those that transformers has not. What a
mask would hide is never computed.

Shapes: B rows, L tokens of a row, D dimensions of a head, T = B*L tokens, N examples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from engine.job.spec import TrainSpec

PER_EXAMPLE, VARLEN = (
    "sdpa_per_example",
    "torch_varlen",
)  # transformers' names of the two functions below


def attention_of(spec: TrainSpec, device: str, config: PretrainedConfig) -> str:
    """transformers' name of the attention. All of them read the examples' borders from the position
    ids; sdpa masks what lies beyond."""
    if spec.attention_transfer:
        return "eager"  # the others never make the maps
    if spec.attention != "auto":
        return spec.attention
    text = config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None):
        return "eager"  # the others leave the cap out
    if device == "cpu":
        return PER_EXAMPLE
    if is_flash_attn_2_available():
        return "flash_attention_2"
    # torch's own flash attention: half precision, one width for keys and values, no dropout, Ampere
    # and later.
    plain = (
        spec.precision == "bf16"
        and not getattr(text, "v_head_dim", None)
        and not getattr(text, "attention_dropout", 0)
    )
    return VARLEN if plain and torch.cuda.get_device_capability() >= (8, 0) else "sdpa"


def attention_per_example(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of packed rows, (B, heads, L, D) -> (B, L, heads, D), one call of torch per
    example."""
    assert attention_mask is None, "packed rows carry no mask"
    assert s_aux is None, "attention sinks; set train.attention: eager"
    rows, heads, length, _ = query.shape
    starts = _starts(position_ids, rows, length).tolist()
    lengths = [end - start for start, end in zip(starts, [*starts[1:], rows * length], strict=True)]
    per_example = (
        side.transpose(1, 2).flatten(0, 1).split(lengths) for side in (query, key, value)
    )
    outputs = []
    for q, k, v in zip(*per_example, strict=True):
        mask = (
            _band(len(q), sliding_window, q) if sliding_window and len(q) > sliding_window else None
        )
        outputs.append(
            F.scaled_dot_product_attention(
                *(side.transpose(0, 1).unsqueeze(0) for side in (q, k, v)),
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=key.shape[1] != heads,
            )
            .squeeze(0)
            .transpose(0, 1)
        )
    return torch.cat(outputs).view(rows, length, heads, -1), None


def attention_varlen(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The same in one call for all examples, by the flash attention that torch brings: GPUs, half
    precision, no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    assert attention_mask is None, "packed rows carry no mask"
    assert s_aux is None, "attention sinks; set train.attention: eager"
    assert not dropout, f"dropout {dropout}; set train.attention: sdpa"
    rows, heads, length, _ = query.shape
    key, value = (_each_query_head(side, heads) for side in (key, value))
    borders = F.pad(_starts(position_ids, rows, length), (0, 1), value=rows * length).to(
        torch.int32
    )  # (N + 1,)
    longest = length  # a bound is enough, and the true value would make the GPU's queue wait
    window = (sliding_window - 1, 0) if sliding_window else (-1, 0)
    output = varlen_attn(
        *(side.transpose(1, 2).flatten(0, 1) for side in (query, key, value)),
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=window,
    )
    return output.view(rows, length, heads, -1), None


def _each_query_head(side: torch.Tensor, heads: int) -> torch.Tensor:
    """Keys or values once for each query head, (B, heads, L, D): torch's `enable_gqa` came after
    2.11."""
    return side if side.shape[1] == heads else side.repeat_interleave(heads // side.shape[1], dim=1)


def _starts(position_ids: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Where examples start in all rows laid end to end, (N,): wherever a position id is 0."""
    return torch.nonzero(position_ids.expand(rows, length).flatten() == 0).flatten()


def _band(length: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """Positions that see themselves and the window - 1 before them."""
    return torch.ones(length, length, dtype=torch.bool, device=like.device).tril().triu(1 - window)


AttentionInterface.register(PER_EXAMPLE, attention_per_example)
AttentionInterface.register(VARLEN, attention_varlen)
