"""What a job decides of vLLM, and what of it vLLM would refuse. Imports no vLLM."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.asking.respondents import MAX_NUM_SEQS
from engine.backends.library_names import (
    fields_of,
    literal_values,
    nearest_names,
    package_folder,
)
from engine.job.spec import EngineSpec, Model


def engine_problems(field: str, engine: EngineSpec) -> Iterator[str]:
    """Names that vLLM would refuse only after minutes; where vLLM is not installed, they are
    believed."""
    vllm = package_folder("vllm")
    is_set = engine.engine_args or engine.quantization or engine.kv_cache_dtype != "auto"
    if vllm is None or not is_set:
        return
    quantization = "model_executor/layers/quantization/__init__.py"
    for name, given, file, of_vllm in (
        ("quantization", engine.quantization, quantization, "QuantizationMethods"),
        ("kv_cache_dtype", engine.kv_cache_dtype, "config/cache.py", "CacheDType"),
    ):
        allowed = literal_values(vllm / file, of_vllm)
        if given is not None and given not in ("auto", *allowed):
            yield f"{field}.{name}: vLLM has no {given}; {nearest_names(given, allowed)}"
    known = fields_of(vllm / "engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    for key in engine.engine_args:
        if own := ENGINE_FIELDS.get(key):
            yield f"{field}.engine_args.{key} has a place of its own; {own}"
        elif key not in known:
            yield (
                f"{field}.engine_args.{key}: vLLM has no such argument; {nearest_names(key, known)}"
            )


ENGINE_FIELDS = {
    **{
        name: f"set {name}"
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
    "tensor_parallel_size": "set tensor_parallel",
    "pipeline_parallel_size": "set pipeline_parallel",
    "data_parallel_size": "set data_parallel",
    "enable_expert_parallel": "set expert_parallel",
    "kv_cache_memory_bytes": "set kv_cache_gib",
    "max_logprobs": "set generate.capture.top_k",
    "max_num_queued_reqs": "set serve.max_queued",
    "max_num_queued_tokens": "set serve.max_queued_tokens",
    "logprobs_mode": "the signal is always raw log-probabilities",
    "distributed_executor_backend": "the layout decides it",
    "hf_token": "secrets never stand in a job; export HF_TOKEN where the engines run",
}
GIB = 1024**3


def engine_arguments(
    model: Model,
    device: str,
    top_k: int = 0,
    *,
    spanning: bool = False,
    compiled: bool = False,
) -> dict[str, Any]:
    """Model -> vLLM's AsyncEngineArgs, with what a CPU needs.

    `spanning`: the replica lies on several nodes, so Ray starts its workers. `compiled`: on a CPU,
    if there is a compiler; on a GPU vLLM decides. `engine_args` of the engine wins over all else.
    How much an engine on a GPU batches is left to vLLM, which knows the GPU and what the engine is
    for.
    """
    spec = model.engine
    arguments: dict[str, Any] = {
        "model": model.model,
        "revision": model.revision,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "kv_cache_dtype": spec.kv_cache_dtype,
        "max_model_len": spec.max_model_len,
        "tensor_parallel_size": spec.tensor_parallel,
        "pipeline_parallel_size": spec.pipeline_parallel,
        "data_parallel_size": spec.data_parallel,
        "enable_expert_parallel": spec.expert_parallel,
        "max_num_seqs": spec.max_num_seqs,
        "trust_remote_code": model.trust_remote_code,
        "max_logprobs": max(20, top_k),
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
    }
    # Said outright: inside a placement group vLLM would choose Ray even where its own processes do.
    if spanning:
        arguments["distributed_executor_backend"] = "ray"
    elif spec.devices > 1:
        arguments["distributed_executor_backend"] = "mp"
    arguments |= _gpu_arguments(spec) if device == "gpu" else _cpu_arguments(model, compiled)
    given = {name: value for name, value in arguments.items() if value is not None}
    return given | spec.engine_args


def _gpu_arguments(spec: EngineSpec) -> dict[str, Any]:
    arguments: dict[str, Any] = {"gpu_memory_utilization": spec.gpu_memory_utilization}
    if spec.kv_cache_gib:
        arguments["kv_cache_memory_bytes"] = int(spec.kv_cache_gib * GIB)
    return arguments


def _cpu_arguments(model: Model, compiled: bool) -> dict[str, Any]:
    spec = model.engine
    # On a CPU a seeded request under chunked prefill kills the engine, and without a byte count
    # every replica takes 92 % of the node's memory. Compilation takes half a minute and more at a
    # model's first start and a quarter of one at each later start: benchmarks/serving says what it
    # gains, and an engine that is there for minutes does not get it back.
    return {
        "enforce_eager": not (compiled and _can_compile()),
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, spec.max_model_len or context_length(model.model)),
        "kv_cache_memory_bytes": int((spec.kv_cache_gib or 1.0) * GIB),
        "max_num_seqs": spec.max_num_seqs or MAX_NUM_SEQS["cpu"],
    }


def _can_compile() -> bool:
    """Whether torch's inductor finds what it wants here: the compiler that
    torch._inductor.config.cpp.cxx would name, and Python's headers."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler = shutil.which(os.environ.get("CXX", usual))
    headers = Path(sysconfig.get_path("include"))
    return compiler is not None and (headers / "Python.h").is_file()


def engine_environment(devices: int, device: str) -> dict[str, str]:
    """Environment of the process that hosts an engine on `devices` devices; must be set before vLLM
    is imported."""
    if device == "gpu":
        return {}
    cores = os.cpu_count() or 1
    # Half of the cores compute; the others tokenise, decode and write, or host the next replica.
    threads = {"OMP_NUM_THREADS": str(max(1, cores // (2 * devices)))}
    if devices > 1:
        cores_of_ranks = "|".join(str(rank % cores) for rank in range(devices))
        return threads | {"VLLM_CPU_OMP_THREADS_BIND": cores_of_ranks}
    # `nobind`: several replicas on one node must not pin themselves to the same cores. With
    # multiprocessing off, the engine core computes in its own process instead of starting a worker
    # that imports vLLM once more (20 s).
    return threads | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def context_length(model: str) -> int:
    """The model's own limit of prompt plus answer, in tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int(getattr(config, "max_position_embeddings", 8192))
