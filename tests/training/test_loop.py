"""The loop on the fake engine: order, saves, resumes, and what ends it."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.fake_trainer import FakeEngine
from torch import distributed

from engine.errors import Preempted, StageError, Stopped
from engine.job.spec import TrainSpec
from engine.training import checkpoints
from engine.training.blocks import Blocks
from engine.training.checkpoints import Validations, Writer
from engine.training.data import TokenSequence
from engine.training.loop import PREEMPTED, STOP, Rank, fit, starting_point
from engine.training.metrics import Metrics, load_metrics
from engine.training.packing import write_blocks
from engine.training.schedule import Schedule

STEPS = 16


def make_spec(**more: Any) -> TrainSpec:
    return TrainSpec(
        **{
            "student": "x",
            "epochs": 2,
            "learning_rate": 1.0,
            "checkpoint_steps": 2,
            "validate_steps": 4,
        }
        | more
    )


class Killed(BaseException):
    """The death of a process, at a place in its save."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Packed blocks: 30 to train on, so 8 steps of 4 per epoch, and 3 to validate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 3)):
        rows = [
            TokenSequence(rng.integers(0, 48, 12, dtype=np.int32), np.arange(12) >= 6)
            for _ in range(count)
        ]
        write_blocks(rows, tmp_path / "blocks", split, room=16, seed=0)
    return tmp_path


def train(
    engine: FakeEngine,
    folder: Path,
    out: str = "out",
    *,
    spec: TrainSpec | None = None,
    asked: Callable[[], int] = lambda: 0,
    on_save: Callable[[str, int], None] = lambda place, step: None,
) -> Validations:
    """What train_worker does with an engine, from the newest checkpoint under `out` on."""
    spec = spec or make_spec()
    blocks, held_out = (Blocks(folder / "blocks", split) for split in ("train", "validation"))
    out_folder = folder / out
    out_folder.mkdir(exist_ok=True)
    newest, attempt = starting_point(out_folder / "checkpoints", Rank())
    start, validations = 0, Validations()
    if newest:
        engine.load(newest.load(), newest.step)
        start, validations = newest.step, newest.validations
    metrics = Metrics(out_folder, start)
    writer = Writer(
        out_folder / "checkpoints",
        attempt,
        {},
        rank=0,
        workers=1,
        keep=spec.keep_checkpoints,
        on_step=on_save,
    )
    try:
        return fit(
            engine,
            blocks,
            held_out,
            Schedule(blocks.shard_sizes, 4, 1, spec),
            writer,
            rank=Rank(),
            start=start,
            validations=validations,
            report=metrics.write,
            asked=asked,
        )
    finally:
        with suppress(Killed):
            writer.wait()
        metrics.close()


def saved(folder: Path, out: str = "out") -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints.complete(folder / out / "checkpoints")]


def lines(folder: Path, key: str = "loss", out: str = "out") -> list[dict[str, Any]]:
    return [line for line in load_metrics(folder / out / "metrics.jsonl") if key in line]


def test_each_step_leaves_a_line_with_its_figures(folder: Path) -> None:
    train(FakeEngine(), folder)
    seen = lines(folder)
    assert [line["step"] for line in seen] == list(range(1, STEPS + 1))
    assert sum(line["tokens"] for line in seen) == 2 * 30 * 6
    assert all(line["tokens_per_second"] == line["tokens"] / line["seconds"] for line in seen)
    assert [line["step"] for line in lines(folder, "validation_loss")] == [4, 8, 12, 16]


def test_a_death_and_a_resume_end_where_one_run_ends(folder: Path) -> None:
    whole = FakeEngine()
    train(whole, folder, "whole")
    with pytest.raises(RuntimeError, match="died at step 8"):
        train(FakeEngine(die_at_step=8), folder)
    assert saved(folder) == [4, 6]
    again = FakeEngine()
    train(again, folder)
    assert again.weight == whole.weight
    assert again.learning_rates == whole.learning_rates[6:]


@pytest.mark.parametrize("seed", range(8))
def test_ten_deaths_anywhere_change_no_bit_and_every_block_is_seen_once_per_epoch(
    seed: int, folder: Path
) -> None:
    whole = FakeEngine()
    train(whole, folder, "whole")
    chance = random.Random(seed)
    for _ in range(10):
        place, at = (
            chance.choice(["before_share", "mid_share", "before_marker", "after_marker"]),
            2 * chance.randint(1, 8),
        )

        def kill(now: str, step: int, place: str = place, at: int = at) -> None:
            if (now, step) == (place, at):
                raise Killed

        die_at_step = chance.choice([None, chance.randint(1, STEPS)])
        try:
            train(FakeEngine(die_at_step=die_at_step), folder, on_save=kill)
        except (RuntimeError, Killed):
            continue
    last = FakeEngine()
    train(last, folder)
    assert last.weight == whole.weight
    assert last.steps == STEPS
    seen = [line["blocks"] for line in lines(folder)]
    assert seen == [line["blocks"] for line in lines(folder, out="whole")]
    for epoch in (seen[:8], seen[8:]):
        assert Counter(block for blocks in epoch for block in blocks) == dict.fromkeys(range(30), 1)


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)]
)
def test_what_is_not_finite_ends_training_and_the_checkpoint_before_it_is_kept(
    loss: float, norm: float, folder: Path
) -> None:
    with pytest.raises(
        StageError,
        match=rf"step 6 gives loss {loss} and gradient norm {norm}; .*is kept\. Lower"
        rf" train\.learning_rate",
    ):
        train(FakeEngine(wrong_at_step=(6, loss, norm)), folder)
    assert saved(folder) == [2, 4]
    assert lines(folder)[-1]["step"] == 5


def test_a_validation_loss_that_is_not_finite_is_never_saved(folder: Path) -> None:
    with pytest.raises(StageError, match="step 4 gives validation loss nan"):
        train(FakeEngine(validation_losses={4: math.nan}), folder)
    assert saved(folder) == [2]


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (STOP, Stopped, r"stopped as asked; step 5 of 16 is saved, and the same command resumes"),
        (PREEMPTED, Preempted, r"a node goes away; step 5 of 16 is saved"),
    ],
)
def test_a_request_saves_first_and_the_resume_loses_no_step(
    request_: int, error: type[StageError], message: str, folder: Path
) -> None:
    whole, engine = FakeEngine(), FakeEngine()
    train(whole, folder, "whole")
    with pytest.raises(error, match=message) as raised:
        train(engine, folder, asked=lambda: request_ if engine.steps == 5 else 0)
    assert type(raised.value) is error
    assert saved(folder)[-1] == 5
    again = FakeEngine()
    train(again, folder)
    assert again.weight == whole.weight
    assert len(again.learning_rates) == STEPS - 5


LOSSES = {4: 3.0, 8: 2.0, 12: 2.5, 16: 2.2}


def test_early_stopping_ends_after_validations_without_a_new_least_loss(folder: Path) -> None:
    engine = FakeEngine(validation_losses=LOSSES)
    ended = train(engine, folder, spec=make_spec(early_stopping=1))
    assert (engine.steps, ended.best_step, ended.best_loss, ended.since_least) == (12, 8, 2.0, 1)
    assert saved(folder) == [8, 10, 12]
    again = FakeEngine(validation_losses=LOSSES)
    assert train(again, folder, spec=make_spec(early_stopping=1)) == ended
    assert again.learning_rates == []


def test_a_resume_remembers_the_validations_before_it(folder: Path) -> None:
    spec = make_spec(early_stopping=2)
    with pytest.raises(RuntimeError):
        train(FakeEngine(validation_losses=LOSSES, die_at_step=15), folder, spec=spec)
    ended = train(FakeEngine(validation_losses=LOSSES), folder, spec=spec)
    assert (ended.best_step, ended.since_least) == (8, 2)


@pytest.mark.parametrize(("export", "kept", "best"), [("best", [9, 16], 9), ("last", [16], 16)])
def test_a_new_least_loss_is_saved_at_once_if_the_best_is_exported(
    export: str, kept: list[int], best: int, folder: Path
) -> None:
    spec = make_spec(export=export, validate_steps=3, checkpoint_steps=100, keep_checkpoints=1)
    ended = train(
        FakeEngine(validation_losses={3: 4.0, 6: 3.0, 9: 1.0, 12: 2.0, 15: 2.0, 16: 2.0}),
        folder,
        spec=spec,
    )
    assert saved(folder) == kept
    assert ended.best_step == best


def _one_of_two(rank: int, folder: Path) -> None:
    """A process with a real group: rank 1 alone is asked to stop, rank 0 alone chooses the
    checkpoint and the attempt."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    me = Rank(rank, 2)
    said = me.agree(PREEMPTED if rank else 0)
    newest, attempt = starting_point(folder, me)
    (folder / f"said-{rank}.json").write_text(json.dumps([said, newest and newest.step, attempt]))
    distributed.destroy_process_group()


def test_ranks_agree_on_the_largest_word_the_checkpoint_and_the_attempt(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 1, {}, rank=0, workers=1, keep=2)
    writer.save(7, FakeEngine().save(), Validations())
    writer.wait()
    (tmp_path / "step-000009").mkdir()  # incomplete
    ranks = [
        multiprocessing.get_context("fork").Process(target=_one_of_two, args=(rank, tmp_path))
        for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first[:2] == [PREEMPTED, 7]
    assert first[2] > 0
    assert not (tmp_path / "step-000009").exists()
