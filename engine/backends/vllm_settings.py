"""What a job decides of vLLM, and what of it vLLM would refuse. Imports no vLLM."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.asking.engine import MAX_NUM_SEQS
from engine.backends.library_names import fields_of, literal_values, nearest_names
from engine.job.spec import TeacherSpec


def engine_problems(field: str, teacher: TeacherSpec) -> Iterator[str]:
    """Names that vLLM would refuse only after minutes; where vLLM is not installed, they are
    believed."""
    found = importlib.util.find_spec("vllm")  # finds the folder, imports nothing
    if found is None or not (
        teacher.engine_args or teacher.quantization or teacher.kv_cache_dtype != "auto"
    ):
        return
    vllm = Path(found.submodule_search_locations[0])
    for name, file, of_vllm in (
        ("quantization", "model_executor/layers/quantization/__init__.py", "QuantizationMethods"),
        ("kv_cache_dtype", "config/cache.py", "CacheDType"),
    ):
        given, allowed = getattr(teacher, name), literal_values(vllm / file, of_vllm)
        if given not in (None, "auto", *allowed):
            yield f"{field}.{name}: vLLM has no {given}; {nearest_names(given, allowed)}"
    known = fields_of(vllm / "engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    for key in teacher.engine_args:
        if own := ENGINE_FIELDS.get(key):
            yield f"{field}.engine_args.{key} has a place of its own; {own}"
        elif key not in known:
            yield (
                f"{field}.engine_args.{key}: vLLM has no such argument; {nearest_names(key, known)}"
            )


ENGINE_FIELDS = {
    **{
        name: f"set the teacher's {name}"
        for name in (
            "model",
            "revision",
            "dtype",
            "quantization",
            "kv_cache_dtype",
            "max_model_len",
            "max_num_seqs",
            "trust_remote_code",
            "gpu_memory_utilization",
            "reasoning_parser",
        )
    },
    "tensor_parallel_size": "set the teacher's tensor_parallel",
    "pipeline_parallel_size": "set the teacher's pipeline_parallel",
    "data_parallel_size": "set the teacher's data_parallel",
    "enable_expert_parallel": "set the teacher's expert_parallel",
    "kv_cache_memory_bytes": "set the teacher's kv_cache_gib",
    "max_logprobs": "set generate.capture.top_k",
    "logprobs_mode": "the signal is always raw log-probabilities",
    "distributed_executor_backend": "the layout decides it",
    "hf_token": "secrets never stand in a job; export HF_TOKEN where the engines run",
}
GIB = 1024**3


def engine_arguments(
    spec: TeacherSpec, device: str, top_k: int = 0, *, spanning: bool = False
) -> dict[str, Any]:
    """TeacherSpec -> vLLM's AsyncEngineArgs (also Serve LLM's engine_kwargs), with what a CPU
    needs.

    `spanning`: the replica lies on several nodes, so Ray starts its workers; `engine_args` of the
    spec wins over all else. How much an engine on a GPU batches is left to vLLM, which knows the
    GPU and what the engine is for.
    """
    arguments: dict[str, Any] = {
        "model": spec.model,
        "revision": spec.revision,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "kv_cache_dtype": spec.kv_cache_dtype,
        "max_model_len": spec.max_model_len,
        "tensor_parallel_size": spec.tensor_parallel,
        "pipeline_parallel_size": spec.pipeline_parallel,
        "data_parallel_size": spec.data_parallel,
        "enable_expert_parallel": spec.expert_parallel,
        "max_num_seqs": spec.max_num_seqs,
        "trust_remote_code": spec.trust_remote_code,
        "max_logprobs": max(20, top_k),
        "logprobs_mode": "raw_logprobs",
        # Said outright: inside a placement group vLLM would choose Ray even where its own processes
        # do.
        "distributed_executor_backend": "ray" if spanning else "mp" if spec.devices > 1 else None,
        "disable_log_stats": True,
    }
    if device == "gpu":
        arguments["gpu_memory_utilization"] = spec.gpu_memory_utilization
        if spec.kv_cache_gib:
            arguments["kv_cache_memory_bytes"] = int(spec.kv_cache_gib * GIB)
    else:
        # On a CPU a seeded request under chunked prefill kills the engine, and without a byte count
        # every replica takes 92 % of the node's memory. Compilation costs minutes and gains nothing
        # at this size.
        arguments |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, spec.max_model_len or context_length(spec.model)),
            "kv_cache_memory_bytes": int((spec.kv_cache_gib or 1.0) * GIB),
            "max_num_seqs": spec.max_num_seqs or MAX_NUM_SEQS["cpu"],
        }
    return {key: value for key, value in arguments.items() if value is not None} | spec.engine_args


def engine_environment(devices: int, device: str) -> dict[str, str]:
    """Environment of the process that hosts an engine on `devices` devices; must be set before vLLM
    is imported."""
    if device == "gpu":
        return {}
    cores = os.cpu_count() or 1
    # Half of the cores compute; the others tokenise, decode and write, or host the next replica.
    threads = {"OMP_NUM_THREADS": str(max(1, cores // (2 * devices)))}
    if devices > 1:
        return threads | {
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(str(rank % cores) for rank in range(devices))
        }
    # `nobind`: several replicas on one node must not pin themselves to the same cores. With
    # multiprocessing off, the engine core computes in its own process instead of starting a worker
    # that imports vLLM once more (20 s).
    return threads | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def context_length(model: str) -> int:
    """The model's own limit of prompt plus answer, in tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int(getattr(config, "max_position_embeddings", 8192))
