"""The training loop, and the function that each worker runs. Pure torch: it knows engines only by
five methods.

An engine moves the weights: `step` and `validate` take micro-batches and the number of target
tokens of the whole global batch, `save` and `load` exchange named fp32 tensors, `export` gives
whole weights. All are collective calls: each rank makes them in the same order, with equally many
micro-batches. What ranks decide by themselves (a file, a clock) they agree on first.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from engine.errors import Preempted, StageError, Stopped
from engine.job.spec import TrainSpec
from engine.rows.ids import derive_seed
from engine.training import checkpoints, gates
from engine.training.blocks import Batch, Blocks, rank_batches, shard_cache
from engine.training.checkpoints import Checkpoint, Validations, Writer
from engine.training.engine import Engine
from engine.training.export import export
from engine.training.flops import Workload, memory_gib, peak_flops
from engine.training.metrics import Metrics
from engine.training.schedule import Schedule
from engine.training.student import load_student, load_tokenizer, merged_weights

_log = logging.getLogger(__name__)
STOP_FILE = "stop"  # in the stage's folder: save and leave after the next step
STOP, PREEMPTED = 1, 2


@dataclass(frozen=True)
class Rank:
    """Which of the workers this is."""

    number: int = 0
    workers: int = 1
    device: str = "cpu"

    def agree(self, value: float) -> float:
        """The largest of what the ranks say. Collective, so no rank leaves it before all have
        come."""
        if not distributed.is_initialized():
            return value
        said = torch.tensor(
            value, dtype=torch.float64, device="cuda" if self.device == "gpu" else "cpu"
        )
        distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
        return float(said)


@dataclass(frozen=True)
class Step:
    """One optimizer step of one rank; `number` counts from 1. `blocks` are those of all ranks,
    `mine` those of this one."""

    number: int
    blocks: np.ndarray
    mine: np.ndarray
    batches: Iterable[Batch]
    tokens: int
    learning_rate: float
    seed: int


def remaining_steps(
    blocks: Blocks, schedule: Schedule, start: int, *, rank: int, workers: int
) -> Iterator[Step]:
    """The steps after the first `start`, as one rank sees them."""
    for at in range(start, schedule.steps):
        numbers = schedule.block_numbers(at)
        yield Step(
            number=at + 1,
            blocks=numbers,
            mine=numbers[rank::workers],
            tokens=int(blocks.targets[numbers].sum()),
            learning_rate=schedule.learning_rate(at),
            seed=derive_seed(schedule.seed, "step", at, rank),  # ranks drop out different units
            batches=(
                blocks.batch(mine)
                for mine in rank_batches(numbers, rank, workers, schedule.spec.batch_size)
            ),
        )


def fit(
    engine: Engine,
    blocks: Blocks,
    held_out: Blocks,
    schedule: Schedule,
    writer: Writer,
    *,
    rank: Rank,
    start: int,
    validations: Validations,
    report: Callable[..., None],
    asked: Callable[[], int],
    figures: Callable[[Step, float], Mapping[str, float]] = lambda step, seconds: {},
) -> Validations:
    """Take the steps after `start`, with validations and saves between; returns what the
    validations have shown at the end.

    After each step come `report(step, loss=…, …)`, with `figures(step, seconds)`, and the question
    `asked()`: for STOP or PREEMPTED all ranks save, wait until the checkpoint is whole, and raise
    StageError or Preempted. StageError, too, for a loss or gradient that is not finite: its weights
    are never saved.
    """
    spec = schedule.spec

    def leave(error: StageError) -> None:
        writer.wait()
        rank.agree(0)  # rank 0 has completed the last checkpoint
        raise error

    if _enough(spec, validations):
        start = schedule.steps
    for step in remaining_steps(blocks, schedule, start, rank=rank.number, workers=rank.workers):
        began = time.perf_counter()
        torch.manual_seed(step.seed)
        loss, accuracy, grad_norm = engine.step(step.batches, step.tokens, step.learning_rate)
        seconds = time.perf_counter() - began
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            leave(_not_finite(f"loss {loss} and gradient norm {grad_norm}", step, spec))
        report(
            step.number,
            loss=loss,
            accuracy=accuracy,
            lr=step.learning_rate,
            grad_norm=grad_norm,
            tokens=step.tokens,
            seconds=seconds,
            tokens_per_second=step.tokens / seconds,
            **figures(step, seconds),
            blocks=step.blocks.tolist(),
        )
        writer.check()
        ended, held_out_loss = step.number == schedule.steps, None
        if len(held_out) and (ended or step.number % spec.validate_steps == 0):
            parts = rank_batches(
                np.arange(len(held_out)), rank.number, rank.workers, spec.batch_size
            )
            held_out_loss = rank.agree(
                engine.validate(
                    (held_out.batch(part) for part in parts), int(held_out.targets.sum())
                )
            )
            if not math.isfinite(held_out_loss):
                leave(_not_finite(f"validation loss {held_out_loss}", step, spec))
            report(step.number, validation_loss=held_out_loss)
            validations = validations.seen(held_out_loss)
        ended = ended or _enough(spec, validations)
        request = 0 if ended else rank.agree(asked())
        best = spec.export == "best" and held_out_loss is not None and validations.since_least == 0
        if ended or request or best or step.number % spec.checkpoint_steps == 0:
            validations = validations.saved(step.number, held_out_loss)
            writer.wait()  # so that no two copies of the weights are in memory
            writer.save(step.number, engine.save(), validations)
        if request:
            saved = f"step {step.number} of {schedule.steps} is saved"
            leave(
                Preempted(f"train: a node goes away; {saved}")
                if request == PREEMPTED
                else Stopped(f"train: stopped as asked; {saved}, and the same command resumes")
            )
        if ended:
            break
    writer.wait()
    rank.agree(0)
    return validations


def _enough(spec: TrainSpec, validations: Validations) -> bool:
    return bool(spec.early_stopping) and validations.since_least >= spec.early_stopping


def _not_finite(what: str, step: Step, spec: TrainSpec) -> StageError:
    return StageError(
        f"train: step {step.number} gives {what}; the last checkpoint before it is kept. Lower"
        " train.learning_rate (now"
        f" {step.learning_rate:g} at this step) or train.max_grad_norm (now"
        f" {spec.max_grad_norm:g}), or give more train.warmup_ratio"
    )


def starting_point(root: Path, rank: Rank) -> tuple[Checkpoint | None, int]:
    """The checkpoint from which all ranks go on (rank 0's choice), and the number of this attempt.
    Collective.

    What earlier attempts left incomplete is removed.
    """
    newest = None
    if rank.number == 0:
        checkpoints.clear_incomplete(root)
        newest = checkpoints.newest(root)
    step = int(rank.agree(newest.step if newest else 0))
    attempt = int(
        rank.agree(uuid.uuid4().int >> 76 if rank.number == 0 else 0)
    )  # 52 bits: whole in a float64
    return (checkpoints.at_step(root, step) if step else None), attempt


def train_worker(
    rank_number: int,
    workers: int,
    preempted: Callable[[], bool],
    *,
    spec: TrainSpec,
    out: Path,
    start_from: str,
    seed: int,
    device: str,
    global_batch: int,
    build_engine: Callable[..., Engine],
    on_save: Callable[[str, int], None] = lambda place, step: None,
) -> dict[str, Any]:
    """Train from the newest checkpoint to the end and export; run by each of `workers` ranks.
    Returns facts for the manifest.

    `start_from` is the folder or hub name of the weights that a first start takes; `preempted()`
    tells that a node of the run is about to be taken away; `on_save` is Writer's `on_step`.
    """
    rank, root = Rank(rank_number, workers, device), out / "checkpoints"
    blocks, held_out = (
        Blocks(out / "blocks", split, shard_cache(spec)) for split in ("train", "validation")
    )
    schedule = Schedule(blocks.shard_sizes, global_batch, seed, spec)
    student = load_student(start_from, spec, device, seed)
    shapes = {
        name: tuple(param.shape)
        for name, param in student.named_parameters()
        if param.requires_grad
    }
    workload, peak = Workload.of(student.model), peak_flops(spec, device)
    engine = build_engine(spec, student, device=device)
    facts = {"job": out.name, "global_batch": global_batch, "seed": seed}
    newest, attempt = starting_point(root, rank)
    start, validations = 0, Validations()
    if newest:
        engine.load(checkpoints.check_fits(newest, facts, shapes), newest.step)
        start, validations = newest.step, newest.validations
    error = gates.first_loss(engine, student, blocks, spec, workers)
    _log.info(
        "rank %d of %d: attempt %x begins after step %d of %d",
        rank.number,
        workers,
        attempt,
        start,
        schedule.steps,
    )
    metrics = Metrics(out, start, spec.trackers) if rank.number == 0 else None

    def asked() -> int:
        stop = rank.number == 0 and (out / STOP_FILE).exists()
        return PREEMPTED if preempted() else STOP if stop else 0

    def figures(step: Step, seconds: float) -> dict[str, float]:
        done = (
            workload.flops(blocks.lengths(step.mine), int(blocks.targets[step.mine].sum()))
            if peak
            else 0
        )
        return {"memory_gib": memory_gib(device)} | ({"mfu": done / seconds / peak} if peak else {})

    writer = Writer(
        root,
        attempt,
        facts | {"workers": workers},
        rank=rank.number,
        workers=workers,
        keep=spec.keep_checkpoints,
        on_step=on_save,
    )
    try:
        validations = fit(
            engine,
            blocks,
            held_out,
            schedule,
            writer,
            rank=rank,
            start=start,
            validations=validations,
            asked=asked,
            figures=figures,
            report=metrics.write if metrics else lambda step, **values: None,
        )
    finally:
        if metrics:
            metrics.close()
    if spec.export == "best" and validations.best_step is not None:
        best = checkpoints.at_step(root, validations.best_step)
        engine.load(best.load(), best.step)
    weights = engine.export()
    if weights is not None:
        export(*merged_weights(weights, start_from, spec), load_tokenizer(spec), out / "student")
    return {
        "workers": workers,
        "best_step": validations.best_step,
        "best_validation_loss": validations.best_loss,
        "first_loss_error": error,
    }
