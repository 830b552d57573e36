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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.training.packing import BLOCK, load_packed, targets_file
from engine.training.schedule import WINDOW_SHARDS

GIB = 2**30
Row = dict[str, np.ndarray]  # of a block: the values of each column
Columns = dict[str, tuple[np.ndarray, np.ndarray]]  # of a shard: values and borders of its blocks
_NOTHING = np.zeros(0, np.int32)
_PADDING = dict.fromkeys(BLOCK.names, _NOTHING) | {
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

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    where_N: Tensor
    labels_N: Tensor
    topk_ids_NK: Tensor
    topk_logprobs_NK: Tensor
    tail_N: Tensor

    def to(self, device: torch.device | str) -> Batch:
        moved = {}
        for field in dataclasses.fields(self):
            tensor = getattr(self, field.name)
            moved[field.name] = tensor.to(device, non_blocking=True)
        return Batch(**moved)


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
        copy = self.folder / shard.name
        partial = self.folder / "copying"
        with (self.folder / "lock").open("w") as lock:
            # Workers of a node want the same shard at the same time: one copies it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if copy.exists():
                os.utime(copy)
            else:
                self._make_room(shard.stat().st_size)
                shutil.copyfile(shard, partial)
                os.replace(partial, copy)
            mapped = pa.memory_map(str(copy))  # before another worker can make room
            return copy, mapped

    def _make_room(self, size_bytes: int) -> None:
        copies = self.folder.glob("*.arrow")
        oldest = sorted((copy.stat().st_mtime_ns, copy) for copy in copies)
        excess = size_bytes - self.limit_bytes
        for _, copy in oldest:
            excess += copy.stat().st_size
        while excess > 0 and oldest:
            _, copy = oldest.pop(0)
            excess -= copy.stat().st_size
            copy.unlink()


def shard_cache(spec: TrainSpec) -> ShardCache | None:
    """The cache that the job asks for; none means that shards are read where they lie."""
    if not spec.cache_dir:
        return None
    return ShardCache(
        folder=Path(spec.cache_dir),
        limit_bytes=int(spec.cache_gib * GIB),
    )


class Blocks:
    """One split's blocks. `targets` (blocks,) counts the target tokens of each, `shard_sizes` the
    blocks of each shard.

    StageError if `cache` is smaller than the window of shards that training reads at a time.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        cache: ShardCache | None = None,
    ) -> None:
        packed = load_packed(folder, split)
        self._shards = [folder / name for name in packed.shards]
        self._cache = cache
        self.shard_sizes = tuple(packed.shard_sizes)
        self.targets: np.ndarray = np.load(targets_file(folder, split))
        self._starts = np.cumsum([0, *self.shard_sizes])
        self._mapped: dict[int, tuple[Path, Columns]] = {}
        if cache:
            _check_window(self._shards, cache.limit_bytes, folder)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """These blocks, padded at their ends; no numbers give one padding token without a
        target."""
        rows = [self._row(int(number)) for number in numbers]
        if not rows:
            rows = [_PADDING]
        length = max(len(row["tokens"]) for row in rows)
        shape = (len(rows), length)
        ids = np.zeros(shape, np.int64)
        positions = np.empty(shape, np.int64)
        where: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        ramp = np.arange(length)
        for b, row in enumerate(rows):
            tokens = row["tokens"]
            predictors = row["predictors"]
            filled = len(tokens)
            ids[b, :filled] = tokens
            lengths = np.append(row["lengths"], length - filled)
            starts = np.cumsum(lengths) - lengths
            positions[b] = ramp - np.repeat(starts, lengths)
            offset = b * length
            where.append(predictors.astype(np.int64) + offset)
            predicted = predictors + 1
            labels.append(tokens[predicted])
        tail_N = _column(rows, "tail", np.float32)
        topk_ids = _column(rows, "topk_ids", np.int64)
        per_target = len(topk_ids) // max(1, len(tail_N))
        topk_logprobs = _column(rows, "topk_logprobs", np.float32)
        topk = (len(tail_N), per_target)
        return Batch(
            input_ids_BL=torch.from_numpy(ids),
            position_ids_BL=torch.from_numpy(positions),
            where_N=_joined(where, np.int64),
            labels_N=_joined(labels, np.int64),
            topk_ids_NK=topk_ids.view(topk),
            topk_logprobs_NK=topk_logprobs.view(topk),
            tail_N=tail_N,
        )

    def lengths(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Tokens of each example (or piece of one) in these blocks."""
        lengths = [_NOTHING]
        for number in numbers:
            row = self._row(int(number))
            lengths.append(row["lengths"])
        return np.concatenate(lengths)

    def rows(self, number: int) -> np.ndarray:
        """The examples in one block, by their place in the curated split; a split example is in
        several blocks."""
        return self._row(number)["rows"]

    def _row(self, number: int) -> Row:
        """One block's columns, as views of the mapped shard."""
        begun = np.searchsorted(self._starts, number, "right")
        shard = int(begun) - 1
        if shard not in self._mapped:
            self._map(shard)
        _, columns = self._mapped[shard]
        at = number - int(self._starts[shard])
        row = {}
        for name, (values, borders) in columns.items():
            begin, end = borders[at : at + 2]
            row[name] = values[begin:end]
        return row

    def _map(self, shard: int) -> None:
        path = self._shards[shard]
        if self._cache:
            path, file = self._cache.map(path)
        else:
            file = pa.memory_map(str(path))
        for other, (copy, _) in list(self._mapped.items()):
            if not copy.exists():  # a map would keep its disk space
                del self._mapped[other]
        self._mapped[shard] = (path, _columns(file))


def _check_window(shards: Sequence[Path], limit_bytes: int, folder: Path) -> None:
    sizes = [shard.stat().st_size for shard in shards]
    sizes.sort(reverse=True)
    widest = sizes[:WINDOW_SHARDS]
    window = sum(widest)
    if window > limit_bytes:
        has = limit_bytes / GIB
        needs = window / GIB
        raise StageError(
            f"train: cache_gib={has:.3g} is less than the {needs:.3g} GiB of"
            f" the {len(widest)} shards of {folder} among which blocks are"
            " shuffled, so each would be copied again and again; raise train.cache_gib, or leave"
            " train.cache_dir out"
        )


def _column(rows: Sequence[Row], name: str, dtype: type) -> Tensor:
    """One column of several blocks, laid end to end."""
    parts = [row[name] for row in rows]
    return _joined(parts, dtype)


def _joined(parts: Sequence[np.ndarray], dtype: type) -> Tensor:
    whole = np.concatenate(parts)
    typed = whole.astype(dtype, copy=False)
    return torch.from_numpy(typed)


def _columns(file: pa.MemoryMappedFile) -> Columns:
    """Each column of a shard as its values, laid end to end, and the borders of its blocks."""
    reader = pa.ipc.open_file(file)
    assert reader.num_record_batches == 1, f"a shard of {reader.num_record_batches} record batches"
    batch = reader.get_batch(0)
    columns = {}
    for name in BLOCK.names:
        lists = batch[name]
        values = lists.values.to_numpy()
        borders = lists.offsets.to_numpy()
        columns[name] = (values, borders)
    return columns


def rank_batches(
    numbers: np.ndarray,
    rank: int,
    workers: int,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """The block numbers of each micro-batch of one rank; every rank gets equally many, the last
    ones may be empty."""
    mine = numbers[rank::workers]
    longest = -(-len(numbers) // workers)
    for start in range(0, longest, batch_size):
        end = start + batch_size
        yield mine[start:end]
