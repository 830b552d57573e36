"""What an architecture cannot do, known before anything runs: seen by benchmarks/models, or read in
the sources of vLLM 0.31 and transformers 5.17.

What a newer library mends is deleted, and the matrix of models run again.
"""

from __future__ import annotations

from pathlib import Path

from engine.machines.architectures import load_config
from engine.machines.tiny_models import family_of

# Heads with a logit that takes probability and no value: transformers' attentions leave it out,
# refuse, or (eager, in 5.17) see across the examples of a block.
SINKS = ("gpt_oss",)
_UNQUANTIZED = ("bf16", "bfloat16", "fp16", "fp32")


def model_type_of(model: str) -> str | None:
    """By a folder's config.json, else by the hub name."""
    config = load_config(Path(model))
    if config is not None:
        return config.get("model_type")
    family = family_of(model)
    return family.model_type if family else None


def quantization_of(model: str) -> str | None:
    """How the weights of a folder or a known hub model are quantised; None: they are whole, or
    nothing is known of them."""
    config = load_config(Path(model))
    if config is not None:
        stated = config.get("quantization_config") or {}
        return stated.get("quant_method")
    family = family_of(model)
    if family is None or model.lower().endswith(_UNQUANTIZED):
        return None
    return family.stored or None
