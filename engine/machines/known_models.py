"""Figures of the teachers and students of known jobs, and of the models whose speed was published
(benchmarks/planner): one table with sources.

A model that is here as a folder speaks for itself (architectures.py) and needs no row.
"""

from __future__ import annotations

from dataclasses import replace

from engine.machines.shape import Architecture

# Models of which the table has several names or variants.

# vLLM blog 2024-07-23; config.json copies
_LLAMA_3_405B = Architecture(
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
)
# transformers configuration_phi3.py defaults; model cards for the context and the original
# 4,096 positions of the long ones
_PHI_3_MINI = Architecture(
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
)
# config.json as copied by public recipes; Llama-3.1-70B has the same shape
_LLAMA_3_70B = Architecture(
    params_b=70.6,
    layers=80,
    hidden=8192,
    heads=64,
    kv_heads=8,
    head_dim=128,
    mla_rank=0,
    vocab=128_256,
    max_context=131_072,
    bytes_per_param=2,
    ffn=28_672,
)
# configuration_gpt_oss.py; MXFP4 experts, the rest in BF16; every other layer has a window
_GPT_OSS = Architecture(
    params_b=116.8,
    layers=36,
    hidden=2880,
    heads=64,
    kv_heads=8,
    head_dim=64,
    mla_rank=0,
    vocab=201_088,
    max_context=131_072,
    bytes_per_param=0.531,
    experts=128,
    experts_b=114.7,
    top_k=4,
    window=128,
    window_layers=18,
    rest_bytes=2,
)
# config.json; experts in every other layer, three of four layers attend in chunks of 8,192
_LLAMA_4 = Architecture(
    params_b=400.7,
    layers=48,
    hidden=5120,
    heads=40,
    kv_heads=8,
    head_dim=128,
    mla_rank=0,
    vocab=202_048,
    max_context=1_048_576,
    bytes_per_param=2,
    experts=128,
    experts_b=386.5,
    top_k=1,
    moe_layers=24,
    window=8192,
    window_layers=36,
)

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
        top_k=8,
        moe_layers=58,
    ),
    "llama-3.1-405b": _LLAMA_3_405B,
    # FP8 in the MLP only, about 482 GB, computed for Meta's FBGEMM checkpoint
    "llama-3.1-405b-instruct-fp8": replace(_LLAMA_3_405B, bytes_per_param=1.19),
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
        tied=True,
    ),
    "phi-3.5-mini": _PHI_3_MINI,
    "phi-3-mini-128k": _PHI_3_MINI,
    "phi-3-mini-4k": replace(_PHI_3_MINI, max_context=4096, short_context=0),
    "llama-3.3-70b": _LLAMA_3_70B,
    "llama-3.1-70b": _LLAMA_3_70B,
    # config.json; experts 3 x 4096 x 1536 each
    "qwen3-235b-a22b": Architecture(
        params_b=235,
        layers=94,
        hidden=4096,
        heads=64,
        kv_heads=4,
        head_dim=128,
        mla_rank=0,
        vocab=151_936,
        max_context=40_960,
        bytes_per_param=2,
        experts=128,
        experts_b=227,
        top_k=8,
    ),
    # config.json; experts 3 x 2048 x 768 each
    "qwen3-30b-a3b": Architecture(
        params_b=30.5,
        layers=48,
        hidden=2048,
        heads=32,
        kv_heads=4,
        head_dim=128,
        mla_rank=0,
        vocab=151_936,
        max_context=40_960,
        bytes_per_param=2,
        experts=128,
        experts_b=29.0,
        top_k=8,
    ),
    # config.json
    "qwen3-32b": Architecture(
        params_b=32.8,
        layers=64,
        hidden=5120,
        heads=64,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=151_936,
        max_context=40_960,
        bytes_per_param=2,
        ffn=25_600,
    ),
    # config.json
    "qwen3-14b": Architecture(
        params_b=14.8,
        layers=40,
        hidden=5120,
        heads=40,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=151_936,
        max_context=40_960,
        bytes_per_param=2,
        ffn=17_408,
    ),
    # config.json
    "qwen3-8b": Architecture(
        params_b=8.2,
        layers=36,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mla_rank=0,
        vocab=151_936,
        max_context=40_960,
        bytes_per_param=2,
        ffn=12_288,
    ),
    "gpt-oss-120b": _GPT_OSS,
    "gpt-oss-20b": replace(
        _GPT_OSS, params_b=20.9, layers=24, experts=32, experts_b=19.1, window_layers=12
    ),
    "llama-4-maverick-17b-128e": _LLAMA_4,
    # experts in every layer
    "llama-4-scout-17b-16e": replace(
        _LLAMA_4, params_b=107.8, max_context=10_485_760, experts=16, experts_b=96.6, moe_layers=0
    ),
}
