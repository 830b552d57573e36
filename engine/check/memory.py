"""What cannot fit: weights that are larger than the devices which a layout gives them."""

from __future__ import annotations

from collections.abc import Iterator

from engine.job.spec import EngineSpec
from engine.machines.accelerators import ACCELERATORS
from engine.machines.advice import fields_of
from engine.machines.better import nearest_fit
from engine.machines.serving import replica_of, split_of
from engine.machines.shape import Architecture

_ELSEWHERE = ("cpu_offload_gb", "kv_offloading_size")  # engine arguments that put weights elsewhere


def memory_problems(
    field: str, shape: Architecture | None, engine: EngineSpec, device: str
) -> Iterator[str]:
    """Weights beyond the memory of the accelerator that the job names, with the nearest layout that
    holds them; nothing where model or accelerator are not known."""
    accelerator = ACCELERATORS.get(engine.accelerator_type or "")
    if device == "cpu" or shape is None or accelerator is None:
        return
    if any(name in engine.engine_args for name in _ELSEWHERE):
        return
    replica = replica_of(engine, shape, accelerator, split_of(engine))
    if replica.free_gb > 0:
        return
    fitting = nearest_fit(replica)
    remedy = "choose another accelerator, or a smaller model"
    if fitting:
        remedy = f"set {fields_of(fitting)}"
    yield (
        f"{field}: {replica.weights_gb:,.0f} GB of weights a device do not fit"
        f" {accelerator.name}, which has room for {replica.room_gb:,.0f}; {remedy}"
    )
