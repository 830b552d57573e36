"""The loop on the fake engine: order, resume, and what stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_trainer import FakeEngine

from engine.errors import StageError
from engine.spec import TrainSpec
from engine.stages.train import checkpoints
from engine.stages.train.blocks import Blocks
from engine.stages.train.data import TokenSequence
from engine.stages.train.loop import fit, remaining_steps
from engine.stages.train.packing import write_blocks
from engine.stages.train.schedule import Schedule

SPEC = TrainSpec(student="x", epochs=2, learning_rate=1.0, batch_size=2)


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    rng = np.random.default_rng(0)
    rows = [TokenSequence(rng.integers(0, 48, 12, dtype=np.int32), np.arange(12) >= 6) for _ in range(30)]
    write_blocks(rows, tmp_path / "blocks", "train", room=16, seed=0)
    return Blocks(tmp_path / "blocks", "train")


def train(engine: FakeEngine, blocks: Blocks, root: Path, start: int = 0, every: int = 2) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    def checkpoint(step: int) -> None:
        if step % every == 0:
            checkpoints.save(root, step, engine.save(), {}, rank=0, workers=1, keep=2)

    steps = remaining_steps(blocks, Schedule(blocks.shard_sizes, 4, 1, SPEC), start, rank=0, workers=1)
    fit(engine, steps, lambda step, **values: lines.append({"step": step, **values}), checkpoint)
    return lines


def test_a_death_and_a_resume_end_where_one_run_ends(blocks: Blocks, tmp_path: Path) -> None:
    whole = FakeEngine()
    lines = train(whole, blocks, tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert sum(line["tokens"] for line in lines) == 2 * 30 * 6

    with pytest.raises(RuntimeError, match="died at step 8"):
        train(FakeEngine(die_at_step=8), blocks, tmp_path / "broken")
    latest = checkpoints.newest(tmp_path / "broken")
    assert latest.step == 6
    again = FakeEngine()
    again.load(checkpoints.load(latest), latest.step)
    rest = train(again, blocks, tmp_path / "broken", start=latest.step)
    assert [line["step"] for line in rest] == list(range(7, 17))
    assert again.weight == pytest.approx(whole.weight, rel=1e-12)
    assert again.learning_rates == whole.learning_rates[6:]


def test_a_loss_that_is_not_a_number_stops_with_the_remedy(blocks: Blocks, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"loss of step 3 is nan; lower train\.learning_rate"):
        train(FakeEngine(nan_at_step=3), blocks, tmp_path)
