"""The training loop, and the function that each worker runs. Pure torch: it knows engines only by
five methods.

An engine moves the weights: `step` and `validate` take micro-batches and the number of target
tokens of the whole global batch, `save` and `load` exchange named fp32 tensors, `export` gives
whole weights. All are collective calls: each rank makes them in the same order, with equally many
micro-batches. What ranks decide by themselves (a file, a clock) they agree on first.
"""

from __future__ import annotations

import functools
import logging
import math
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import distributed, nn

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
from engine.training.student import Student, load_student, merged_weights
from engine.training.tokenizer import load_tokenizer

_log = logging.getLogger(__name__)
STOP_FILE = "stop"  # in the stage's folder: save and leave after the next step
STOP = 1
PREEMPTED = 2  # the larger one: it wins where ranks say both


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
        device = "cuda" if self.device == "gpu" else "cpu"
        said = torch.tensor(value, dtype=torch.float64, device=device)
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
    # The attempt before this one may have ended early, and died while it exported.
    if _enough(spec, validations):
        start = schedule.steps
    steps = remaining_steps(blocks, schedule, start, rank=rank.number, workers=rank.workers)
    for step in steps:
        shown = _take(engine, step)
        if not (math.isfinite(shown["loss"]) and math.isfinite(shown["grad_norm"])):
            what = f"loss {shown['loss']} and gradient norm {shown['grad_norm']}"
            _leave(_not_finite(what, step, spec), writer, rank)
        more = figures(step, shown["seconds"])
        report(step.number, **shown, **more, blocks=step.blocks.tolist())
        writer.check()
        ended = step.number == schedule.steps
        held_out_loss = None
        if len(held_out) and (ended or step.number % spec.validate_steps == 0):
            held_out_loss = _validate(engine, held_out, rank, spec.batch_size)
            if not math.isfinite(held_out_loss):
                _leave(_not_finite(f"validation loss {held_out_loss}", step, spec), writer, rank)
            report(step.number, validation_loss=held_out_loss)
            validations = validations.seen(held_out_loss)
        ended = ended or _enough(spec, validations)
        request = 0.0
        if not ended:
            # Agreed on, because a notice may reach one node before another.
            request = rank.agree(asked())
        best = spec.export == "best" and held_out_loss is not None and validations.since_least == 0
        if ended or request or best or step.number % spec.checkpoint_steps == 0:
            validations = validations.saved(step.number, held_out_loss)
            writer.wait()  # so that no two copies of the weights are in memory
            writer.save(step.number, engine.save(), validations)
        if request:
            _leave(_as_asked(request, step, schedule), writer, rank)
        if ended:
            break
    _settle(writer, rank)
    return validations


def _take(engine: Engine, step: Step) -> dict[str, float]:
    """One step, and its figures in the order of metrics.jsonl."""
    began = time.perf_counter()
    torch.manual_seed(step.seed)
    loss, accuracy, grad_norm = engine.step(step.batches, step.tokens, step.learning_rate)
    seconds = time.perf_counter() - began
    return {
        "loss": loss,
        "accuracy": accuracy,
        "lr": step.learning_rate,
        "grad_norm": grad_norm,
        "tokens": step.tokens,
        "seconds": seconds,
        "tokens_per_second": step.tokens / seconds,
    }


def _validate(engine: Engine, held_out: Blocks, rank: Rank, batch_size: int) -> float:
    """The validation loss; the same on all ranks, so that they decide alike."""
    numbers = np.arange(len(held_out))
    parts = rank_batches(numbers, rank.number, rank.workers, batch_size)
    batches = (held_out.batch(part) for part in parts)
    tokens = int(held_out.targets.sum())
    loss = engine.validate(batches, tokens)
    return rank.agree(loss)


def _settle(writer: Writer, rank: Rank) -> None:
    """Until the last checkpoint is whole."""
    writer.wait()
    rank.agree(0)  # no rank leaves before rank 0, which waits for all shares, has completed it


def _leave(error: StageError, writer: Writer, rank: Rank) -> NoReturn:
    _settle(writer, rank)
    raise error


def _as_asked(request: float, step: Step, schedule: Schedule) -> StageError:
    saved = f"step {step.number} of {schedule.steps} is saved"
    if request == PREEMPTED:
        return Preempted(f"train: a node goes away; {saved}")
    return Stopped(f"train: stopped as asked; {saved}, and the same command resumes")


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
    newest_step = 0
    number = 0
    if rank.number == 0:
        checkpoints.clear_incomplete(root)
        newest = checkpoints.newest(root)
        newest_step = newest.step if newest else 0
        number = uuid.uuid4().int >> 76  # 52 bits: whole in a float64
    # The others say 0, so the largest word is rank 0's; it alone looks, because folders that nodes
    # share may show them different files.
    step = int(rank.agree(newest_step))
    attempt = int(rank.agree(number))
    if step == 0:
        return None, attempt
    return checkpoints.at_step(root, step), attempt


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
    rank = Rank(rank_number, workers, device)
    root = out / "checkpoints"
    blocks = Blocks(out / "blocks", "train", shard_cache(spec))
    held_out = Blocks(out / "blocks", "validation", shard_cache(spec))
    schedule = Schedule(blocks.shard_sizes, global_batch, seed, spec)
    student = load_student(start_from, spec, device, seed)
    # Both before the engine is there: ZeRO-3 leaves parameters of size 0 behind.
    shapes = _shapes_of_trained(student)
    figures = _use_of_device(student, blocks, spec, device)
    engine = build_engine(spec, student, device=device)
    facts = {"job": out.name, "global_batch": global_batch, "seed": seed}
    newest, attempt = starting_point(root, rank)
    start = 0
    validations = Validations()
    if newest:
        tensors = checkpoints.check_fits(newest, facts, shapes)
        engine.load(tensors, newest.step)
        start = newest.step
        validations = newest.validations
    error = gates.first_loss(engine, student, blocks, spec, workers)
    _log.info(
        "rank %d of %d: attempt %x begins after step %d of %d",
        rank.number,
        workers,
        attempt,
        start,
        schedule.steps,
    )
    writer = Writer(
        root,
        attempt,
        facts | {"workers": workers},
        rank=rank.number,
        workers=workers,
        keep=spec.keep_checkpoints,
        on_step=on_save,
    )
    with _reporting(out, start, spec, rank) as report:
        validations = fit(
            engine,
            blocks,
            held_out,
            schedule,
            writer,
            rank=rank,
            start=start,
            validations=validations,
            asked=functools.partial(_asked, preempted, out / STOP_FILE, rank),
            figures=figures,
            report=report,
        )
    if spec.export == "best":
        _go_back_to_the_best(engine, root, validations)
    _export(engine, start_from, spec, out / "student")
    return {
        "workers": workers,
        "best_step": validations.best_step,
        "best_validation_loss": validations.best_loss,
        "first_loss_error": error,
    }


def _go_back_to_the_best(engine: Engine, root: Path, validations: Validations) -> None:
    if validations.best_step is None:
        return
    best = checkpoints.at_step(root, validations.best_step)
    engine.load(best.load(), best.step)


def _export(engine: Engine, start_from: str, spec: TrainSpec, folder: Path) -> None:
    weights = engine.export()
    if weights is None:  # rank 0 has them
        return
    plain, state = merged_weights(weights, start_from, spec, folder.with_name("adapter"))
    export(plain, state, load_tokenizer(spec), folder)


def _shapes_of_trained(student: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, param in student.named_parameters():
        if param.requires_grad:
            shapes[name] = tuple(param.shape)
    return shapes


def _use_of_device(
    student: Student, blocks: Blocks, spec: TrainSpec, device: str
) -> Callable[[Step, float], dict[str, float]]:
    """What metrics.jsonl says of memory and speed, for `fit`."""
    workload = Workload.of(student.model)
    peak = peak_flops(spec, device)

    def figures(step: Step, seconds: float) -> dict[str, float]:
        use = {"memory_gib": memory_gib(device)}
        if peak:
            targets = int(blocks.targets[step.mine].sum())
            done = workload.flops(blocks.lengths(step.mine), targets)
            use["mfu"] = done / seconds / peak
        return use

    return figures


def _asked(preempted: Callable[[], bool], stop: Path, rank: Rank) -> int:
    """Whether this rank knows of a reason to leave."""
    if preempted():
        return PREEMPTED
    # One rank looks, and tells the others: a file system of many nodes is slow to be asked.
    if rank.number == 0 and stop.exists():
        return STOP
    return 0


@contextmanager
def _reporting(
    out: Path, start: int, spec: TrainSpec, rank: Rank
) -> Generator[Callable[..., None]]:
    """Where `fit` reports to: rank 0 writes it down, the others let it fall."""
    if rank.number != 0:
        yield lambda step, **values: None
        return
    with closing(Metrics(out, start, spec.trackers)) as metrics:
        yield metrics.write
