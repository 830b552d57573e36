"""Checkpoints that any layout can read: fp32 weights and AdamW moments by parameter name, complete or ignored.

    checkpoints/step-000200/share-00000-of-00002.safetensors   what one rank wrote: "<part>/<parameter>"
                            complete.json                      written last: step and files with their sizes
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed

from engine.rundir import write_atomic

MARKER = "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: steps done, and where it lies."""

    step: int
    folder: Path


def newest(root: Path) -> Checkpoint | None:
    """The newest complete checkpoint under `root`, if any."""
    return next((Checkpoint(_step(folder), folder) for folder in reversed(_complete(root))), None)


def _complete(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.glob("step-*"), key=_step) if _is_complete(folder)]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _is_complete(folder: Path) -> bool:
    marker = folder / MARKER
    if not marker.exists():
        return False
    sizes: dict[str, int] = json.loads(marker.read_text())["files"]
    return all((folder / name).exists() and (folder / name).stat().st_size == size for name, size in sizes.items())


def save(
    root: Path, step: int, share: dict[str, torch.Tensor], facts: Mapping[str, object], *, rank: int, workers: int, keep: int
) -> None:
    """Every rank writes its share; rank 0 then completes the checkpoint and removes all but the newest `keep`."""
    folder = root / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"share-{number:05d}-of-{workers:05d}.safetensors" for number in range(workers)]
    staged = folder / f".{names[rank]}"
    save_file({name: tensor.contiguous() for name, tensor in share.items()}, staged)
    with staged.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(staged, folder / names[rank])
    if distributed.is_initialized():
        distributed.barrier()
    if rank == 0:
        sizes = {name: (folder / name).stat().st_size for name in names}
        write_atomic(folder / MARKER, json.dumps({"step": step, **facts, "files": sizes}, indent=1))
        for old in _complete(root)[:-keep]:
            shutil.rmtree(old)


class Tensors(Mapping[str, torch.Tensor]):
    """A checkpoint's tensors by "<part>/<parameter>", read one by one when asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        files = json.loads((checkpoint.folder / MARKER).read_text())["files"]
        self._stack = ExitStack()
        self._where = {}
        for file in files:
            handle = self._stack.enter_context(safe_open(checkpoint.folder / file, "pt"))
            self._where |= dict.fromkeys(handle.keys(), handle)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def close(self) -> None:
        self._stack.close()
