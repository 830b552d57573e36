"""A worker function on real Ray Train workers with a gloo process group."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch
from torch import distributed

from engine.backends.ray_train import first_failure, run_workers
from engine.errors import CapacityError, Preempted, StageError

Preempts = Callable[[], bool]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@dataclass(frozen=True)
class Life:
    """What was seen of one call of run_workers."""

    returned: dict[str, Any]
    starts: dict[int, list[str]]  # of each rank: what preempted() was
    interrupts: list[int]


@pytest.fixture(scope="module")
def life(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Two workers through three starts: one dies in the first, both are told of a node's end in the
    second, and rank 0 interrupts the driver in the third."""

    def work(
        folder: Path, driver: int, rank: int, workers: int, preempted: Preempts
    ) -> dict[str, Any]:
        from ray.train.v2._internal.execution.context import get_train_context
        from ray.train.v2.api.preemption import PreemptionInfo

        if rank == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        total = torch.tensor(float(rank + 1))
        distributed.all_reduce(total)
        with (folder / f"rank{rank}").open("a") as file:
            file.write(f"{preempted()}\n")
        if not (folder / "left").exists():
            # Put where Ray's watcher of draining nodes puts it.
            notice = PreemptionInfo(None, {"a-node": [0]})
            get_train_context().preemption_context.preemption_info = notice
            assert preempted()
            distributed.barrier()
            (folder / "left").touch()
            raise Preempted("a node goes away; step 3 of 9 is saved")
        connections = psutil.Process().net_connections("inet")
        if rank == 0:
            os.kill(driver, signal.SIGINT)
        return {
            "total": float(total),
            "workers": workers,
            "listens": {each.laddr.ip for each in connections if each.status == "LISTEN"},
            "threads": torch.get_num_threads(),
        }

    folder = tmp_path_factory.mktemp("life")
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        returned = run_workers(
            partial(work, folder, os.getpid()),
            workers=(2, 2),
            device="cpu",
            folder=folder / "ray",
            max_failures=1,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    starts = {rank: (folder / f"rank{rank}").read_text().split() for rank in (0, 1)}
    return Life(returned, starts, heard)


def test_workers_share_a_group_that_meets_on_loopback_and_the_processors(life: Life) -> None:
    assert life.returned["total"] == 1 + 2
    assert life.returned["listens"] <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert life.returned["threads"] == max(1, (os.cpu_count() or 1) // 2)


def test_a_dead_worker_restarts_all_of_them(life: Life) -> None:
    assert life.returned["workers"] == 2


def test_a_preemption_notice_reaches_the_work_and_costs_no_failure(life: Life) -> None:
    """The one that is allowed went with the worker that died."""
    assert life.starts == {0: ["False", "False"], 1: ["False", "False"]}


def test_an_interrupt_is_the_callers_affair(life: Life) -> None:
    """Ray Train's own handler would end this process with exit code 0 and without a word."""
    assert life.interrupts == [signal.SIGINT]


def test_what_fails_after_a_step_is_tried_again_and_ends_with_its_own_words(tmp_path: Path) -> None:
    """All raise alike the first time, and one of them alone the second time."""

    def work(folder: Path, rank: int, workers: int, preempted: Preempts) -> None:
        with (folder / f"rank{rank}").open("a") as file:
            file.write("started\n")
        (folder / "steps").open("a").write("step\n")
        distributed.barrier()
        if rank == 0 and (folder / "rank0").read_text().count("started") == 2:
            distributed.barrier()  # in which the other never joins
        raise ValueError("block 17 is made of cheese")

    steps = tmp_path / "steps"
    with pytest.raises(StageError, match=r"(?s)failed 2 times.*rank 1.*block 17 is made of cheese"):
        run_workers(
            partial(work, tmp_path),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=1,
            taken=lambda: steps.exists() and steps.stat().st_size,
        )
    assert (tmp_path / "rank1").read_text() == "started\n" * 2


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


@pytest.mark.proof
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


def test_what_all_workers_raise_alike_before_a_step_is_not_tried_again(tmp_path: Path) -> None:
    def work(folder: Path, rank: int, workers: int, preempted: Preempts) -> None:
        with (folder / f"rank{rank}").open("a") as file:
            file.write("started\n")
        distributed.barrier()
        raise ValueError("Unsupported head_dim 17")

    with pytest.raises(
        StageError,
        match=r"all workers failed before their first step with ValueError: Unsupported head_dim",
    ):
        run_workers(
            partial(work, tmp_path),
            workers=(2, 2),
            device="cpu",
            folder=tmp_path / "ray",
            max_failures=1,
        )
    assert (tmp_path / "rank0").read_text() == "started\n"


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
