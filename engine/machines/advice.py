"""What would be better than the layout that a job has, and what of it may go wrong: sentences for a
plan.

Only placement is advised: nothing that changes an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.machines.better import (
    FEW_SEQUENCES,
    Option,
    fewer_replicas,
    is_roomy,
    laid_out,
    options,
)
from engine.machines.ground import Ground
from engine.machines.replica import Load, Replica, Split
from engine.machines.serving import vllm_choice

WORTH = 1.15  # a change that makes a stage faster by less is not told
WORTH_USD = 2.0  # nor is one that saves less


def fields_of(split: Split) -> str:
    """A split as a job says it."""
    told = [f"tensor_parallel: {split.tensor}"]
    if split.pipeline > 1:
        told.append(f"pipeline_parallel: {split.pipeline}")
    if split.data > 1:
        told += [f"data_parallel: {split.data}", "expert_parallel: true"]
    return ", ".join(told)


def changes(
    replica: Replica,
    load: Load,
    replicas: int,
    start_s: float,
    ground: Ground,
    *,
    max_num_seqs: int | None,
) -> Iterator[str]:
    """Changes that are worth it; `max_num_seqs` is what the job says. All are compared by
    prediction: a measured factor is of one layout."""
    now = laid_out(replica, load, replicas, start_s)
    if max_num_seqs and now.rate.limit == "max_num_seqs":
        sequences, _ = vllm_choice(replica.accelerator)
        numbers = replace(replica.numbers, max_num_seqs=max(sequences, max_num_seqs))
        freed = laid_out(replace(replica, numbers=numbers), load, now.replicas, start_s)
        if now.hours > WORTH * freed.hours:
            yield (
                f"without max_num_seqs: {max_num_seqs}, which holds it back:"
                f" {freed.hours:.2f} h in place of {now.hours:.2f}"
            )
    best = options(replica, load, now.devices, start_s, ground.node(replica.accelerator))[0]
    if now.hours > WORTH * best.hours:
        yield (
            f"replicas: {best.replicas}, {fields_of(best.split)}: {best.hours:.2f} h in place of"
            f" {now.hours:.2f} on as many GPUs"
        )
    yield from saving(replica, load, now, start_s, ground)


def saving(
    replica: Replica, load: Load, now: Option, start_s: float, ground: Ground
) -> Iterator[str]:
    """Fewer replicas, where starting them takes much of the time, and what that saves."""
    fewer = fewer_replicas(replica, load, now, start_s)
    if fewer is None:
        return
    spared = now.hours * now.devices - fewer.hours * fewer.devices
    saved = ground.usd(replica.accelerator, spared)
    if saved and saved >= WORTH_USD:
        yield (
            f"replicas: {fewer.replicas} costs ${saved:,.0f} less and takes {fewer.hours:.2f} h"
            f" in place of {now.hours:.2f}: {start_s / 3600 / now.hours:.0%} of it goes into"
            " starting"
        )


def warnings(found: Option, load: Load, replica: Replica) -> Iterator[str]:
    """What may go wrong with a layout that runs."""
    if found.rate.limit == "memory" and not is_roomy(found.rate):
        yield (
            f"only {found.rate.sequences} sequences of {load.input_tokens:,.0f} +"
            f" {load.output_tokens:,.0f} tokens fit by memory ({replica.free_gb:,.0f} GB a device"
            f" for caches), fewer than {FEW_SEQUENCES}: long rows may run out of it. More devices"
            " a replica, or kv_cache_dtype: fp8"
        )
