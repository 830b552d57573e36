"""Packed blocks -> batches for one forward pass. Shards are memory-mapped when a block of theirs is
first read: where they lie, or as a copy in a bounded folder of the node. Nothing here decides the
order of blocks (schedule.py) or makes them (packing.py).

Shapes: B blocks, L tokens of the longest block in a batch, N targets in a batch, K captured tokens
per target.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.training.packing import BLOCK, load_packed, targets_file
from engine.training.schedule import WINDOW_SHARDS

GIB = 2**30
_PADDING = dict.fromkeys(BLOCK.names, np.zeros(0, np.int32)) | {
    "tokens": np.zeros(1, np.int32),
    "lengths": np.ones(1, np.int32),
}


@dataclass(frozen=True)
class Batch:
    """Blocks for one forward pass; `where_N` are the flat positions b*L + l whose logits predict
    `labels_N`.

    Position ids restart at each example, and that is how transformers sees where one ends: its
    masks (causal, sliding, variable-length flash) never let attention cross. `tail_N` is -1 where
    the teacher gave no distribution.
    """

    input_ids_BL: torch.Tensor
    position_ids_BL: torch.Tensor
    where_N: torch.Tensor
    labels_N: torch.Tensor
    topk_ids_NK: torch.Tensor
    topk_logprobs_NK: torch.Tensor
    tail_N: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            **{
                f.name: getattr(self, f.name).to(device, non_blocking=True)
                for f in dataclasses.fields(self)
            }
        )


@dataclass(frozen=True)
class ShardCache:
    """A folder on the node's own disk that all its workers share; it holds at most `limit_bytes` of
    shards."""

    folder: Path
    limit_bytes: int

    def map(self, shard: Path) -> tuple[Path, pa.MemoryMappedFile]:
        """The copy of a shard, made when it is not there; the copies that were mapped longest ago
        make room for it.

        A shard's name holds the hash of its content, so copies outlive a run and are right for any
        other. One that leaves while a worker still maps it stays readable to that worker.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        copy, partial = self.folder / shard.name, self.folder / "copying"
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(
                lock, fcntl.LOCK_EX
            )  # workers of a node want the same shard at the same time: one copies it
            if copy.exists():
                os.utime(copy)
            else:
                self._make_room(shard.stat().st_size)
                shutil.copyfile(shard, partial)
                os.replace(partial, copy)
            return copy, pa.memory_map(str(copy))  # mapped before another worker can make room

    def _make_room(self, size_bytes: int) -> None:
        oldest = sorted((entry.stat().st_mtime_ns, entry) for entry in self.folder.glob("*.arrow"))
        excess = size_bytes - self.limit_bytes + sum(entry.stat().st_size for _, entry in oldest)
        while excess > 0 and oldest:
            _, entry = oldest.pop(0)
            excess -= entry.stat().st_size
            entry.unlink()


def shard_cache(spec: TrainSpec) -> ShardCache | None:
    """The cache that the job asks for; none means that shards are read where they lie."""
    return ShardCache(Path(spec.cache_dir), int(spec.cache_gib * GIB)) if spec.cache_dir else None


class Blocks:
    """One split's blocks. `targets` (blocks,) counts the target tokens of each, `shard_sizes` the
    blocks of each shard.

    StageError if `cache` is smaller than the window of shards that training reads at a time.
    """

    def __init__(self, folder: Path, split: str, cache: ShardCache | None = None) -> None:
        packed = load_packed(folder, split)
        self._shards, self._cache = [folder / name for name in packed.shards], cache
        self.shard_sizes = tuple(packed.shard_sizes)
        self.targets: np.ndarray = np.load(targets_file(folder, split))
        self._starts = np.cumsum([0, *self.shard_sizes])
        self._mapped: dict[int, tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]] = {}
        if cache:
            window = sum(
                sorted((shard.stat().st_size for shard in self._shards), reverse=True)[
                    :WINDOW_SHARDS
                ]
            )
            if window > cache.limit_bytes:
                raise StageError(
                    f"train: cache_gib={cache.limit_bytes / GIB:.3g} is less than the"
                    f" {window / GIB:.3g} GiB of the"
                    f" {min(WINDOW_SHARDS, len(self._shards))} shards of {folder} among which"
                    " blocks are shuffled, so each would be"
                    " copied again and again; raise train.cache_gib, or leave train.cache_dir out"
                )

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """These blocks, padded at their ends; no numbers give one padding token without a
        target."""
        rows = [self._row(int(number)) for number in numbers] or [_PADDING]
        length = max(len(row["tokens"]) for row in rows)
        ids, positions = (
            np.zeros((len(rows), length), np.int64),
            np.empty((len(rows), length), np.int64),
        )
        ramp = np.arange(length)
        for b, row in enumerate(rows):
            ids[b, : len(row["tokens"])] = row["tokens"]
            lengths = np.append(row["lengths"], length - len(row["tokens"]))
            positions[b] = ramp - np.repeat(np.cumsum(lengths) - lengths, lengths)

        def joined(parts: Iterable[np.ndarray], dtype: type = np.int64) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(list(parts)).astype(dtype, copy=False))

        tail_N = joined((row["tail"] for row in rows), np.float32)
        topk_ids = joined(row["topk_ids"] for row in rows)
        shape = (len(tail_N), len(topk_ids) // max(1, len(tail_N)))
        return Batch(
            input_ids_BL=torch.from_numpy(ids),
            position_ids_BL=torch.from_numpy(positions),
            where_N=joined(
                row["predictors"].astype(np.int64) + b * length for b, row in enumerate(rows)
            ),
            labels_N=joined(row["tokens"][row["predictors"] + 1] for row in rows),
            topk_ids_NK=topk_ids.view(shape),
            topk_logprobs_NK=joined((row["topk_logprobs"] for row in rows), np.float32).view(shape),
            tail_N=tail_N,
        )

    def lengths(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Tokens of each example (or piece of one) in these blocks."""
        return np.concatenate(
            [_PADDING["tokens"][:0], *(self._row(int(number))["lengths"] for number in numbers)]
        )

    def rows(self, number: int) -> np.ndarray:
        """The examples in one block, by their place in the curated split; a split example is in
        several blocks."""
        return self._row(number)["rows"]

    def _row(self, number: int) -> dict[str, np.ndarray]:
        """One block's columns, as views of the mapped shard."""
        shard = int(np.searchsorted(self._starts, number, "right")) - 1
        if shard not in self._mapped:
            path = self._shards[shard]
            path, file = self._cache.map(path) if self._cache else (path, pa.memory_map(str(path)))
            # A map would keep the disk space of a copy that has left.
            self._mapped = {
                at: mapped for at, mapped in self._mapped.items() if mapped[0].exists()
            } | {shard: (path, _columns(file))}
        at = number - int(self._starts[shard])
        return {
            name: values[ends[at] : ends[at + 1]]
            for name, (values, ends) in self._mapped[shard][1].items()
        }


def _columns(file: pa.MemoryMappedFile) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each column of a shard as its values, laid end to end, and the borders of its blocks."""
    reader = pa.ipc.open_file(file)
    assert reader.num_record_batches == 1, f"a shard of {reader.num_record_batches} record batches"
    columns = reader.get_batch(0)
    return {
        name: (columns[name].values.to_numpy(), columns[name].offsets.to_numpy())
        for name in BLOCK.names
    }


def rank_batches(
    numbers: np.ndarray, rank: int, workers: int, batch_size: int
) -> Iterator[np.ndarray]:
    """The block numbers of each micro-batch of one rank; every rank gets equally many, the last
    ones may be empty."""
    mine = numbers[rank::workers]
    longest = -(-len(numbers) // workers)
    for start in range(0, longest, batch_size):
        yield mine[start : start + batch_size]
