"""What a job decides of DeepSpeed, what it may set freely, and why the rest is refused. Imports no
DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.backends.library_names import (
    fields_of,
    keyword_strings,
    nearest_names,
    package_folder,
)
from engine.job.spec import JobSpec, TrainSpec


def deepspeed_problems(job: JobSpec) -> Iterator[str]:
    """The free `deepspeed` map may not contradict the block, nor name a setting that DeepSpeed
    would ignore without a word."""
    train = job.train
    flat = dict(train.deepspeed)
    zero = flat.pop("zero_optimization", {})
    if not isinstance(zero, dict):
        yield (
            f"train.deepspeed.zero_optimization={zero}; give a map, such as {{overlap_comm: true}}"
        )
        zero = {}
    yield from _offload_problems(zero, train.offload)
    yield from _name_problems(flat, zero)
    if zero.get("overlap_comm") and train.zero_stage < 2:
        yield (
            "train.deepspeed.zero_optimization.overlap_comm wants train.zero_stage: 2 or 3, given"
            f" {train.zero_stage}: below,"
            " DeepSpeed reduces gradients at the end of the step"
        )
    given_type = flat.get("communication_data_type")
    if given_type not in (None, *_COMMUNICATION_TYPES):
        yield (
            f"train.deepspeed.communication_data_type={given_type}; choose one of"
            f" {', '.join(_COMMUNICATION_TYPES)}"
        )
    yield from _zero_name_problems(zero)


def _offload_problems(zero: dict[str, Any], offload: str) -> Iterator[str]:
    for name, place in _places(zero).items():
        if not isinstance(place, dict):
            yield (
                f"train.deepspeed.zero_optimization.{name}={place}; give a map, such as"
                f" {{buffer_count: 5}}, and {_OFFLOAD}"
            )
        elif offload == "none" and not {"device", "nvme_path"} & place.keys():
            yield (
                f"train.deepspeed.zero_optimization.{name} tunes an offload that the job does not"
                f" ask for; {_OFFLOAD}"
            )


def _name_problems(flat: dict[str, Any], zero: dict[str, Any]) -> Iterator[str]:
    names = [*flat, *(f"zero_optimization.{name}" for name in zero)]
    for place_name, place in _places(zero).items():
        if isinstance(place, dict):
            names += [f"zero_optimization.{place_name}.{name}" for name in place]
    for name in names:
        if reason := DEEPSPEED_DECIDED.get(name):
            yield f"train.deepspeed.{name} is decided elsewhere; {reason}"
        elif name in flat and name not in DEEPSPEED_FREE:
            yield (
                f"train.deepspeed.{name}: there is no such setting here;"
                f" {nearest_names(name, [*DEEPSPEED_FREE, *DEEPSPEED_DECIDED])}"
            )


def _zero_name_problems(zero: dict[str, Any]) -> Iterator[str]:
    known = zero_fields() if zero else []
    for name in zero:
        if known and name not in known:
            yield (
                f"train.deepspeed.zero_optimization.{name}: DeepSpeed has no such setting;"
                f" {nearest_names(name, known)}"
            )


def _places(zero: dict[str, Any]) -> dict[str, Any]:
    """Where ZeRO would offload to: what the map says of optimizer and parameters."""
    places = {}
    for name in ("offload_optimizer", "offload_param"):
        if zero.get(name) is not None:
            places[name] = zero[name]
    return places


def zero_fields() -> list[str]:
    """Names that DeepSpeed takes under zero_optimization: its fields and their aliases; empty where
    it is not installed."""
    folder = package_folder("deepspeed")
    if folder is None:
        return []
    file = folder / "runtime/zero/config.py"
    return [*fields_of(file, "DeepSpeedZeroConfig"), *keyword_strings(file, "alias")]


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
    # At stage 0 DeepSpeed clips without telling the norm: we clip ourselves.
    clip_at = spec.max_grad_norm if spec.zero_stage else 0.0
    config: dict[str, Any] = {
        # The loop feeds as many micro-batches as a step has, and step() ends it. 2 only tells
        # ZeRO-2 with offload that gradients accumulate; losses are scaled by the loop's token
        # counts, not by this.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "managed_gradient_accumulation": False,
        "optimizer": {"type": "AdamW", "params": _adam(spec)},
        "gradient_clipping": clip_at,
        "zero_optimization": _zero_optimization(spec, device),
        "bf16": {"enabled": spec.precision == "bf16"},
        "steps_per_print": 10**9,
    }
    if spec.precision == "bf16" and spec.zero_stage >= 2:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(spec.deepspeed, config)


def _adam(spec: TrainSpec) -> dict[str, Any]:
    return {
        "lr": spec.learning_rate,
        "betas": [0.9, spec.adam_beta2],
        "weight_decay": spec.weight_decay,
        "torch_adam": True,
        "fused": True,
    }


def _zero_optimization(spec: TrainSpec, device: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": spec.zero_stage}
    if spec.offload == "none":
        return zero
    place: dict[str, Any] = {"device": spec.offload, "pin_memory": device == "gpu"}
    if spec.offload == "nvme":
        place["nvme_path"] = spec.nvme_path
    zero["offload_optimizer"] = place
    if spec.zero_stage == 3:
        zero["offload_param"] = place
    return zero


def _merged(more: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Both maps, block by block; where both hold a value, that of `config`."""
    merged = more | config
    for name in more.keys() & config.keys():
        if isinstance(config[name], dict):
            merged[name] = _merged(more[name], config[name])
    return merged
