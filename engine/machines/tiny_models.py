"""Tiny configurations of the architectures that teachers and students have: what a rehearsal and
the matrix of models (benchmarks/models) run in place of the real ones.

Kept: latent and grouped attention, windows, sinks, experts, norms, stretched ropes, partial
rotation, tied embeddings. Shrunk: width, depth, vocabulary and positions. Each row states the true
positions and windows, which are divided when a configuration is made, so that what lies on one side
of a limit in a real job does so in small. Weights come from engine/training/tiny_models.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.machines.architectures import load_config, short_context

SHRINK = 8
_HEAD_DIM = 32
_WIDTHS = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    # larger than usual: attention is far from uniform, and the likeliest token stands out
    "initializer_range": 0.1,
}
_POSITIONS = ("max_position_embeddings", "original_max_position_embeddings", "sliding_window")


@dataclass(frozen=True)
class Family:
    """Models of one architecture: `pattern` matches their hub names without owner, in lower case;
    `model_type` is transformers' name; `facts` are what the tiny one has beside the widths. The
    hub's weights are quantised as `stored` says, where it says something."""

    name: str
    pattern: str
    model_type: str
    facts: dict[str, Any]
    stored: str = ""

    @property
    def is_long_rope(self) -> bool:
        """Whether it rotates by other factors beyond its original context."""
        return short_context(self.facts) is not None


def _long_rope(rotary: int) -> dict[str, Any]:
    """Phi's two sets of factors, for heads with `rotary` rotated dimensions."""
    return {
        "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096,
        "sliding_window": 262_144,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": rotary / _HEAD_DIM,
            "short_factor": [1.0 + 0.05 * at for at in range(rotary // 2)],
            "long_factor": [1.5 + 0.5 * at for at in range(rotary // 2)],
        },
    }


# Positions, windows, ropes and what is tied: config.json of each, and transformers'
# configuration_*.py.
_DEEPSEEK_V3 = {
    "max_position_embeddings": 163_840,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 40.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    },
    "num_key_value_heads": 4,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "topk_method": "noaux_tc",  # vLLM reads it, transformers has no other
    "scoring_func": "sigmoid",
    "first_k_dense_replace": 1,
    # as large as they are: the kernels of latent attention know these widths only
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "q_lora_rank": 64,
}
_LLAMA_3 = {
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_PHI_3_SHORT = {
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
    "num_key_value_heads": 4,
}
_QWEN_3 = {"max_position_embeddings": 40_960, "head_dim": 64, "tie_word_embeddings": True}
_QWEN_3_MOE = {
    "max_position_embeddings": 40_960,
    "head_dim": 64,
    "moe_intermediate_size": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
_GEMMA_3 = {
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "tie_word_embeddings": True,
}
_MISTRAL = {"max_position_embeddings": 32_768, "sliding_window": None}
_MISTRAL_WINDOW = {"max_position_embeddings": 32_768, "sliding_window": 4096}
_GPT_OSS = {
    "max_position_embeddings": 131_072,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "head_dim": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150_000.0,
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
_OLMO_2 = {"max_position_embeddings": 4096, "num_key_value_heads": 4}
_OLMO_3 = {
    "max_position_embeddings": 65_536,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}

# The first whose pattern matches is taken.
FAMILIES = (
    Family("DeepSeek-V3", r"deepseek-(v3|r1)(?!-distill)", "deepseek_v3", _DEEPSEEK_V3, "fp8"),
    Family("Llama-3.1", r"llama-3", "llama", _LLAMA_3),
    Family("Phi-3-mini-4k", r"phi-3-\w+-4k", "phi3", _PHI_3_SHORT),
    Family("Phi-3.5-mini", r"phi-3(\.5-mini|-\w+-128k)", "phi3", _long_rope(32)),
    Family("Phi-4-mini", r"phi-4-mini", "phi3", _long_rope(24) | {"tie_word_embeddings": True}),
    Family("Qwen3 MoE", r"qwen3-\d+b-a\d+b", "qwen3_moe", _QWEN_3_MOE),
    Family("Qwen3", r"qwen3-[\d.]+b", "qwen3", _QWEN_3),
    Family("Gemma 3", r"gemma-3-\d", "gemma3_text", _GEMMA_3),
    Family("Mistral-7B-v0.1", r"mistral-7b(-instruct)?-v0\.1", "mistral", _MISTRAL_WINDOW),
    Family("Mistral-7B-v0.3", r"mistral-7b", "mistral", _MISTRAL),
    Family("gpt-oss", r"gpt-oss", "gpt_oss", _GPT_OSS, "mxfp4"),
    Family("OLMo-2", r"olmo-2", "olmo2", _OLMO_2),
    Family("OLMo-3", r"olmo-3", "olmo3", _OLMO_3),
)


def family_of(model: str) -> Family | None:
    """By the name of a hub model or folder, else by the config.json of a folder; None where no row
    fits."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    for family in FAMILIES:
        if re.search(family.pattern, name):
            return family
    config = load_config(Path(model)) or {}
    long_rope = short_context(config) is not None
    for family in FAMILIES:
        if family.model_type == config.get("model_type") and family.is_long_rope == long_rope:
            return family
    return None


def require_family(model: str) -> Family:
    """Likewise, also by its own name; SpecError where no row fits."""
    by_name = {family.name: family for family in FAMILIES}
    family = by_name.get(model) or family_of(model)
    if family is None:
        known = ", ".join(by_name)
        raise SpecError(
            f"there is no tiny model of the architecture of {model}; known are {known}. Name a"
            " model of one of these, or add a row to engine/machines/tiny_models.py"
        )
    return family


def tiny_config(model: str, shrink: int = SHRINK) -> dict[str, Any]:
    """Fields of a config.json for the architecture of `model` (a hub name, a folder or the name of
    a family), `model_type` among them and without vocabulary, with positions and windows divided by
    `shrink`. SpecError where nothing is known of it."""
    family = require_family(model)
    return {"model_type": family.model_type, **_shrunk(_WIDTHS | family.facts, shrink)}


def _shrunk(config: dict[str, Any], shrink: int) -> dict[str, Any]:
    """The same with positions divided, those of its rope too."""
    smaller: dict[str, Any] = {}
    for key, value in config.items():
        if key in _POSITIONS and value:
            value = max(1, value // shrink)
        elif isinstance(value, dict):
            value = _shrunk(value, shrink)
        smaller[key] = value
    return smaller
