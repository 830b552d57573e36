"""Ray Train: one function on N workers that share a torch process group. It knows no stage; Ray is connected already."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import EngineError, StageError
from engine.layout import Layout

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 900  # workers import torch and deepspeed, which takes minutes on a busy machine
_ERROR_LINES = 15
# What ranks report when another rank died: true, but not the cause.
_PEER_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|process ?group|collective", re.IGNORECASE)


def run_workers(work: Callable[[int, int], Any], *, workers: int, device: str, folder: Path, max_failures: int) -> Any:
    """Call work(rank, workers) on every worker; rank 0's return value.

    A worker that dies restarts all of them, up to `max_failures` times; then StageError with the cause's last lines. What
    the work itself raises as an EngineError is not tried again.
    CapacityError if the cluster has too few devices: Ray Train itself would wait for them without a word.
    """
    # The controller is an actor: it takes these from the driver's environment.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from engine.backends.ray_cluster import require

    on_gpu = device == "gpu"
    require("train", Layout(replicas=(workers, workers), device=device, counted="workers"))
    for attempt in range(1, max_failures + 2):
        trainer = TorchTrainer(
            _enter,
            train_loop_config={"work": work, "on_gpu": on_gpu},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=on_gpu, resources_per_worker={"GPU": 1} if on_gpu else {"CPU": 1}
            ),
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            # The same name would make Ray restore its own idea of the run; ours lies in the task's folder. Ray is left no
            # failures to retry: it would retry ours too, and it never retries deaths while the group starts.
            run_config=RunConfig(name=uuid.uuid4().hex[:8], storage_path=str(folder.resolve())),
        )
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            rank, cause = root_cause(error)
            if isinstance(cause, EngineError):
                raise cause from error
            last_lines = f"rank {rank}: " + "\n".join(str(cause).strip().splitlines()[-_ERROR_LINES:])
            _log.warning("workers failed (attempt %d of %d): %s", attempt, max_failures + 1, last_lines)
    raise StageError(f"train: workers failed {max_failures + 1} times, the last time with:\n{last_lines}")


def _enter(config: dict[str, Any]) -> Any:
    import torch
    from ray.train import get_context

    context = get_context()
    if not config["on_gpu"]:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    return config["work"](context.get_world_rank(), context.get_world_size())


def root_cause(error: BaseException) -> tuple[int, BaseException]:
    """The rank whose failure broke the others, and what it raised."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {0: error}
    first = min(failures, key=lambda rank: (bool(_PEER_LOST.search(str(failures[rank]))), rank))
    cause = getattr(failures[first], "_base_exc", failures[first])  # Ray wraps it to show its traceback
    return first, cause if isinstance(cause, EngineError) else failures[first]
