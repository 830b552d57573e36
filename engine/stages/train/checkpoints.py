"""Checkpoints that any layout can read: fp32 weights and AdamW moments by parameter name, complete or ignored.

    checkpoints/step-000200/share-00000-of-00002.safetensors   what one rank wrote: "<part>/<parameter>"
                            complete.json                      written last: step and files with their sizes
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
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
    return next(reversed(_complete(root)), None)


def _complete(root: Path) -> list[Checkpoint]:
    """Those whose marked files are all there in their sizes, oldest first."""
    found = []
    for marker in root.glob(f"step-*/{MARKER}"):
        facts, folder = json.loads(marker.read_text()), marker.parent
        if all((folder / name).exists() and (folder / name).stat().st_size == size for name, size in facts["files"].items()):
            found.append(Checkpoint(facts["step"], folder))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def save(
    root: Path, step: int, share: dict[str, torch.Tensor], facts: Mapping[str, object], *, rank: int, workers: int, keep: int
) -> None:
    """Every rank writes its share; rank 0 then completes the checkpoint and removes all but the newest `keep`."""
    folder = root / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"share-{number:05d}-of-{workers:05d}.safetensors" for number in range(workers)]
    save_file({name: tensor.contiguous() for name, tensor in share.items()}, folder / names[rank])
    with (folder / names[rank]).open("rb") as handle:
        os.fsync(handle.fileno())
    if distributed.is_initialized():
        distributed.barrier()
    if rank == 0:
        sizes = {name: (folder / name).stat().st_size for name in names}
        write_atomic(folder / MARKER, json.dumps({"step": step, **facts, "files": sizes}, indent=1))
        for old in _complete(root)[:-keep]:
            shutil.rmtree(old.folder)


def load(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors by "<part>/<parameter>": views of mapped files, so only what is read takes memory."""
    tensors = {}
    for name in json.loads((checkpoint.folder / MARKER).read_text())["files"]:
        tensors |= load_file(checkpoint.folder / name)
    return tensors
