"""Architecture facts of the teachers and students of known jobs, one table with sources; local
folders speak for themselves.

Facts decide layouts and memory before anything is loaded. Nothing here opens a weight file or the
network.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One model. Parameters are in billions; `mla_rank` is the width of a latent (MLA) cache entry,
    0 for plain KV heads.

    `experts` of a layer are routed to, and hold `experts_b` of the parameters; both 0 in a dense
    model. `ffn` is the inner width of a dense layer. Up to `short_context` positions a long-rope
    model rotates by its short factors; 0 in other models.
    """

    params_b: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mla_rank: int
    vocab: int
    max_context: int
    bytes_per_param: float
    experts: int = 0
    experts_b: float = 0.0
    ffn: int = 0
    short_context: int = 0

    def weights_gb_per_device(
        self, tensor_parallel: int, pipeline_parallel: int = 1, data_parallel: int = 1
    ) -> float:
        """Weights on one device in GB (1e9 bytes): data-parallel ranks repeat all but the experts,
        which vLLM spreads over them too."""
        copies = self.params_b - self.experts_b + self.experts_b / data_parallel
        return copies * self.bytes_per_param / (tensor_parallel * pipeline_parallel)

    def kv_bytes_per_token(self, tensor_parallel: int = 1) -> float:
        """16-bit KV cache of one token on one device in bytes; a latent cache is whole on each
        device (serving sizing B6.2)."""
        if self.mla_rank:
            return 2 * self.layers * self.mla_rank
        return (
            4
            * self.layers
            * self.kv_heads
            * self.head_dim
            * max(1 / tensor_parallel, 1 / self.kv_heads)
        )


# Keys are hub names without owner, lower case, without `meta-` in front and `-instruct` behind.
KNOWN: dict[str, Architecture] = {
    # deepseek-ai/DeepSeek-V3 README and config.json; MLA rank 512 + 64 rope; native FP8 without the
    # 14B MTP head
    "deepseek-v3": Architecture(671, 61, 7168, 128, 128, 128, 576, 129_280, 163_840, 1, 256, 653.9),
    # vLLM blog 2024-07-23; config.json copies
    "llama-3.1-405b": Architecture(
        405, 126, 16384, 128, 8, 128, 0, 128_256, 131_072, 2, ffn=53_248
    ),
    # as Llama-3.1-405B; FP8 in the MLP only, about 482 GB, computed for Meta's FBGEMM checkpoint
    "llama-3.1-405b-instruct-fp8": Architecture(
        405, 126, 16384, 128, 8, 128, 0, 128_256, 131_072, 1.19, ffn=53_248
    ),
    # config.json as copied by public recipes
    "llama-3.1-8b": Architecture(8.03, 32, 4096, 32, 8, 128, 0, 128_256, 131_072, 2, ffn=14_336),
    # microsoft/Phi-4-mini-instruct model card; apxml.com for the shape
    "phi-4-mini": Architecture(
        3.84, 32, 3072, 24, 8, 128, 0, 200_064, 131_072, 2, ffn=8192, short_context=4096
    ),
    # transformers configuration_phi3.py defaults; model cards for the context and the original
    # 4,096 positions of the long ones
    "phi-3.5-mini": Architecture(
        3.82, 32, 3072, 32, 32, 96, 0, 32_064, 131_072, 2, ffn=8192, short_context=4096
    ),
    "phi-3-mini-128k": Architecture(
        3.82, 32, 3072, 32, 32, 96, 0, 32_064, 131_072, 2, ffn=8192, short_context=4096
    ),
    "phi-3-mini-4k": Architecture(3.82, 32, 3072, 32, 32, 96, 0, 32_064, 4096, 2, ffn=8192),
}
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


def facts(model: str) -> Architecture | None:
    """Facts of a local folder (its config.json and the sizes of its *.safetensors) or of a known
    hub name; else None."""
    if os.path.isdir(model):
        return _local_facts(Path(model))
    name = model.rpartition("/")[2].lower().removeprefix("meta-")
    return KNOWN.get(name) or KNOWN.get(name.removesuffix("-instruct"))


def load_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a model folder (the text part, where there are several), or None if it is
    missing or no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config | config.get("text_config", {}) if isinstance(config, dict) else None


def _local_facts(folder: Path) -> Architecture | None:
    config = load_config(folder)
    shape = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    if config is None or not set(shape) <= config.keys():
        return None
    layers, hidden, heads, vocab = (config[name] for name in shape)
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    rank = (
        config["kv_lora_rank"] + config.get("qk_rope_head_dim", 0)
        if config.get("kv_lora_rank")
        else 0
    )
    per_param = _bytes_per_param(config)
    params_b = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / per_param / 1e9
    if not params_b:  # no weights yet: a dense transformer of this shape
        embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings") else 2)
        ffn = config.get("intermediate_size", 4 * hidden)
        params_b = (
            embeddings + layers * hidden * (2 * head_dim * (heads + kv_heads) + 3 * ffn)
        ) / 1e9
    experts = next((config[name] for name in _EXPERTS if config.get(name)), 0)
    width = config.get("moe_intermediate_size") or config.get("intermediate_size", 0)
    experts_b = (
        (layers - config.get("first_k_dense_replace", 0)) * experts * 3 * hidden * width / 1e9
    )
    return Architecture(
        params_b,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        rank,
        vocab,
        _max_context(config),
        per_param,
        experts,
        min(experts_b, params_b),
        config.get("intermediate_size") or 0,
        short_context(config) or 0,
    )


def _bytes_per_param(config: dict[str, Any]) -> float:
    if "fp8" in json.dumps(config.get("quantization_config")):
        return 1.0
    return (
        2.0
        if (config.get("dtype") or config.get("torch_dtype")) in ("float16", "bfloat16")
        else 4.0
    )


def short_context(config: dict[str, Any]) -> int | None:
    """Positions up to which the model of this config.json rotates by its short factors, if it is a
    long-rope model, else None."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (rope.get("rope_type") or rope.get("type")) not in (
        "longrope",
        "su",
    ):  # su: its name in the first Phi-3 files
        return None
    return config.get("original_max_position_embeddings") or rope.get(
        "original_max_position_embeddings"
    )


def _max_context(config: dict[str, Any]) -> int:
    """Positions that the model can hold; a RoPE factor may stretch the stated number (vLLM does), 0
    when nothing is stated."""
    stated = config.get("max_position_embeddings") or 0
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings") or stated
    return max(stated, int(original * factor)) if isinstance(factor, int | float) else stated
