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
        share = max(1 / tensor_parallel, 1 / self.kv_heads)  # no device holds less than one head
        return 4 * self.layers * self.kv_heads * self.head_dim * share


# Keys are hub names without owner, lower case, without `meta-` in front and `-instruct` behind.
KNOWN: dict[str, Architecture] = {
    # deepseek-ai/DeepSeek-V3 README and config.json; MLA rank 512 + 64 rope; native FP8 without the
    # 14B MTP head
    "deepseek-v3": Architecture(
        params_b=671,
        layers=61,
        hidden=7168,
        heads=128,
        kv_heads=128,
        head_dim=128,
        mla_rank=576,
        vocab=129_280,
        max_context=163_840,
        bytes_per_param=1,
        experts=256,
        experts_b=653.9,
    ),
    # vLLM blog 2024-07-23; config.json copies
    "llama-3.1-405b": Architecture(
        params_b=405,
        layers=126,
        hidden=16384,
        heads=128,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=128_256,
        max_context=131_072,
        bytes_per_param=2,
        ffn=53_248,
    ),
    # as Llama-3.1-405B; FP8 in the MLP only, about 482 GB, computed for Meta's FBGEMM checkpoint
    "llama-3.1-405b-instruct-fp8": Architecture(
        params_b=405,
        layers=126,
        hidden=16384,
        heads=128,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=128_256,
        max_context=131_072,
        bytes_per_param=1.19,
        ffn=53_248,
    ),
    # config.json as copied by public recipes
    "llama-3.1-8b": Architecture(
        params_b=8.03,
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=128_256,
        max_context=131_072,
        bytes_per_param=2,
        ffn=14_336,
    ),
    # microsoft/Phi-4-mini-instruct model card; apxml.com for the shape
    "phi-4-mini": Architecture(
        params_b=3.84,
        layers=32,
        hidden=3072,
        heads=24,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=200_064,
        max_context=131_072,
        bytes_per_param=2,
        ffn=8192,
        short_context=4096,
    ),
    # transformers configuration_phi3.py defaults; model cards for the context and the original
    # 4,096 positions of the long ones
    "phi-3.5-mini": Architecture(
        params_b=3.82,
        layers=32,
        hidden=3072,
        heads=32,
        kv_heads=32,
        head_dim=96,
        mla_rank=0,
        vocab=32_064,
        max_context=131_072,
        bytes_per_param=2,
        ffn=8192,
        short_context=4096,
    ),
    "phi-3-mini-128k": Architecture(
        params_b=3.82,
        layers=32,
        hidden=3072,
        heads=32,
        kv_heads=32,
        head_dim=96,
        mla_rank=0,
        vocab=32_064,
        max_context=131_072,
        bytes_per_param=2,
        ffn=8192,
        short_context=4096,
    ),
    "phi-3-mini-4k": Architecture(
        params_b=3.82,
        layers=32,
        hidden=3072,
        heads=32,
        kv_heads=32,
        head_dim=96,
        mla_rank=0,
        vocab=32_064,
        max_context=4096,
        bytes_per_param=2,
        ffn=8192,
    ),
}
_SHAPE = {"num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"}
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
    if not isinstance(config, dict):
        return None
    return config | config.get("text_config", {})


def _local_facts(folder: Path) -> Architecture | None:
    config = load_config(folder)
    if config is None or not config.keys() >= _SHAPE:
        return None
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    bytes_per_param = _bytes_per_param(config)
    stored_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    params_b = stored_bytes / bytes_per_param / 1e9
    if not params_b:  # no weights yet
        params_b = _dense_params_b(config, head_dim * (heads + kv_heads))
    experts = _experts(config)
    return Architecture(
        params_b=params_b,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mla_rank=_latent_rank(config),
        vocab=config["vocab_size"],
        max_context=_max_context(config),
        bytes_per_param=bytes_per_param,
        experts=experts,
        experts_b=min(_experts_b(config, experts), params_b),
        ffn=config.get("intermediate_size") or 0,
        short_context=short_context(config) or 0,
    )


def _dense_params_b(config: dict[str, Any], attention_width: int) -> float:
    """Parameters of a dense transformer of this shape; `attention_width` is that of queries and
    keys, and values and output are as wide."""
    hidden = config["hidden_size"]
    ends = 1 if config.get("tie_word_embeddings") else 2
    ffn = config.get("intermediate_size", 4 * hidden)
    layers = config["num_hidden_layers"] * hidden * (2 * attention_width + 3 * ffn)
    return (config["vocab_size"] * hidden * ends + layers) / 1e9


def _latent_rank(config: dict[str, Any]) -> int:
    if not config.get("kv_lora_rank"):
        return 0
    return config["kv_lora_rank"] + config.get("qk_rope_head_dim", 0)


def _experts(config: dict[str, Any]) -> int:
    return next((config[name] for name in _EXPERTS if config.get(name)), 0)


def _experts_b(config: dict[str, Any], experts: int) -> float:
    layers = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)
    width = config.get("moe_intermediate_size") or config.get("intermediate_size", 0)
    return layers * experts * 3 * config["hidden_size"] * width / 1e9


def _bytes_per_param(config: dict[str, Any]) -> float:
    if "fp8" in json.dumps(config.get("quantization_config")):
        return 1.0
    dtype = config.get("dtype") or config.get("torch_dtype")
    return 2.0 if dtype in ("float16", "bfloat16") else 4.0


def short_context(config: dict[str, Any]) -> int | None:
    """Positions up to which the model of this config.json rotates by its short factors, if it is a
    long-rope model, else None."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type")
    if kind not in ("longrope", "su"):  # su: its name in the first Phi-3 files
        return None
    stated = config.get("original_max_position_embeddings")
    return stated or rope.get("original_max_position_embeddings")


def _max_context(config: dict[str, Any]) -> int:
    """Positions that the model can hold; a RoPE factor may stretch the stated number (vLLM does), 0
    when nothing is stated."""
    stated = config.get("max_position_embeddings") or 0
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    original = rope.get("original_max_position_embeddings") or stated
    factor = rope.get("factor")
    if not isinstance(factor, int | float):
        return stated
    return max(stated, int(original * factor))
