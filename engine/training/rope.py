"""Long-rope (Phi-3 128k, Phi-4): one set of rotation factors up to the original context, another
one beyond it."""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


class _Rotary(Protocol):
    """What transformers' rotary modules of long-rope models hold."""

    config: PretrainedConfig
    inv_freq: Tensor
    rope_type: str


def pin_long_rope(model: PreTrainedModel, longest: int) -> None:
    """Let `model` rotate by one set of factors: the short ones if no block is longer than the
    original context, else the long ones.

    transformers chooses anew in each forward pass by the longest example in it, so an example's
    loss would depend on what it is packed and batched with. vLLM too chooses once, by max_model_len
    (model_executor/layers/rotary_embedding). Other models stay as they are.
    """
    for module in model.modules():
        if getattr(module, "rope_type", None) == "longrope":
            _pin(cast(_Rotary, module), longest)


def _pin(rotary: _Rotary, longest: int) -> None:
    original = rotary.config.rope_parameters["original_max_position_embeddings"]
    if longest > original:
        rotary.inv_freq, _ = ROPE_INIT_FUNCTIONS["longrope"](
            rotary.config, rotary.inv_freq.device, seq_len=original + 1
        )
    rotary.rope_type = "default"  # the name under which transformers leaves inv_freq alone
