"""Token sequences -> packed blocks in Arrow IPC shards, and shards -> batches. Padding is never stored.

A block is a row of whole examples laid end to end. Position ids restart at each example, and that is how transformers
sees where one ends: its masks (causal, sliding, variable-length flash) never let attention cross.
Shapes: B blocks, L tokens of the longest block in a batch, N targets in a batch, K captured tokens per target.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from engine.records import Signal, derive_seed
from engine.rundir import write_atomic
from engine.stages.train.data import TokenSequence

SHARD_BYTES = 256 * 2**20
NO_SIGNAL = Signal(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
# `predictors`: positions whose next token is a target; `top_*` and `tail` describe the teacher there.
_BLOCK = pa.schema([
    ("tokens", _INTS), ("lengths", _INTS), ("predictors", _INTS),
    ("topk_ids", _INTS), ("topk_logprobs", _FLOATS), ("tail", _FLOATS),
])

_NONE = np.zeros(0, np.int32)
_PADDING = dict.fromkeys(_BLOCK.names, _NONE) | {"tokens": np.zeros(1, np.int32), "lengths": np.ones(1, np.int32)}


@dataclass(frozen=True)
class Batch:
    """Blocks for one forward pass; `where_N` are the flat positions b*L + l whose logits predict `labels_N`."""

    input_ids_BL: torch.Tensor
    position_ids_BL: torch.Tensor
    where_N: torch.Tensor
    labels_N: torch.Tensor
    topk_ids_NK: torch.Tensor
    topk_logprobs_NK: torch.Tensor
    tail_N: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class Packed:
    """What packing did to one split: rows read, rows dropped by reason, and the shards with the rest."""

    rows: int
    dropped: dict[str, int]
    shards: list[str]


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: indices of `lengths` grouped so that no group sums to more than `room`."""
    blocks: list[list[int]] = []
    rooms: list[tuple[int, int, int]] = []  # sorted: room left, minus the time of the last change, block
    for time, index in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        at = bisect.bisect_left(rooms, (lengths[index],))
        if at < len(rooms):
            left, _, block = rooms.pop(at)
        else:
            left, block = room, len(blocks)
            blocks.append([])
        blocks[block].append(index)
        bisect.insort(rooms, (left - lengths[index], -time, block))
    return blocks


def write_blocks(
    sequences: Iterable[TokenSequence], folder: Path, split: str, *, room: int, seed: int, shard_bytes: int = SHARD_BYTES
) -> Packed:
    """Pack one split into shards `<split>-NNNNN.arrow`; `<split>.json` appears last and makes them valid.

    An example longer than `room` is dropped as `too_long`, one without a target as `no_target`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{split}.json"
    if done.exists():
        return Packed(**json.loads(done.read_text()))
    dropped: Counter[str] = Counter()
    rows, shards = 0, []
    for window in _windows(sequences, room, shard_bytes, dropped):
        # The shuffle decides ties of equal length, so neighbours in the file do not share a block.
        order = np.random.default_rng(derive_seed(seed, "pack", split, len(shards))).permutation(len(window))
        blocks = [[window[order[i]] for i in block] for block in pack([len(window[i].ids) for i in order], room)]
        shards.append(f"{split}-{len(shards):05d}.arrow")
        _write_shard(blocks, folder / shards[-1])
        rows += len(window)
    packed = Packed(rows + dropped.total(), dict(dropped), shards)
    write_atomic(done, json.dumps(dataclasses.asdict(packed)))
    return packed


def _windows(
    sequences: Iterable[TokenSequence], room: int, shard_bytes: int, dropped: Counter[str]
) -> Iterator[list[TokenSequence]]:
    """Runs of sequences that fill one shard each; counts by reason what no block can take."""
    window, size_bytes = [], 0
    for sequence in sequences:
        if len(sequence.ids) > room:
            dropped["too_long"] += 1
            continue
        if not sequence.is_target.any():
            dropped["no_target"] += 1
            continue
        window.append(sequence)
        size_bytes += 4 * len(sequence.ids) + (8 * sequence.signal.ids.size if sequence.signal else 0)
        if size_bytes >= shard_bytes:
            yield window
            window, size_bytes = [], 0
    if window:
        yield window


def _write_shard(blocks: list[list[TokenSequence]], path: Path) -> None:
    rows = []
    for block in blocks:
        lengths = np.array([len(sequence.ids) for sequence in block])
        is_target = np.concatenate([sequence.is_target for sequence in block])
        assert not is_target[np.cumsum(lengths) - lengths].any(), "a target without a token before it that predicts it"
        signals = [sequence.signal for sequence in block if sequence.signal] or [NO_SIGNAL]
        rows.append({
            "tokens": np.concatenate([sequence.ids for sequence in block]), "lengths": lengths,
            "predictors": np.flatnonzero(is_target) - 1,
            "topk_ids": np.concatenate([signal.ids.ravel() for signal in signals]),
            "topk_logprobs": np.concatenate([signal.logprobs.ravel() for signal in signals]),
            "tail": np.concatenate([signal.tail for signal in signals]),
        })
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _BLOCK) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_BLOCK))


class Blocks:
    """One split's shards, memory-mapped; `targets` (blocks,) counts the target tokens of each block."""

    def __init__(self, folder: Path, split: str) -> None:
        shards = json.loads((folder / f"{split}.json").read_text())["shards"]
        mapped = [pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all() for name in shards]
        self._table = pa.concat_tables([_BLOCK.empty_table(), *mapped])
        self.targets = pc.list_value_length(self._table["predictors"]).to_numpy()

    def __len__(self) -> int:
        return self._table.num_rows

    def batch(self, numbers: Sequence[int]) -> Batch:
        """These blocks, padded at their ends; no numbers give one padding token without a target."""
        rows = [{name: self._table[name][int(number)].values.to_numpy() for name in _BLOCK.names} for number in numbers]
        rows = rows or [_PADDING]
        length = max(len(row["tokens"]) for row in rows)
        ids, positions = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
        for b, row in enumerate(rows):
            ids[b, : len(row["tokens"])] = row["tokens"]
            lengths = np.append(row["lengths"], length - len(row["tokens"]))
            positions[b] = np.arange(length) - np.repeat(np.cumsum(lengths) - lengths, lengths)

        def joined(parts: Iterable[np.ndarray], dtype: type = np.int64) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(list(parts)).astype(dtype))

        tail_N = joined((row["tail"] for row in rows), np.float32)
        topk_ids = joined(row["topk_ids"] for row in rows)
        shape = (len(tail_N), len(topk_ids) // max(1, len(tail_N)))
        return Batch(
            input_ids_BL=torch.from_numpy(ids), position_ids_BL=torch.from_numpy(positions),
            where_N=joined(row["predictors"] + b * length for b, row in enumerate(rows)),
            labels_N=joined(row["tokens"][row["predictors"] + 1] for row in rows),
            topk_ids_NK=topk_ids.view(shape),
            topk_logprobs_NK=joined((row["topk_logprobs"] for row in rows), np.float32).view(shape),
            tail_N=tail_N,
        )


def rank_batches(numbers: np.ndarray, rank: int, workers: int, batch_size: int) -> Iterator[np.ndarray]:
    """The block numbers of each micro-batch of one rank; every rank gets equally many, the last ones may be empty."""
    mine = numbers[rank::workers]
    longest = -(-len(numbers) // workers)
    for start in range(0, longest, batch_size):
        yield mine[start : start + batch_size]
