"""How the student trains in a rehearsal: by the job's loss, adapters, schedule and ZeRO stage, on a
few short blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.job.spec import Block, JobSpec, LiveTeacherSpec
from engine.rehearsal.ground import Ground, changed

# What a random teacher cannot keep, and a small machine need not do at length.
_GATES = {"rescored_examples": 2, "min_captured_mass": 0.0, "max_drift": 1.0}


def little_training(job: JobSpec, ground: Ground) -> Block:
    """The block `train`: at most two workers, nothing elsewhere than in memory."""
    train = job.train
    models = ground.models
    student = models.model(
        train.student,
        train.revision,
        speaks=train.tokenizer,
        layers=_last_layer(job, 0),
    )
    tokenizer = None
    if train.tokenizer:
        tokenizer = models.tokenizer(train.tokenizer)
    gates = changed(train.gates, _GATES)
    changes: dict[str, Any] = {
        "student": student,
        "revision": None,
        "tokenizer": tokenizer,
        "teacher": _live_teacher(job, ground),
        "epochs": min(2, train.epochs),
        "block_tokens": ground.shorter(train.block_tokens),
        "global_batch": None,
        "batch_size": 1,
        "accumulation": min(2, train.accumulation),
        "workers": min(2, train.worker_range[1]),
        "elastic": None,
        "offload": "none",
        "nvme_path": None,
        "deepspeed": _without_offload(train.deepspeed),
        "attention": "eager" if train.attention == "eager" else "auto",
        "cache_dir": None,
        "gates": gates,
    }
    if train.lora and train.lora.quantize != "none":
        changes["lora"] = changed(train.lora, {"quantize": "none"})
    return changed(train, changes)


def _live_teacher(job: JobSpec, ground: Ground) -> LiveTeacherSpec | None:
    """It reads the student's tokens."""
    teacher = job.train.teacher
    if teacher is None:
        return None
    layers = _last_layer(job, 1)
    model = ground.models.model(teacher.model, teacher.revision, layers=layers)
    return changed(teacher, {"model": model, "revision": None})


def _last_layer(job: JobSpec, whose: int) -> int:
    """Of those that the job matches: of the student (0), of the live teacher (1); 0 without any."""
    last = 0
    for block in (job.train.hidden, job.train.attention_transfer):
        if block:
            layers = [pair[whose] for pair in block.layers]
            last = max(last, *layers)
    return last


def _without_offload(settings: Mapping[str, Any]) -> dict[str, Any]:
    zero = settings.get("zero_optimization")
    if not isinstance(zero, dict):
        return dict(settings)
    kept = dict(zero)
    for name in zero:
        if name.startswith("offload_"):
            del kept[name]
    return {**settings, "zero_optimization": kept}
