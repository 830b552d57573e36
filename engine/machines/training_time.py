"""How long training takes: arithmetic at the share of the peak that published runs reached, and
what fits a worker. Formulas: serving sizing B6.9 and B6.11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.job.spec import TrainSpec
from engine.machines.accelerators import Accelerator
from engine.machines.shape import Architecture
from engine.machines.work import Work

# Share of the bf16 peak: published fine-tuning and distillation runs lie between low and high
# (serving sizing B8); benchmarks/gpu_training will say what this trainer reaches.
MFU = (0.08, 0.20, 0.40)
PACKED = 0.93  # of a block that examples fill
START_S = 540.0  # packing, workers, baseline, checkpoints, export: assumed


@dataclass(frozen=True)
class TrainingTime:
    """Seconds of all steps at the typical share of the peak, and the factor either way."""

    seconds: float
    spread: float
    tokens: float


def trained_tokens(spec: TrainSpec, work: Work, answers: float) -> float:
    """Tokens of all epochs that pass the student: whole examples, whatever of them is learnt."""
    return answers * work.kept * (work.prompt_tokens + work.answer_tokens) * spec.epochs


def training_time(
    spec: TrainSpec,
    model: Architecture,
    accelerator: Accelerator,
    work: Work,
    answers: float,
    teacher: Architecture | None = None,
) -> TrainingTime:
    """Of `answers` rows before curate, on the fewest workers."""
    tokens = trained_tokens(spec, work, answers) / PACKED
    flops = tokens * _flops_per_token(spec, model, work.prompt_tokens + work.answer_tokens)
    if teacher:
        flops += tokens * 2e9 * teacher.active_b
    peak = accelerator.bf16_tflops * 1e12
    if spec.precision == "fp32":
        peak /= 2
    low, typical, high = MFU
    seconds = flops / (spec.worker_range[0] * peak * typical)
    return TrainingTime(seconds, math.sqrt(high / low), tokens)


def _flops_per_token(spec: TrainSpec, model: Architecture, length: float) -> float:
    """Forward once, backward twice (once where only adapters learn), and forward again where
    activations are made anew. Attention looks back over half an example on average."""
    passes = 2.0 if spec.lora else 3.0
    if spec.gradient_checkpointing:
        passes += 1
    forward = 2e9 * model.active_b
    attention = model.prefill_flops() * model.cached_positions(length / 2)
    return passes * (forward + attention)


def activations_gb(spec: TrainSpec, model: Architecture) -> float:
    """Activations of one worker in GB: 34 bytes per token, hidden number and layer with flash
    attention; two of each layer and one whole layer where they are made anew; and the logits that
    exist at a time, twice."""
    weight = 2 if spec.precision == "fp32" else 1
    of_layer = spec.batch_size * spec.block_tokens * model.hidden * 34e-9 * weight
    logits = 2 * spec.logits_mib * 2**20 / 1e9
    if spec.gradient_checkpointing:
        return of_layer * (1 + model.layers * 2 / 34) + logits
    return of_layer * model.layers + logits
