"""Ray Train: one function on N workers that share a torch process group. It knows no stage; Ray is
connected already."""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import EngineError, Preempted, StageError, remedy_of
from engine.machines.layout import Layout

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 900  # workers import torch and deepspeed, which takes minutes on a busy machine
LEAVING_TIMEOUT_S = 300  # from a notice to the end of a node; clouds give two minutes at most
ALIKE_S = 5  # for all workers to raise what the first one raised
_ERROR_LINES = 15
# What ranks report when another rank died: true, but not the cause.
_PEER_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset)|process ?group|collective", re.IGNORECASE
)


def run_workers(
    work: Callable[[int, int, Callable[[], bool]], Any],
    *,
    workers: tuple[int, int],
    device: str,
    folder: Path,
    max_failures: int,
    taken: Callable[[], object] = lambda: None,
) -> Any:
    """Call work(rank, workers, preempted) on every worker; rank 0's return value.

    `workers` are the fewest and the most: there are as many as the nodes' devices allow (Ray does
    not see that something else holds one, and waits for it). When nodes come or go Ray Train ends
    all workers and calls the work again. A worker that dies restarts all of them, too, up to
    `max_failures` times; then StageError with the cause's last lines. `preempted()` is True from
    the notice that a node of the run is about to go; work that then raises Preempted is called
    again at no failure's cost. What it raises as another EngineError is not tried again, nor a full
    disk, nor what all workers raise alike before anything `taken()` changes, which tells of steps.
    CapacityError if the cluster has too few devices: Ray Train itself would wait for them without a
    word.
    """
    # The controller is an actor: it takes these from the driver's environment.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
    from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError

    from engine.backends.ray_cluster import require

    require("train", Layout(replicas=workers, device=device, counted="workers"))
    failures = 0
    groups_of_others = _placement_groups()
    while True:
        before = taken()
        name = uuid.uuid4().hex[:8]
        raised = folder.resolve() / f"raised-{name}"
        config = {"work": work, "on_gpu": device == "gpu", "raised": str(raised)}
        trainer = _trainer(config, workers, folder, name)
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            _remove_groups(_placement_groups() - groups_of_others)
            rank, cause = first_failure(error)
            # No failure: the work was told, and saved, before it ended.
            if isinstance(error, PreemptionError) or isinstance(cause, Preempted):
                _log.warning("%s; starting again on what is left", cause)
                _let_nodes_go()
                continue
            if isinstance(cause, EngineError):
                raise cause from error
            if taken() == before and (alike := _raised_alike(raised)):
                raise StageError(
                    f"train: all workers failed before their first step with {alike}\nAnother start"
                    " cannot mend that: mend its cause, and"
                    " the same command goes on"
                ) from error
            failures += 1
            told = str(cause).strip().splitlines()
            words = "\n".join(told[-_ERROR_LINES:])
            last_lines = f"rank {rank}: {words}"
            _log.warning(
                "workers failed (attempt %d of %d): %s", failures, max_failures + 1, last_lines
            )
            if failures > max_failures:
                raise StageError(
                    f"train: workers failed {failures} times, the last time with:\n{last_lines}"
                ) from error


def _trainer(
    config: dict[str, Any],
    workers: tuple[int, int],
    folder: Path,
    name: str,
) -> Any:
    """Ray Train's trainer of one attempt, which calls _enter(config) on every worker."""
    from ray.train import RunConfig, ScalingConfig

    from engine.backends import ray_rendezvous

    on_gpu: bool = config["on_gpu"]
    resource, backend = ("GPU", "nccl") if on_gpu else ("CPU", "gloo")
    fewest, most = workers
    count = workers if fewest < most else most
    scaling = ScalingConfig(
        # Annotated for Ray Train's version 1; version 2 takes a range.
        num_workers=count,  # ty: ignore[invalid-argument-type]
        use_gpu=on_gpu,
        resources_per_worker={resource: 1},
    )
    return _trainer_class()(
        _enter,
        train_loop_config=config,
        scaling_config=scaling,
        torch_config=ray_rendezvous.torch_config(backend),
        # The same name would make Ray restore its own idea of the run; ours lies in the task's
        # folder. Ray is left no failures to retry: it would retry ours too, and it never
        # retries deaths while the group starts.
        run_config=RunConfig(name=name, storage_path=str(folder.resolve())),
    )


def _trainer_class() -> Any:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    from engine.backends.ray_cluster import is_on_loopback

    # Which of Ray Train's two versions it is, an environment variable decides.
    class Trainer(TorchTrainer):  # ty: ignore[unsupported-base]
        """Leaves Ctrl-C to us: Ray's own handler ends the driver with exit code 0 and not a
        word. A cluster of one machine, which ends with its driver, gets no process that would
        clean up after a lost controller."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()
            if not is_on_loopback():
                return callbacks
            return [
                each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)
            ]

    return Trainer


def _tell(raised: Path, rank: int, workers: int, error: Exception) -> None:
    """Leave a worker's error where the driver finds it, and wait a little for the others': Ray ends
    all at the first that it hears of."""
    raised.mkdir(parents=True, exist_ok=True)
    (raised / f"{rank}-of-{workers}").write_text(f"{type(error).__name__}: {error}")
    deadline = time.monotonic() + ALIKE_S
    while len(list(raised.iterdir())) < workers and time.monotonic() < deadline:
        time.sleep(0.1)


def _raised_alike(raised: Path) -> str | None:
    """What every worker raised in the same words, if they did: none died, and none only lost the
    others."""
    told = {path.name: path.read_text() for path in raised.glob("*-of-*")}
    words = set(told.values())
    if len(words) != 1:
        return None
    workers = int(next(iter(told)).rpartition("-")[2])
    (said,) = words
    if len(told) < workers or _PEER_LOST.search(said):
        return None
    return said


def _placement_groups() -> set[str]:
    """Those of this job that hold devices. Ray Train forgets its own when a worker dies while the
    work is handed to it."""
    import ray

    own = ray.get_runtime_context().get_job_id()  # the end of each group's id
    groups = set()
    for name, group in ray.util.placement_group_table().items():
        if name.endswith(own) and group["state"] != "REMOVED":
            groups.add(name)
    return groups


def _remove_groups(names: set[str]) -> None:
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for name in names:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def _let_nodes_go() -> None:
    """Wait until those that are about to go have gone: Ray Train still counts their devices, but
    gets none of them."""
    from ray._private.state import state  # Ray Train's own watcher of such nodes reads it

    deadline = time.monotonic() + LEAVING_TIMEOUT_S
    while state.get_draining_nodes() and time.monotonic() < deadline:
        time.sleep(1)


def _enter(config: dict[str, Any]) -> Any:
    import torch
    from ray.train import get_context

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("engine").setLevel(logging.INFO)
    context = get_context()
    if not config["on_gpu"]:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    rank = context.get_world_rank()
    workers = context.get_world_size()
    try:
        return config["work"](rank, workers, _preempted)
    except EngineError:
        raise
    except Exception as error:
        if remedy := remedy_of(error):  # a full disk is as full after a restart
            raise StageError(f"train: {error}{remedy}") from error
        _tell(Path(config["raised"]), rank, workers, error)
        raise


def _preempted() -> bool:
    """Whether this worker was told that a node of the run is about to go. Ray's public
    get_preemption_info() is a barrier."""
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


def first_failure(error: BaseException) -> tuple[int, BaseException]:
    """The rank whose failure broke the others, and what it raised."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {0: error}
    # A rank that only lost the others comes last.
    causes = [rank for rank in failures if not _PEER_LOST.search(str(failures[rank]))]
    first = min(causes or failures)
    shown = failures[first]
    cause = getattr(shown, "_base_exc", shown)  # Ray wraps it to show its traceback
    if isinstance(cause, EngineError):
        return first, cause
    return first, shown
