"""Token sequences -> packed blocks in Arrow IPC shards. Padding is never stored; blocks.py reads
them back.

A block is a row of whole examples laid end to end. What no block can take is dropped, cut or split,
and counted.
"""

from __future__ import annotations

import bisect
import dataclasses
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
_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
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
            "efficiency": self.tokens / (blocks * self.block_tokens) if blocks else None,
            "examples_per_block": self.sequences / blocks if blocks else None,
            "captured_mass": self.captured_mass,
            "aligned": self.aligned,
        }


def load_packed(folder: Path, split: str) -> Packed:
    """The record of a finished split."""
    return Packed(**json.loads((folder / f"{split}.json").read_text()))


def targets_file(folder: Path, split: str) -> Path:
    """The target tokens of each block, int32 of shape (blocks,): the schedule wants them without
    opening a shard."""
    return folder / f"{split}-targets.npy"


def pack(lengths: Sequence[int] | np.ndarray, room: int) -> list[list[int]]:
    """Best-fit decreasing: indices of `lengths` grouped so that no group sums to more than
    `room`."""
    blocks: list[list[int]] = []
    by_room: list[list[int]] = [
        [] for _ in range(room + 1)
    ]  # blocks by the room that they have left, the last changed on top
    rooms: list[int] = []  # sorted: those that some block has
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[index])
        at = bisect.bisect_left(rooms, length)
        if at < len(rooms):
            left = rooms[at]
            block = by_room[left].pop()
            if not by_room[left]:
                del rooms[at]
        else:
            left, block = room, len(blocks)
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
    shards, targets, mass = [], [], 0.0
    for window in _windows(_pieces(sequences, room, long_examples, counts, dropped), shard_bytes):
        # The shuffle decides ties of equal length, so neighbours in the file do not share a block.
        order = np.random.default_rng(derive_seed(seed, "pack", split, len(shards))).permutation(
            len(window)
        )
        groups = pack([len(window[at][1].ids) for at in order], room)
        table = _shard_table([[window[order[i]] for i in group] for group in groups])
        tail = table["tail"].values.to_numpy()
        signed = tail >= 0
        mass += float((1 - tail[signed].astype(np.float64)).sum())
        counts += Counter(
            tokens=len(table["tokens"].values),
            sequences=len(window),
            aligned=int(signed.sum()),
            unaligned=int((~signed).sum()),
        )
        targets.append(np.diff(table["predictors"].offsets.to_numpy()))
        shards.append(_write_shard(table, folder, f"{split}-{len(shards):05d}"))
    per_block = np.concatenate([np.zeros(0, np.int32), *targets])
    np.save(targets_file(folder, split), per_block)
    packed = Packed(
        rows=counts["kept"] + dropped.total(),
        dropped=dict(dropped),
        shards=shards,
        shard_sizes=[len(shard) for shard in targets],
        long={name: counts[name] for name in ("truncated", "split", "pieces")},
        block_tokens=room,
        tokens=counts["tokens"],
        targets=int(per_block.sum()),
        sequences=counts["sequences"],
        captured_mass=mass / counts["aligned"] if counts["aligned"] else None,
        aligned=counts["aligned"] / (counts["aligned"] + counts["unaligned"])
        if counts["aligned"] + counts["unaligned"]
        else None,
    )
    write_atomic(done, json.dumps(dataclasses.asdict(packed)))
    return packed


def _pieces(
    sequences: Iterable[TokenSequence],
    room: int,
    long_examples: str,
    counts: Counter[str],
    dropped: Counter[str],
) -> Iterator[tuple[int, TokenSequence]]:
    """(row, sequence) of all that blocks take; counts rows `kept`, `truncated` and `split`,
    `pieces`, and reasons of drops."""
    for row, sequence in enumerate(sequences):
        length, pieces = len(sequence.ids), [sequence]
        if length > room:
            if long_examples == "drop":
                dropped["too_long"] += 1
                continue
            ends = range(room, length + room, room) if long_examples == "split" else [room]
            pieces = [_piece(sequence, end - room, end) for end in ends]
        pieces = [piece for piece in pieces if piece.is_target.any()]
        if not pieces:
            dropped["no_target"] += 1
            continue
        counts["kept"] += 1
        if length > room:
            counts += (
                Counter(split=1, pieces=len(pieces))
                if long_examples == "split"
                else Counter(truncated=1)
            )
        yield from ((row, piece) for piece in pieces)


def _piece(sequence: TokenSequence, start: int, end: int) -> TokenSequence:
    """Tokens [start, end) as a sequence of their own; nothing in it predicts its first token, which
    is therefore no target."""
    is_target = sequence.is_target[start:end].copy()
    first = np.count_nonzero(sequence.is_target[:start]) + int(is_target[0])
    is_target[0] = False
    if sequence.signal is None:
        return TokenSequence(sequence.ids[start:end], is_target)
    rows = slice(first, first + np.count_nonzero(is_target))
    signal = Signal(
        sequence.signal.ids[rows], sequence.signal.logprobs[rows], sequence.signal.tail[rows]
    )
    return TokenSequence(sequence.ids[start:end], is_target, signal)


def _windows(
    pieces: Iterable[tuple[int, TokenSequence]], shard_bytes: int
) -> Iterator[list[tuple[int, TokenSequence]]]:
    """Runs of sequences that fill one shard each."""
    window, size_bytes = [], 0
    for row, sequence in pieces:
        window.append((row, sequence))
        size_bytes += 4 * len(sequence.ids) + 4 * np.count_nonzero(sequence.is_target)
        if sequence.signal:
            size_bytes += 8 * sequence.signal.ids.size + 4 * len(sequence.signal.tail)
        if size_bytes >= shard_bytes:
            yield window
            window, size_bytes = [], 0
    if window:
        yield window


def _shard_table(blocks: list[list[tuple[int, TokenSequence]]]) -> pa.RecordBatch:
    """The columns of BLOCK; all is joined at once, for a shard has some hundred thousand
    examples."""
    sequences = [sequence for block in blocks for _, sequence in block]
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
    k = signals[0].ids.shape[1] if signals else 0
    none = np.zeros_like(target_ends)

    def joined(parts: Iterable[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *(part.ravel() for part in parts)]).astype(
            dtype, copy=False
        )

    columns = {
        "tokens": (joined((sequence.ids for sequence in sequences), np.int32), block_ends),
        "rows": (np.array([row for block in blocks for row, _ in block], np.int32), example_ends),
        "lengths": (lengths, example_ends),
        "predictors": (
            (where - np.repeat(block_ends[:-1], np.diff(target_ends)) - 1).astype(np.int32),
            target_ends,
        ),
        "topk_ids": (joined((signal.ids for signal in signals), np.int32), k * target_ends),
        "topk_logprobs": (
            joined((signal.logprobs for signal in signals), np.float32),
            k * target_ends,
        ),
        "tail": (
            joined((signal.tail for signal in signals), np.float32),
            target_ends if signals else none,
        ),
    }
    arrays = [
        pa.ListArray.from_arrays(ends.astype(np.int32), values)
        for values, ends in (columns[name] for name in BLOCK.names)
    ]
    return pa.record_batch(arrays, schema=BLOCK)


def _write_shard(table: pa.RecordBatch, folder: Path, name: str) -> str:
    """The name of the file, with the hash of its content: copies of it can be told from those of
    any other."""
    partial = folder / f".{name}.partial"
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, BLOCK) as writer:
        writer.write_batch(table)
    final = f"{name}-{file_sha256(partial)[:16]}.arrow"
    os.replace(partial, folder / final)
    return final
