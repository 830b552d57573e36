"""Several real ranks with DeepSpeed, in forked processes: layouts agree, and deaths in the middle
of a save change no bit."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles.torch_engine import GENERATE
from drivers.forked_workers import run_forked

from engine.job.spec import TrainSpec
from engine.run.context import Context
from engine.run.manifests import Counts, finished
from engine.stages import train
from engine.training import checkpoints
from engine.training.metrics import load_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _rank_environment() -> None:
    """DeepSpeed's start asks for it; Ray Train sets it."""
    os.environ.setdefault("LOCAL_RANK", "0")


def run_on(
    out: Path, curated: Path, spec: TrainSpec, ctx: Context, launch: Callable[..., Any] = run_forked
) -> Counts:
    out.mkdir(parents=True, exist_ok=True)
    return train.run(spec, {"curate": finished(curated)}, out, ctx, GENERATE, launch=launch)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in load_metrics(out / "metrics.jsonl") if "loss" in line]


CRASHES = [
    ("before_share", 0, 5),
    ("mid_share", 1, 10),
    ("before_share", 1, 15),
    ("before_marker", 0, 20),
    ("after_marker", 0, 25),
]


def die_where_told(rank: int, folder: Path, place: str, step: int) -> None:
    """SIGKILL to this process, once for each of CRASHES."""
    if (place, rank, step) in CRASHES:
        try:
            (folder / f"{place}-{rank}-{step}").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def mortal(work: Callable[..., Any], folder: Path, rank: int, *more: Any) -> Any:
    return work(rank, *more, on_save=partial(die_where_told, rank, folder))


def test_kills_in_the_middle_of_saves_change_no_bit_of_two_workers(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    curated, died = write_curated(), tmp_path / "died"
    died.mkdir()
    spec = spec.model_copy(
        update={"workers": 2, "global_batch": 4, "epochs": 5, "max_failures": len(CRASHES)}
    )
    run_on(tmp_path / "whole/4-train-a", curated, spec, ctx)
    out = tmp_path / "killed/4-train-a"
    run_on(
        out,
        curated,
        spec,
        ctx,
        lambda work, **placement: run_forked(partial(mortal, work, died), **placement),
    )
    assert len(list(died.iterdir())) == len(CRASHES)
    ours, theirs = (
        checkpoints.newest(folder / "checkpoints").load()
        for folder in (out, tmp_path / "whole/4-train-a")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(out) == losses(tmp_path / "whole/4-train-a")
    assert (out / "student/model.safetensors").read_bytes() == (
        tmp_path / "whole/4-train-a/student/model.safetensors"
    ).read_bytes()
    seen = Counter(
        block for line in load_metrics(out / "metrics.jsonl") for block in line.get("blocks", [])
    )
    assert set(seen.values()) == {5}
