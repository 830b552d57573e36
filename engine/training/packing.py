"""Token sequences -> packed blocks in Arrow IPC shards. Padding is never stored; blocks.py reads
them back.

A block is a row of whole examples laid end to end. What no block can take is dropped, cut or split,
and counted.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.rows.ids import derive_seed
from engine.rows.signal import Signal
from engine.store.files import file_sha256, write_atomic
from engine.training.data import TokenSequence

SHARD_BYTES = 256 * 2**20
_INTS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
# `rows` and `lengths`: one per example; `predictors`: positions whose next token is a target;
# `topk_*` and `tail`: the teacher there.
BLOCK = pa.schema(
    [
        ("tokens", _INTS),
        ("rows", _INTS),
        ("lengths", _INTS),
        ("predictors", _INTS),
        ("topk_ids", _INTS),
        ("topk_logprobs", _FLOATS),
        ("tail", _FLOATS),
    ]
)

Placed = tuple[int, TokenSequence]  # a sequence, behind its row's place in the curated split


@dataclass(frozen=True)
class Packed:
    """What packing did to one split: rows read, rows dropped by reason, and the shards with the
    rest.

    `long` counts rows `truncated` and `split`, and the `pieces` of the latter. `captured_mass` is
    the mean probability in the teacher's top k, `aligned` the share of targets with a distribution
    of the teacher; both None without a signal.
    """

    rows: int
    dropped: dict[str, int]
    shards: list[str]
    shard_sizes: list[int]  # blocks
    long: dict[str, int]
    block_tokens: int
    tokens: int
    targets: int
    sequences: int
    captured_mass: float | None
    aligned: float | None

    def summary(self) -> dict[str, Any]:
        """What the manifest says of it; `efficiency` is the share of the blocks' room that holds
        tokens."""
        blocks = sum(self.shard_sizes)
        return {
            "blocks": blocks,
            "tokens": self.tokens,
            "target_tokens": self.targets,
            **self.long,
            "efficiency": _share(self.tokens, blocks * self.block_tokens),
            "examples_per_block": _share(self.sequences, blocks),
            "captured_mass": self.captured_mass,
            "aligned": self.aligned,
        }


def _share(part: float, whole: float) -> float | None:
    if not whole:
        return None
    return part / whole


def load_packed(folder: Path, split: str) -> Packed:
    """The record of a finished split."""
    record = (folder / f"{split}.json").read_text()
    return Packed(**json.loads(record))


def targets_file(folder: Path, split: str) -> Path:
    """The target tokens of each block, int32 of shape (blocks,): the schedule wants them without
    opening a shard."""
    return folder / f"{split}-targets.npy"


def fill_blocks(lengths: Sequence[int] | np.ndarray, room: int) -> list[list[int]]:
    """Best-fit decreasing: indices of `lengths` grouped so that no group sums to more than
    `room`."""
    blocks: list[list[int]] = []
    # blocks by the room that they have left, the last changed on top
    by_room: list[list[int]] = [[] for _ in range(room + 1)]
    rooms: list[int] = []  # sorted: those that some block has
    longest_first = np.argsort(-np.asarray(lengths), kind="stable")
    for index in longest_first.tolist():
        length = int(lengths[index])
        at = bisect.bisect_left(rooms, length)
        if at < len(rooms):
            left = rooms[at]
            block = by_room[left].pop()
            if not by_room[left]:
                del rooms[at]
        else:
            left = room
            block = len(blocks)
            blocks.append([])
        blocks[block].append(index)
        if not by_room[left - length]:
            bisect.insort(rooms, left - length)
        by_room[left - length].append(block)
    return blocks


def write_blocks(
    sequences: Iterable[TokenSequence],
    folder: Path,
    split: str,
    *,
    room: int,
    seed: int,
    long_examples: str = "drop",
    shard_bytes: int = SHARD_BYTES,
) -> Packed:
    """Pack one split into shards `<split>-NNNNN-<hash>.arrow`; `<split>.json` appears last and
    makes them valid.

    An example longer than `room` tokens is dropped as `too_long`, truncated or split; one without a
    target is dropped as `no_target`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{split}.json"
    if done.exists():
        return load_packed(folder, split)
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    shards: list[str] = []
    targets: list[np.ndarray] = []
    mass = 0.0
    pieces = _pieces(sequences, room, long_examples, counts, dropped)
    for window in _windows(pieces, shard_bytes):
        shuffle_seed = derive_seed(seed, "pack", split, len(shards))
        table = _shard_table(_blocks_of(window, room, shuffle_seed))
        tail = table["tail"].values.to_numpy()
        signed = tail >= 0
        outside = tail[signed].astype(np.float64)
        mass += float((1 - outside).sum())
        counts += Counter(
            tokens=len(table["tokens"].values),
            sequences=len(window),
            aligned=int(signed.sum()),
            unaligned=int((~signed).sum()),
        )
        target_ends = table["predictors"].offsets.to_numpy()
        targets.append(np.diff(target_ends))
        shards.append(_write_shard(table, folder, f"{split}-{len(shards):05d}"))
    per_block = np.concatenate([np.zeros(0, np.int32), *targets])
    np.save(targets_file(folder, split), per_block)
    with_or_without = counts["aligned"] + counts["unaligned"]
    long = {name: counts[name] for name in ("truncated", "split", "pieces")}
    packed = Packed(
        rows=counts["kept"] + dropped.total(),
        dropped=dict(dropped),
        shards=shards,
        shard_sizes=[len(blocks) for blocks in targets],
        long=long,
        block_tokens=room,
        tokens=counts["tokens"],
        targets=int(per_block.sum()),
        sequences=counts["sequences"],
        captured_mass=_share(mass, counts["aligned"]),
        aligned=_share(counts["aligned"], with_or_without),
    )
    write_atomic(done, json.dumps(dataclasses.asdict(packed)))
    return packed


def _blocks_of(window: list[Placed], room: int, seed: int) -> list[list[Placed]]:
    """One shard's sequences, block by block."""
    # The shuffle decides ties of equal length, so neighbours in the file do not share a block.
    order = np.random.default_rng(seed).permutation(len(window))
    shuffled = [window[at] for at in order]
    lengths = [len(sequence.ids) for _, sequence in shuffled]
    blocks = []
    for group in fill_blocks(lengths, room):
        blocks.append([shuffled[at] for at in group])
    return blocks


def _pieces(
    sequences: Iterable[TokenSequence],
    room: int,
    long_examples: str,
    counts: Counter[str],
    dropped: Counter[str],
) -> Iterator[Placed]:
    """All that blocks take; counts rows `kept`, `truncated` and `split`,
    `pieces`, and reasons of drops."""
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        pieces = [sequence]
        if length > room:
            if long_examples == "drop":
                dropped["too_long"] += 1
                continue
            last = length if long_examples == "split" else room
            begins = range(0, last, room)
            pieces = [_piece(sequence, begin, begin + room) for begin in begins]
        pieces = [piece for piece in pieces if piece.is_target.any()]
        if not pieces:
            dropped["no_target"] += 1
            continue
        counts["kept"] += 1
        if length > room:
            if long_examples == "split":
                counts["split"] += 1
                counts["pieces"] += len(pieces)
            else:
                counts["truncated"] += 1
        for piece in pieces:
            yield row, piece


def _piece(sequence: TokenSequence, start: int, end: int) -> TokenSequence:
    """Tokens [start, end) as a sequence of their own; nothing in it predicts its first token, which
    is therefore no target."""
    is_target = sequence.is_target[start:end].copy()
    first = np.count_nonzero(sequence.is_target[:start])
    if is_target[0]:
        first += 1
    is_target[0] = False
    if sequence.signal is None:
        return TokenSequence(sequence.ids[start:end], is_target)
    rows = slice(first, first + np.count_nonzero(is_target))
    whole = sequence.signal
    signal = Signal(whole.ids[rows], whole.logprobs[rows], whole.tail[rows])
    return TokenSequence(sequence.ids[start:end], is_target, signal)


def _windows(pieces: Iterable[Placed], shard_bytes: int) -> Iterator[list[Placed]]:
    """Runs of sequences that fill one shard each."""
    window: list[Placed] = []
    size_bytes = 0
    for row, sequence in pieces:
        window.append((row, sequence))
        size_bytes += _count_bytes(sequence)
        if size_bytes >= shard_bytes:
            yield window
            window = []
            size_bytes = 0
    if window:
        yield window


def _count_bytes(sequence: TokenSequence) -> int:
    """About what it takes in a shard: numbers of four bytes."""
    numbers = len(sequence.ids) + int(np.count_nonzero(sequence.is_target))
    if sequence.signal:
        numbers += 2 * sequence.signal.ids.size
        numbers += len(sequence.signal.tail)
    return 4 * numbers


def _shard_table(blocks: list[list[Placed]]) -> pa.RecordBatch:
    """The columns of BLOCK; all is joined at once, for a shard has some hundred thousand
    examples."""
    examples = list(itertools.chain.from_iterable(blocks))
    rows = np.array([row for row, _ in examples], np.int32)
    sequences = [sequence for _, sequence in examples]
    signals = [sequence.signal for sequence in sequences if sequence.signal]
    lengths = np.array([len(sequence.ids) for sequence in sequences], np.int32)
    example_ends = np.cumsum([0, *map(len, blocks)])
    token_ends = np.concatenate([[0], np.cumsum(lengths)])
    is_target = np.concatenate([sequence.is_target for sequence in sequences])
    assert not is_target[token_ends[:-1]].any(), (
        "a target without a token before it that predicts it"
    )
    assert len(signals) in (0, len(sequences)), (
        f"{len(signals)} of {len(sequences)} sequences have a signal"
    )
    where = np.flatnonzero(is_target)
    block_ends = token_ends[example_ends]
    target_ends = np.searchsorted(where, block_ends)
    block_starts = np.repeat(block_ends[:-1], np.diff(target_ends))
    signal_ends = np.zeros_like(target_ends)
    k = 0
    if signals:
        signal_ends = target_ends
        k = signals[0].ids.shape[1]
    columns = {
        "tokens": (_joined(sequences, "ids", np.int32), block_ends),
        "rows": (rows, example_ends),
        "lengths": (lengths, example_ends),
        "predictors": ((where - block_starts - 1).astype(np.int32), target_ends),
        "topk_ids": (_joined(signals, "ids", np.int32), k * target_ends),
        "topk_logprobs": (_joined(signals, "logprobs", np.float32), k * target_ends),
        "tail": (_joined(signals, "tail", np.float32), signal_ends),
    }
    arrays = []
    for name in BLOCK.names:
        values, ends = columns[name]
        arrays.append(pa.ListArray.from_arrays(ends.astype(np.int32), values))
    return pa.record_batch(arrays, schema=BLOCK)


def _joined(parts: Sequence[TokenSequence | Signal], name: str, dtype: type) -> np.ndarray:
    """The arrays of this name, end to end."""
    arrays = [getattr(part, name).ravel() for part in parts]
    whole = np.concatenate([np.zeros(0, dtype), *arrays])
    return whole.astype(dtype, copy=False)


def _write_shard(table: pa.RecordBatch, folder: Path, name: str) -> str:
    """The name of the file, with the hash of its content: copies of it can be told from those of
    any other."""
    partial = folder / f".{name}.partial"
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, BLOCK) as writer:
        writer.write_batch(table)
    final = f"{name}-{file_sha256(partial)[:16]}.arrow"
    os.replace(partial, folder / final)
    return final
