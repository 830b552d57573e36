"""Token sequences -> packed blocks in Arrow IPC shards, and shards -> batches. Padding is never stored.

A block is a row of whole examples laid end to end. Position ids restart at each example, and that is how transformers
sees where one ends: its masks (causal, sliding, variable-length flash) never let attention cross.
Shapes: B blocks, L tokens of the longest block in a batch, N targets in a batch, K captured tokens per target.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from engine.records import derive_seed
from engine.rundir import write_atomic
from engine.stages.train.data import TokenSequence

SHARD_BYTES = 256 * 2**20
_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
# `predictors`: positions whose next token is a target; `top_*` and `tail` describe the teacher there.
_BLOCK = pa.schema([
    ("tokens", _INTS), ("lengths", _INTS), ("predictors", _INTS),
    ("topk_ids", _INTS), ("topk_logprobs", _FLOATS), ("tail", _FLOATS),
])


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
    """What packing did to one split: rows read, rows dropped by reason, and how full the blocks are (0 to 1)."""

    rows: int
    dropped: dict[str, int]
    shards: list[str]
    efficiency: float


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: indices of `lengths` grouped so that no group sums to more than `room`."""
    by_room: dict[int, list[list[int]]] = {}
    rooms: list[int] = []  # the keys of by_room, sorted
    blocks: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect.bisect_left(rooms, lengths[index])
        if at < len(rooms):
            left = rooms[at]
            block = by_room[left].pop()
            if not by_room[left]:
                del by_room[left], rooms[at]
        else:
            left, block = room, []
            blocks.append(block)
        block.append(index)
        left -= lengths[index]
        if left not in by_room:
            bisect.insort(rooms, left)
        by_room.setdefault(left, []).append(block)
    return blocks


def write_blocks(
    sequences: Iterable[TokenSequence], folder: Path, split: str,
    *, room: int, truncate: bool, seed: int, shard_bytes: int = SHARD_BYTES,
) -> Packed:
    """Pack one split into shards `<split>-NNNNN.arrow`; `<split>.json` appears last and makes them valid.

    An example longer than `room` is cut (`truncate`) or dropped as `too_long`; one without a target is `no_target`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{split}.json"
    if done.exists():
        return Packed(**json.loads(done.read_text()))
    rows, dropped, shards, kept_tokens, block_count = 0, {}, [], 0, 0
    window: list[TokenSequence] = []
    window_bytes = 0

    def close_window() -> None:
        nonlocal window_bytes, kept_tokens, block_count
        # The shuffle decides ties of equal length, so neighbours in the file do not share a block.
        order = np.random.default_rng(derive_seed(seed, "pack", split, len(shards))).permutation(len(window))
        blocks = [[window[order[i]] for i in block] for block in pack([len(window[i].ids) for i in order], room)]
        shards.append(f"{split}-{len(shards):05d}.arrow")
        _write_shard(blocks, folder / shards[-1])
        kept_tokens += sum(len(sequence.ids) for sequence in window)
        block_count += len(blocks)
        window.clear()
        window_bytes = 0

    for sequence in sequences:
        rows += 1
        too_long = len(sequence.ids) > room
        sequence = sequence.first(room) if too_long and truncate else sequence
        targets = int(sequence.is_target[1:].sum())
        if len(sequence.ids) > room or not targets:
            reason = "too_long" if too_long else "no_target"
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        window.append(sequence)
        window_bytes += 4 * len(sequence.ids) + (8 * sequence.signal.ids.size if sequence.signal else 0)
        if window_bytes >= shard_bytes:
            close_window()
    if window:
        close_window()
    packed = Packed(rows, dropped, shards, kept_tokens / max(1, block_count * room))
    write_atomic(done, json.dumps(dataclasses.asdict(packed)))
    return packed


def _write_shard(blocks: list[list[TokenSequence]], path: Path) -> None:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _BLOCK.names}
    for block in blocks:
        lengths = np.array([len(sequence.ids) for sequence in block], np.int32)
        is_target = np.concatenate([sequence.is_target for sequence in block])
        starts = np.cumsum(lengths) - lengths
        is_target[starts] = False  # nothing in its own example comes before a first token
        signals = [_predicted(sequence) for sequence in block]
        columns["tokens"].append(np.concatenate([sequence.ids for sequence in block]))
        columns["lengths"].append(lengths)
        columns["predictors"].append(np.flatnonzero(is_target) - 1)
        for at, name in enumerate(("topk_ids", "topk_logprobs", "tail")):
            columns[name].append(np.concatenate([parts[at].ravel() for parts in signals]))
    arrays = [_list_array(columns[f.name], f.type) for f in _BLOCK]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _BLOCK) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=_BLOCK))


def _predicted(sequence: TokenSequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The signal without that of a first token, which nothing predicts."""
    if sequence.signal is None:
        return np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32)
    skip = int(sequence.is_target[0])
    return sequence.signal.ids[skip:], sequence.signal.logprobs[skip:], sequence.signal.tail[skip:]


def _list_array(values: list[np.ndarray], kind: pa.ListType) -> pa.Array:
    offsets = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
    flat = np.concatenate(values).astype(kind.value_type.to_pandas_dtype(), copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind)


class Blocks:
    """One split's shards, memory-mapped; `targets` (blocks,) counts the target tokens of each block."""

    def __init__(self, folder: Path, split: str) -> None:
        self._columns: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
        for name in json.loads((folder / f"{split}.json").read_text())["shards"]:
            table = pa.ipc.open_file(pa.memory_map(str(folder / name))).get_batch(0)
            self._columns.append({
                field: (table[field].offsets.to_numpy(), table[field].values.to_numpy()) for field in _BLOCK.names
            })
        counts = [np.diff(columns["predictors"][0]) for columns in self._columns]
        self.targets = np.concatenate([*counts, np.zeros(0, np.int64)]).astype(np.int64)
        self._first = np.cumsum([0, *(len(count) for count in counts)])

    def __len__(self) -> int:
        return len(self.targets)

    def _row(self, number: int) -> dict[str, np.ndarray]:
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        at = number - self._first[shard]
        return {name: values[offsets[at] : offsets[at + 1]] for name, (offsets, values) in self._columns[shard].items()}

    def batch(self, numbers: Sequence[int]) -> Batch:
        """These blocks, padded at their ends; no numbers give one padding token without a target."""
        rows = [self._row(int(number)) for number in numbers]
        length = max((len(row["tokens"]) for row in rows), default=1)
        ids, positions = np.zeros((max(1, len(rows)), length), np.int64), np.zeros((max(1, len(rows)), length), np.int64)
        labels, where = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for b, row in enumerate(rows):
            ids[b, : len(row["tokens"])] = row["tokens"]
            lengths = np.append(row["lengths"], length - len(row["tokens"]))
            positions[b] = np.arange(length) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            where.append(row["predictors"] + b * length)
            labels.append(row["tokens"][row["predictors"] + 1])
        signal = {name: _joined([row[name] for row in rows]) for name in ("topk_ids", "topk_logprobs", "tail")}
        k = len(signal["topk_ids"]) // max(1, len(signal["tail"]))
        return Batch(
            input_ids_BL=torch.from_numpy(ids), position_ids_BL=torch.from_numpy(positions),
            where_N=torch.from_numpy(np.concatenate(where)).long(), labels_N=torch.from_numpy(np.concatenate(labels)).long(),
            topk_ids_NK=torch.from_numpy(signal["topk_ids"]).long().view(-1, k) if k else torch.zeros(0, 1, dtype=torch.long),
            topk_logprobs_NK=torch.from_numpy(signal["topk_logprobs"]).float().view(-1, k) if k else torch.zeros(0, 1),
            tail_N=torch.from_numpy(signal["tail"]).float(),
        )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*parts, np.zeros(0, np.float32)]) if len(parts) != 1 else parts[0].copy()


def rank_batches(numbers: np.ndarray, rank: int, workers: int, batch_size: int) -> Iterator[np.ndarray]:
    """The block numbers of each micro-batch of one rank; every rank gets equally many, the last ones may be empty."""
    mine = numbers[rank::workers]
    longest = -(-len(numbers) // workers)
    for start in range(0, longest, batch_size):
        yield mine[start : start + batch_size]
