"""Attention of packed rows: which one trains a student, and those that transformers has not. What a
mask would hide is never computed.

Shapes: B rows, L tokens of a row, D dimensions of a head, T = B*L tokens, N examples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from engine.job.spec import TrainSpec

# transformers' names of the two functions below
PER_EXAMPLE = "torch_per_example"
VARLEN = "torch_varlen"


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
    if device == "cpu" or _has_sinks(config):
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
    if plain and torch.cuda.get_device_capability() >= (8, 0):
        return VARLEN
    return "sdpa"


def _has_sinks(config: PretrainedConfig) -> bool:
    """Whether transformers keeps torch's attention from this architecture: gpt-oss, where each head
    has a logit that takes probability and no value. Its eager attention sees across examples."""
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return architecture is not None and not architecture._supports_sdpa


def attention_per_example(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of packed rows, (B, heads, L, D) -> (B, L, heads, D), one call of torch per
    example. `s_aux` are the logits of the heads' sinks, (heads,)."""
    assert attention_mask is None, "packed rows carry no mask"
    rows, heads, length = query.shape[:3]
    starts = _starts(position_ids, rows, length).tolist()
    ends = [*starts[1:], rows * length]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    queries = _end_to_end(query).split(lengths)
    keys = _end_to_end(key).split(lengths)
    values = _end_to_end(value).split(lengths)
    outputs = []
    for q, k, v in zip(queries, keys, values, strict=True):
        mask = None
        if s_aux is not None:
            mask = _with_sinks(_band(len(q), sliding_window or len(q), q), s_aux, q)
            k = F.pad(k, (0, 0, 0, 0, 0, 1))
            v = F.pad(v, (0, 0, 0, 0, 0, 1))
        elif sliding_window and len(q) > sliding_window:
            mask = _band(len(q), sliding_window, q)
        output = F.scaled_dot_product_attention(
            _as_a_batch(q),
            _as_a_batch(k),
            _as_a_batch(v),
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != heads,
        )
        outputs.append(output.squeeze(0).transpose(0, 1))
    return torch.cat(outputs).view(rows, length, heads, -1), None


def attention_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same in one call for all examples, by the flash attention that torch brings: GPUs, half
    precision, no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    assert attention_mask is None, "packed rows carry no mask"
    assert s_aux is None, "attention sinks; set train.attention: auto"
    assert not dropout, f"dropout {dropout}; set train.attention: sdpa"
    rows, heads, length = query.shape[:3]
    starts = _starts(position_ids, rows, length)
    borders = F.pad(starts, (0, 1), value=rows * length)  # (N + 1,)
    borders = borders.to(torch.int32)
    longest = length  # a bound is enough, and the true value would make the GPU's queue wait
    behind = -1  # no limit
    if sliding_window:
        behind = sliding_window - 1
    output = varlen_attn(
        _end_to_end(query),
        _end_to_end(_each_query_head(key, heads)),
        _end_to_end(_each_query_head(value, heads)),
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(behind, 0),
    )
    assert isinstance(output, Tensor)  # it is a tuple for callers that ask for more
    return output.view(rows, length, heads, -1), None


def _each_query_head(side: Tensor, heads: int) -> Tensor:
    """Keys or values once for each query head, (B, heads, L, D): torch's `enable_gqa` came after
    2.11."""
    if side.shape[1] == heads:
        return side
    return side.repeat_interleave(heads // side.shape[1], dim=1)


def _end_to_end(side: Tensor) -> Tensor:
    """All rows in one, (B, heads, L, D) -> (T, heads, D)."""
    return side.transpose(1, 2).flatten(0, 1)


def _as_a_batch(side: Tensor) -> Tensor:
    """One example, (length, heads, D) -> (1, heads, length, D)."""
    return side.transpose(0, 1).unsqueeze(0)


def _starts(position_ids: Tensor, rows: int, length: int) -> Tensor:
    """Where examples start in all rows laid end to end, (N,): wherever a position id is 0."""
    positions = position_ids.expand(rows, length).flatten()
    return torch.nonzero(positions == 0).flatten()


def _band(length: int, window: int, like: Tensor) -> Tensor:
    """Positions that see themselves and the window - 1 before them."""
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device)
    return seen.tril().triu(1 - window)


def _with_sinks(seen: Tensor, s_aux: Tensor, like: Tensor) -> Tensor:
    """What is added to the scores, (heads, length, length + 1): the last key, of zeros, has the
    sink's logit as its score, and no value."""
    length = len(seen)
    hidden = torch.zeros(length, length, dtype=like.dtype, device=like.device)
    hidden = hidden.masked_fill(~seen, float("-inf"))
    sinks = s_aux.to(like.dtype).view(-1, 1, 1).expand(-1, length, 1)
    return torch.cat([hidden.expand(len(s_aux), -1, -1), sinks], dim=-1)


AttentionInterface.register(PER_EXAMPLE, attention_per_example)
AttentionInterface.register(VARLEN, attention_varlen)
