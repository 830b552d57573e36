"""What a job decides of DeepSpeed, what it may set freely, and why the rest is refused. Imports no
DeepSpeed."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.backends.library_names import fields_of, nearest_names, syntax_tree
from engine.job.spec import JobSpec, TrainSpec


def deepspeed_problems(job: JobSpec) -> Iterator[str]:
    """The free `deepspeed` map may not contradict the block, nor name a setting that DeepSpeed
    would ignore without a word."""
    given = job.train.deepspeed
    flat = {key: value for key, value in given.items() if key != "zero_optimization"}
    zero = given.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield (
            f"train.deepspeed.zero_optimization={zero}; give a map, such as {{overlap_comm: true}}"
        )
        zero = {}
    places = {
        name: zero[name]
        for name in ("offload_optimizer", "offload_param")
        if zero.get(name) is not None
    }
    for name, value in places.items():
        if not isinstance(value, dict):
            yield (
                f"train.deepspeed.zero_optimization.{name}={value}; give a map, such as"
                f" {{buffer_count: 5}}, and {_OFFLOAD}"
            )
        elif job.train.offload == "none" and not {"device", "nvme_path"} & value.keys():
            yield (
                f"train.deepspeed.zero_optimization.{name} tunes an offload that the job does not"
                f" ask for; {_OFFLOAD}"
            )
    offload = [
        f"{name}.{key}"
        for name, value in places.items()
        if isinstance(value, dict)
        for key in value
    ]
    for key in [*flat, *(f"zero_optimization.{name}" for name in [*zero, *offload])]:
        if reason := DEEPSPEED_DECIDED.get(key):
            yield f"train.deepspeed.{key} is decided elsewhere; {reason}"
        elif key in flat and key not in DEEPSPEED_FREE:
            yield (
                f"train.deepspeed.{key}: there is no such setting here;"
                f" {nearest_names(key, [*DEEPSPEED_FREE, *DEEPSPEED_DECIDED])}"
            )
    if zero.get("overlap_comm") and job.train.zero_stage < 2:
        yield (
            "train.deepspeed.zero_optimization.overlap_comm wants train.zero_stage: 2 or 3, given"
            f" {job.train.zero_stage}: below,"
            " DeepSpeed reduces gradients at the end of the step"
        )
    if (given_type := flat.get("communication_data_type")) not in (None, *_COMMUNICATION_TYPES):
        yield (
            f"train.deepspeed.communication_data_type={given_type}; choose one of"
            f" {', '.join(_COMMUNICATION_TYPES)}"
        )
    known = zero_fields() if zero else []
    for key in zero.keys() - set(known) if known else ():
        yield (
            f"train.deepspeed.zero_optimization.{key}: DeepSpeed has no such setting;"
            f" {nearest_names(key, known)}"
        )


def zero_fields() -> list[str]:
    """Names that DeepSpeed takes under zero_optimization: its fields and their aliases; empty where
    it is not installed."""
    if (
        found := importlib.util.find_spec("deepspeed")
    ) is None:  # finds the folder, imports nothing
        return []
    file = Path(found.submodule_search_locations[0]) / "runtime/zero/config.py"
    aliases = [
        node.value.value
        for node in ast.walk(syntax_tree(file))
        if isinstance(node, ast.keyword) and node.arg == "alias"
    ]
    return [*fields_of(file, "DeepSpeedZeroConfig"), *aliases]


_OPTIMIZER = "the optimizer is torch's AdamW: set train.learning_rate, weight_decay and adam_beta2"
_OFFLOAD = "set train.offload and train.nvme_path"
_COMMUNICATION_TYPES = ("fp16", "bf16", "bfp16", "fp32")
DEEPSPEED_DECIDED = {
    "optimizer": _OPTIMIZER,
    "zero_allow_untested_optimizer": _OPTIMIZER,
    "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "scheduler": "set train.schedule, warmup_ratio and min_learning_rate_ratio",
    "gradient_clipping": "set train.max_grad_norm",
    **dict.fromkeys(
        ("train_batch_size", "gradient_accumulation_steps", "managed_gradient_accumulation"),
        "set train.global_batch, or batch_size and accumulation",
    ),
    "train_micro_batch_size_per_gpu": "set train.batch_size",
    **dict.fromkeys(("bf16", "fp16", "torch_autocast", "data_types"), "set train.precision"),
    **dict.fromkeys(
        ("gradient_allreduce_op", "gradient_predivide_factor", "prescale_gradients"),
        "losses are averaged over the target tokens of the global batch",
    ),
    "activation_checkpointing": "set train.gradient_checkpointing",
    "elasticity": "set train.elastic",
    "checkpoint": "set train.checkpoint_steps and keep_checkpoints",
    "tensorboard": "set train.trackers",
    "wandb": "set train.trackers",
    "steps_per_print": "progress and metrics.jsonl have every step",
    "zero_optimization.stage": "set train.zero_stage",
    "zero_optimization.compute_grad_norm": "clipping and metrics.jsonl want the norm",
    **{
        f"zero_optimization.{name}.{key}": _OFFLOAD
        for name in ("offload_optimizer", "offload_param")
        for key in ("device", "nvme_path")
    },
    **dict.fromkeys(
        ("zero_optimization.cpu_offload", "zero_optimization.cpu_offload_param"), _OFFLOAD
    ),
}
DEEPSPEED_FREE = (
    "aio",
    "comms_logger",
    "communication_data_type",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "timers",
    "wall_clock_breakdown",
    "zero_optimization",
)
REDUCE_BUCKET = 500_000_000  # elements, DeepSpeed's default


def zero_config(spec: TrainSpec, device: str) -> dict[str, Any]:
    """DeepSpeed's configuration of a TrainSpec; `spec.deepspeed` adds to it and, where both speak,
    gives way."""
    zero: dict[str, Any] = {"stage": spec.zero_stage}
    if spec.offload != "none":
        place: dict[str, Any] = {"device": spec.offload, "pin_memory": device == "gpu"}
        if spec.offload == "nvme":
            place["nvme_path"] = spec.nvme_path
        zero["offload_optimizer"] = place
        if spec.zero_stage == 3:
            zero["offload_param"] = place
    adam = {
        "lr": spec.learning_rate,
        "betas": [0.9, spec.adam_beta2],
        "weight_decay": spec.weight_decay,
    }
    adam |= {"torch_adam": True, "fused": True}
    config = {
        # The loop feeds as many micro-batches as a step has, and step() ends it. 2 only tells
        # ZeRO-2 with offload that gradients accumulate; losses are scaled by the loop's token
        # counts, not by this.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "managed_gradient_accumulation": False,
        "optimizer": {"type": "AdamW", "params": adam},
        # At stage 0 DeepSpeed clips without telling the norm: we clip ourselves.
        "gradient_clipping": spec.max_grad_norm if spec.zero_stage else 0.0,
        "zero_optimization": zero,
        "bf16": {"enabled": spec.precision == "bf16"},
        "steps_per_print": 10**9,
    }
    if spec.precision == "bf16" and spec.zero_stage >= 2:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(spec.deepspeed, config)


def _merged(more: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    merged = more | config
    return merged | {
        key: _merged(more[key], config[key])
        for key in more.keys() & config.keys()
        if isinstance(config[key], dict)
    }
