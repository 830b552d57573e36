from __future__ import annotations

from pathlib import Path

import torch

from engine.stages.train import checkpoints


def save(root: Path, step: int, *, keep: int = 2) -> None:
    checkpoints.save(root, step, {"weight/a": torch.full((2,), float(step))}, {"global_batch": 4}, rank=0, workers=1, keep=keep)


def test_the_newest_complete_checkpoint_is_resumed(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    save(tmp_path, 9)
    save(tmp_path, 10)
    (tmp_path / "step-000010" / checkpoints.MARKER).unlink()
    assert checkpoints.newest(tmp_path).step == 9
    save(tmp_path, 10)
    (tmp_path / "step-000010/share-00000-of-00001.safetensors").write_bytes(b"torn")
    assert checkpoints.newest(tmp_path).step == 9


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 999_999, 1_000_000):
        save(tmp_path, step)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    assert checkpoints.newest(tmp_path).step == 1_000_000


def test_shares_of_several_ranks_read_as_one(tmp_path: Path) -> None:
    for rank in (1, 0):  # rank 0 completes the checkpoint, so here it goes last
        share = {f"weight/{rank}": torch.full((3,), float(rank))}
        checkpoints.save(tmp_path, 5, share, {}, rank=rank, workers=2, keep=2)
    tensors = checkpoints.load(checkpoints.newest(tmp_path))
    assert sorted(tensors) == ["weight/0", "weight/1"]
    assert tensors["weight/1"].tolist() == [1, 1, 1]
