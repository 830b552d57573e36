"""The training loop, and the function that each worker runs. Pure torch: it knows engines only by five methods.

An engine moves the weights: `step` and `validate` take micro-batches and the number of target tokens of the whole global
batch, `save` and `load` exchange named fp32 tensors, `export` gives whole weights. All are collective calls: each rank makes
them in the same order, with equally many micro-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from engine.errors import StageError
from engine.records import derive_seed
from engine.spec import TrainSpec
from engine.stages.train import checkpoints
from engine.stages.train.metrics import Metrics
from engine.stages.train.packing import Batch, Blocks, rank_batches
from engine.stages.train.schedule import Schedule
from engine.stages.train.student import export, load_student, load_tokenizer, merged_weights


class Engine(Protocol):
    """What the loop needs of DeepSpeed, and of the doubles in tests."""

    def step(self, batches: Iterable[Batch], tokens: int, learning_rate: float) -> tuple[float, float, float]:
        """One optimizer step over `tokens` targets of all ranks: mean loss, token accuracy, and the gradients' norm before clipping."""

    def validate(self, batches: Iterable[Batch], tokens: int) -> float:
        """Mean loss over `tokens`, without a gradient."""

    def save(self) -> dict[str, torch.Tensor]:
        """This rank's share of weight/…, exp_avg/… and exp_avg_sq/…: fp32, whole tensors, by parameter name."""

    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from these tensors as after `step` steps."""

    def export(self) -> dict[str, torch.Tensor] | None:
        """What was trained, by the Student's parameter names in their compute type, on rank 0; None elsewhere."""


@dataclass(frozen=True)
class Step:
    """One optimizer step of one rank; `number` counts from 1."""

    number: int
    batches: Iterable[Batch]
    tokens: int
    learning_rate: float
    seed: int


def fit(engine: Engine, steps: Iterable[Step], report: Callable[..., None], after_step: Callable[[int], None]) -> None:
    """Take every step; after each, `report(step, loss=…, …)` and then `after_step(step)`."""
    for step in steps:
        began = time.perf_counter()
        torch.manual_seed(step.seed)
        loss, accuracy, grad_norm = engine.step(step.batches, step.tokens, step.learning_rate)
        if not math.isfinite(loss):
            raise StageError(
                f"train: the loss of step {step.number} is {loss}; lower train.learning_rate (now {step.learning_rate:g}) or"
                " train.max_grad_norm"
            )
        report(
            step.number, loss=loss, accuracy=accuracy, lr=step.learning_rate, grad_norm=grad_norm, tokens=step.tokens,
            seconds=time.perf_counter() - began,
        )
        after_step(step.number)


def remaining_steps(blocks: Blocks, schedule: Schedule, start: int, *, rank: int, workers: int) -> Iterator[Step]:
    """The steps after the first `start`, as one rank sees them."""
    for at in range(start, schedule.steps):
        numbers = schedule.block_numbers(at)
        yield Step(
            number=at + 1, tokens=int(blocks.targets[numbers].sum()), learning_rate=schedule.learning_rate(at),
            batches=(blocks.batch(mine) for mine in rank_batches(numbers, rank, workers, schedule.spec.batch_size)),
            seed=derive_seed(schedule.seed, "step", at),
        )


def train_worker(
    rank: int, workers: int, *, spec: TrainSpec, out: Path, start_from: str, seed: int, device: str, global_batch: int,
    build_engine: Callable[..., Engine],
) -> None:
    """Train from the newest checkpoint to the end and export; run by each of `workers` ranks.

    `start_from` is the folder or hub name of the weights that a first start takes.
    """
    blocks = Blocks(out / "blocks", "train")
    held_out = Blocks(out / "blocks", "validation")
    schedule = Schedule(len(blocks), global_batch, seed, spec)
    engine = build_engine(spec, load_student(start_from, spec, device), device=device)
    latest = checkpoints.newest(out / "checkpoints")
    start = latest.step if latest else 0
    if latest:
        engine.load(checkpoints.load(latest), start)
    metrics = Metrics(out, start) if rank == 0 else None
    report = metrics.write if metrics else lambda step, **values: None

    def validate_and_save(step: int) -> None:
        last = step == schedule.steps
        if len(held_out) and (last or step % spec.validate_steps == 0):
            mine = rank_batches(np.arange(len(held_out)), rank, workers, spec.batch_size)
            loss = engine.validate((held_out.batch(numbers) for numbers in mine), int(held_out.targets.sum()))
            report(step, validation_loss=loss)
        if last or step % spec.checkpoint_steps == 0:
            facts = {"global_batch": global_batch, "seed": seed, "workers": workers}
            checkpoints.save(
                out / "checkpoints", step, engine.save(), facts, rank=rank, workers=workers, keep=spec.keep_checkpoints
            )

    steps = remaining_steps(blocks, schedule, start, rank=rank, workers=workers)
    fit(engine, steps, report, validate_and_save)
    weights = engine.export()
    if metrics and weights is not None:
        metrics.close()
        export(*merged_weights(weights, start_from, spec), load_tokenizer(spec), out / "student")
