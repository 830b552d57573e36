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
    if is_on_loopback():
        return FileConfig(backend=backend)
    return TorchConfig(backend=backend)


class FileBackend(_TorchBackend):
    """Ray's, but for the place where workers meet."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called for each new group of workers, with a file of its own: torch leaves one where a
        worker died."""
        node = global_worker.node
        assert node is not None, "Ray's node is there in each process of Ray, as this one is"
        meeting = Path(node.get_session_dir_path(), f"rendezvous-{uuid.uuid4().hex}")
        worker_group.execute(_set_torch_distributed_env_vars)
        group = {
            "backend": backend_config.backend,
            "world_size": len(worker_group),
            "timeout_s": backend_config.timeout_s,
            "init_method": f"file://{meeting}",
        }
        joining = []
        for rank in range(len(worker_group)):
            joining.append(
                worker_group.execute_single_async(
                    rank, _setup_torch_process_group, world_rank=rank, **group
                )
            )
        ray.get(joining)


class FileConfig(TorchConfig):
    """A TorchConfig whose workers meet in a file."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return FileBackend
