"""The figures of a model by its name: a local folder speaks for itself, hub names are looked up in
known_models.py.

They decide layouts and memory before anything is loaded. Nothing here opens a weight file or the
network.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.machines.known_models import KNOWN
from engine.machines.shape import Architecture

_SHAPE = {"num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"}
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")
_ROUTED = ("num_experts_per_tok", "experts_per_token", "moe_k")
# Bytes of a weight, its scales included, of checkpoints whose name ends so.
_QUANTIZED = {"-fp8": 1.0, "-nvfp4": 0.5625, "-fp4": 0.5625, "-awq": 0.53, "-gptq-int4": 0.53}


def facts(model: str) -> Architecture | None:
    """Facts of a local folder (its config.json and the sizes of its *.safetensors) or of a known
    hub name, also of one that ends in its quantisation; else None."""
    if os.path.isdir(model):
        return _local_facts(Path(model))
    name = model.rpartition("/")[2].lower().removeprefix("meta-")
    found = KNOWN.get(name) or KNOWN.get(name.removesuffix("-instruct"))
    for ending, size in _QUANTIZED.items():
        if not found and name.endswith(ending):
            plain = facts(name.removesuffix(ending))
            found = replace(plain, bytes_per_param=size) if plain else None
    return found


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
        top_k=next((config[name] for name in _ROUTED if config.get(name)), 0),
        moe_layers=_moe_layers(config) if experts else 0,
        window=config.get("sliding_window") or 0,
        window_layers=_window_layers(config),
        tied=bool(config.get("tie_word_embeddings")),
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


def _moe_layers(config: dict[str, Any]) -> int:
    return config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)


def _window_layers(config: dict[str, Any]) -> int:
    """Layers that look back a window only, where the file tells each layer's kind."""
    if not config.get("sliding_window"):
        return 0
    kinds = config.get("layer_types") or []
    return sum(kind == "sliding_attention" for kind in kinds)


def _experts_b(config: dict[str, Any], experts: int) -> float:
    layers = _moe_layers(config)
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
