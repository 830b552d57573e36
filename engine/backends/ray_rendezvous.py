"""Where the workers of a process group meet: at a TCP port, or on a cluster of one machine alone in
a file.

torch's TCP store listens on all of a machine's addresses, and Ray Train's torch backend knows
env:// and tcp:// only.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)

from engine.backends.ray_cluster import is_on_loopback


def torch_config(backend: str) -> TorchConfig:
    """Ray Train's configuration of a process group by `backend` (nccl, gloo) on the connected
    cluster."""
    return FileConfig(backend=backend) if is_on_loopback() else TorchConfig(backend=backend)


class FileBackend(_TorchBackend):
    """Ray's, but for the place where workers meet."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called for each new group of workers, with a file of its own: torch leaves one where a
        worker died."""
        meeting = Path(global_worker.node.get_session_dir_path(), f"rendezvous-{uuid.uuid4().hex}")
        worker_group.execute(_set_torch_distributed_env_vars)
        group = {
            "backend": backend_config.backend,
            "world_size": len(worker_group),
            "timeout_s": backend_config.timeout_s,
            "init_method": f"file://{meeting}",
        }
        workers = range(len(worker_group))
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _setup_torch_process_group, world_rank=rank, **group
                )
                for rank in workers
            ]
        )


class FileConfig(TorchConfig):
    """A TorchConfig whose workers meet in a file."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return FileBackend
