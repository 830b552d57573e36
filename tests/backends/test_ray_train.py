"""A worker function on real Ray Train workers with a gloo process group."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import torch
from torch import distributed

from engine.backends.ray_train import first_failure, run_workers
from engine.errors import CapacityError, Preempted, StageError

Preempts = Callable[[], bool]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_workers_share_a_group_and_a_dead_one_restarts_them(tmp_path: Path) -> None:
    def work(folder: Path, rank: int, workers: int, preempted: Preempts) -> float:
        if rank == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        total = torch.tensor(float(rank + 1))
        distributed.all_reduce(total)
        heard = {
            each.laddr.ip
            for each in psutil.Process().net_connections("inet")
            if each.status == "LISTEN"
        }
        assert heard <= {"127.0.0.1", "::ffff:127.0.0.1"}, (
            "workers of a local cluster meet on loopback"
        )
        assert torch.get_num_threads() == max(1, (os.cpu_count() or 1) // workers)
        return float(total)

    assert (
        run_workers(
            partial(work, tmp_path),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=1,
        )
        == 3.0
    )
    assert (tmp_path / "died").exists()


def test_a_worker_that_keeps_failing_ends_with_its_own_words(tmp_path: Path) -> None:
    def work(folder: Path, rank: int, workers: int, preempted: Preempts) -> None:
        if rank == 1:
            raise ValueError("block 17 is made of cheese")
        distributed.barrier()

    with pytest.raises(StageError, match=r"(?s)failed 1 times.*rank 1.*block 17 is made of cheese"):
        run_workers(
            partial(work, tmp_path),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=0,
        )


def test_more_workers_than_the_cluster_has_is_a_capacity_error(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match=r"train wants 5 CPUs \(workers=5\); the cluster has 4"):
        run_workers(print, workers=(5, 5), device="cpu", folder=tmp_path, max_failures=0)


def test_the_root_cause_is_not_the_peer_that_lost_its_connection() -> None:
    class Failed(Exception):
        worker_failures: ClassVar = {
            0: RuntimeError("gloo: Connection closed by peer"),
            1: StageError("the loss is nan"),
        }

    rank, cause = first_failure(Failed())
    assert (rank, str(cause)) == (1, "the loss is nan")


def test_what_the_work_itself_refuses_is_not_tried_again(tmp_path: Path) -> None:
    def work(folder: Path, rank: int, workers: int, preempted: Preempts) -> None:
        (folder / f"rank{rank}").open("a").write("started\n")
        raise StageError("the loss of step 3 is nan")

    with pytest.raises(StageError, match=r"^the loss of step 3 is nan$"):
        run_workers(
            partial(work, tmp_path),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=2,
        )
    assert (tmp_path / "rank0").read_text() == "started\n"


def test_an_interrupt_is_the_callers_affair(tmp_path: Path) -> None:
    """Ray Train's own handler would end this process with exit code 0 and without a word."""

    def work(driver: int, rank: int, workers: int, preempted: Preempts) -> str:
        os.kill(driver, signal.SIGINT)
        return "done"

    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        assert (
            run_workers(
                partial(work, os.getpid()),
                workers=(1, 1),
                device="cpu",
                folder=tmp_path / "ray",
                max_failures=0,
            )
            == "done"
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_a_full_disk_is_said_with_a_remedy_and_not_tried_again(
    tmp_path: Path, small_disk: tuple[Path, Callable[[], None]]
) -> None:
    def work(folder: Path, disk: Path, rank: int, workers: int, preempted: Preempts) -> None:
        (folder / f"rank{rank}").open("a").write("started\n")
        (disk / f"saved-{rank}").write_bytes(bytes(100_000))

    disk, fill = small_disk
    fill()
    with pytest.raises(
        StageError,
        match=r"train: .*No space left on device.*; make room there, and the same command goes on",
    ):
        run_workers(
            partial(work, tmp_path, disk),
            workers=(1, 1),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=2,
        )
    assert (tmp_path / "rank0").read_text() == "started\n"


@pytest.mark.parametrize(("steps", "starts"), [(0, 1), (1, 2)])
def test_what_all_workers_raise_alike_before_a_step_is_not_tried_again(
    tmp_path: Path, steps: int, starts: int
) -> None:
    def work(folder: Path, steps: int, rank: int, workers: int, preempted: Preempts) -> None:
        with (folder / f"rank{rank}").open("a") as file:
            file.write("started\n")
        if steps:
            (folder / "steps").open("a").write("step\n")
        distributed.barrier()
        raise ValueError("Unsupported head_dim 17")

    said = (
        "failed 2 times"
        if steps
        else r"all workers failed before their first step with ValueError: Unsupported head_dim 17"
    )
    taken = lambda: (tmp_path / "steps").exists() and (tmp_path / "steps").stat().st_size  # noqa: E731
    with pytest.raises(StageError, match=said):
        run_workers(
            partial(work, tmp_path, steps),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=1,
            taken=taken,
        )
    assert (tmp_path / "rank0").read_text() == "started\n" * starts


def test_a_preemption_notice_reaches_the_work_and_costs_no_failure(tmp_path: Path) -> None:
    """The notice is put where Ray's watcher of draining nodes puts it."""

    def work(folder: Path, rank: int, workers: int, preempted: Preempts) -> int:
        from ray.train.v2._internal.execution.context import get_train_context
        from ray.train.v2.api.preemption import PreemptionInfo

        with (folder / f"rank{rank}").open("a") as file:
            file.write(f"{preempted()}\n")
        if not (folder / "left").exists():
            get_train_context().preemption_context.preemption_info = PreemptionInfo(
                None, {"a-node": [0]}
            )
            assert preempted()
            distributed.barrier()
            (folder / "left").touch()
            raise Preempted("a node goes away; step 3 of 9 is saved")
        return workers

    assert (
        run_workers(
            partial(work, tmp_path),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=0,
        )
        == 2
    )
    assert (tmp_path / "rank1").read_text() == "False\nFalse\n"


@pytest.mark.proof
def test_elastic_workers_are_as_many_as_the_cluster_has_room_for(tmp_path: Path) -> None:
    """All four CPUs, so the groups of the tests before have gone, too; nodes that come and go are
    in test_proof_train.py."""

    def work(rank: int, workers: int, preempted: Preempts) -> int:
        distributed.barrier()
        return workers

    assert (
        run_workers(work, workers=(2, 8), device="cpu", folder=tmp_path / "ray", max_failures=0)
        == 4
    )


def test_fewer_workers_than_the_least_is_a_capacity_error(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match=r"train wants 6 CPUs \(workers=6\); the cluster has 4"):
        run_workers(print, workers=(6, 8), device="cpu", folder=tmp_path, max_failures=0)
