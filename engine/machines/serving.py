"""An engine's fields and an accelerator -> the replica whose rate can be told."""

from __future__ import annotations

from typing import Any

from engine.job.spec import EngineSpec
from engine.machines.accelerators import Accelerator
from engine.machines.replica import Numbers, Replica, Split
from engine.machines.shape import Architecture

# vLLM's own choice on a GPU (arg_utils.py of 0.31): sequences and prompt tokens of a step, where
# the GPU has 70 GiB and is no A100, and elsewhere.
LARGE = (1024, 16_384)
SMALL = (256, 8_192)
_LARGE_GB = 75.0
_QUANTIZED = {"fp8": 1.0, "bitsandbytes": 0.5, "mxfp4": 0.531}  # made at load time
ACCEPTED = 0.5  # of the drafted tokens: assumed


def split_of(engine: EngineSpec) -> Split:
    """How the engine is spread."""
    return Split(engine.tensor_parallel, engine.pipeline_parallel, engine.data_parallel)


def vllm_choice(accelerator: Accelerator) -> tuple[int, int]:
    """Most sequences and prompt tokens of a step, where the job does not say."""
    is_large = accelerator.memory_gb >= _LARGE_GB and not accelerator.name.startswith("A100")
    return LARGE if is_large else SMALL


def replica_of(
    engine: EngineSpec, model: Architecture, accelerator: Accelerator, split: Split
) -> Replica:
    """One replica of the engine, with this split in place of its own."""
    sequences, chunk = vllm_choice(accelerator)
    drafted = float(_speculation(engine).get("num_speculative_tokens") or 0)
    weight_bytes = _weight_bytes(engine, model)
    rest_bytes = model.rest_bytes or weight_bytes
    cache_gb = None
    if engine.kv_cache_gib:
        cache_gb = engine.kv_cache_gib * 2**30 / 1e9
    numbers = Numbers(
        weight_bytes=weight_bytes,
        rest_bytes=rest_bytes,
        kv_bytes=_kv_bytes(engine),
        max_num_seqs=engine.max_num_seqs or sequences,
        chunk_tokens=engine.engine_args.get("max_num_batched_tokens") or chunk,
        memory=engine.gpu_memory_utilization,
        cache_gb=cache_gb,
        drafted=drafted,
        accepted=ACCEPTED * drafted,
    )
    return Replica(model, accelerator, split, numbers)


def _speculation(engine: EngineSpec) -> dict[str, Any]:
    given = engine.engine_args.get("speculative_config")
    return given if isinstance(given, dict) else {}


def _weight_bytes(engine: EngineSpec, model: Architecture) -> float:
    stored = model.bytes_per_param
    made = _QUANTIZED.get(engine.quantization or "")
    if made and stored >= 2:
        return made
    if stored >= 2:  # the checkpoint's own type, unless the engine is told another
        return {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}.get(engine.dtype, stored)
    return stored


def _kv_bytes(engine: EngineSpec) -> float:
    if "fp8" in engine.kv_cache_dtype or "int8" in engine.kv_cache_dtype:
        return 1.0
    return 4.0 if engine.dtype == "float32" else 2.0
