"""Packed form of the top-k signal (`capture.codec: packed`): a fixed number of bytes per token,
about half of plain.

It does not know rows or files (engine/rows/records.py does). Shapes: T tokens, k captured
log-probabilities per token, n tokens of one chunk; V is the vocabulary size. A token is 4 bytes of
header and then one bit vector, zero-padded to a byte:

| part | size | content |
|---|---|---|
| tail | uint16, little-endian | 0: no mass outside the top k; c > 0: logit(tail) = (c - 1) * 64 /
65534 - 32 |
| span | float16, little-endian | R, the distance in nats from the largest log-probability to the
smallest, at most 32 |
| low | l * k bits | the low l bits of the ids in ascending order, one plane of k bits per bit,
lowest first |
| high | k + ((V - 1) >> l) bits | Elias-Fano: bit (id >> l) + i is set for the i-th id; l makes low
and high shortest |
| values | bits * k bits | codes c in id order, in planes as above: d = -R log(1 - c / (2^bits - 1)
(1 - e^-a)) / a |

d is the distance below the largest log-probability, which is not stored: it follows from the mass,
log((1 - tail) / sum e^-d). Quantisation error costs about p * step^2 / 24 nats, so levels should
lie as dense as (p * density of values)^(1/3), and for values that fall like a power of their rank
that is e^(-(1 - ln k / R) d / 3). Hence a = (R - ln k) / 4, at most 2: a little flatter than that,
so that the smallest values are not lost (benchmarks/signal).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CHUNK = 1024  # tokens worked on at once: bounds memory and stays in the cache
# nats; what lies deeper, -inf too, is stored at this distance (1e-14 of the largest probability)
SPAN_MAX = 32.0
LOGIT_MAX, LOGIT_STEP = 32.0, 64 / 65534


def token_bytes(k: int, vocab_size: int, bits: int) -> int:
    """Bytes of one packed token, header included. ValueError for a k that the vocabulary does not
    hold."""
    low, high = _id_bits(k, vocab_size)
    return 4 + -(-(k * low + high + k * bits) // 8)


def pack(
    ids: np.ndarray, logprobs: np.ndarray, tail: np.ndarray, vocab_size: int, bits: int
) -> bytes:
    """ids (T, k), logprobs (T, k) in nats and in any order, tail (T,) -> T * token_bytes bytes.

    ValueError for an id outside the vocabulary or twice in a token (padding is both), a NaN, or a
    token of -inf alone.
    """
    return b"".join(
        _pack(
            ids[at : at + CHUNK], logprobs[at : at + CHUNK], tail[at : at + CHUNK], vocab_size, bits
        )
        for at in range(0, len(ids), CHUNK)
    )


def unpack(
    data: bytes | memoryview, k: int, vocab_size: int, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed tokens -> ids (T, k) int32, logprobs (T, k) float32 descending, tail (T,) float32;
    their mass is 1.

    ValueError if the bytes are no whole number of tokens, or not what `pack` writes.
    """
    size = token_bytes(k, vocab_size, bits)
    if len(data) % size:
        raise ValueError(
            f"signal cut short: {len(data)} bytes, but a token has {size} (k={k}, vocabulary"
            f" {vocab_size}, {bits} bits)"
        )
    tokens = np.frombuffer(data, np.uint8).reshape(-1, size)
    ids, logprobs = np.empty((len(tokens), k), np.int32), np.empty((len(tokens), k), np.float32)
    tail = np.empty(len(tokens), np.float32)
    for at in range(0, len(tokens), CHUNK):
        here = slice(at, at + CHUNK)
        ids[here], logprobs[here], tail[here] = _unpack(tokens[here], k, vocab_size, bits)
    return ids, logprobs, tail


def pack_rows(
    rows: Sequence[tuple[Any, Any, Any]], k: int, vocab_size: int, bits: int
) -> list[bytes]:
    """(topk_ids (T*k,), topk_logprobs (T*k,), tail (T,)) of each row of a part -> its topk_packed;
    no tokens give b""."""
    if not rows:
        return []
    lengths = np.array([[len(column) for column in row] for row in rows])
    if (lengths != lengths[:, 2:] * [k, k, 1]).any():
        short = lengths[(lengths != lengths[:, 2:] * [k, k, 1]).any(axis=1)][0]
        raise ValueError(
            f"signal cut short: {short[0]} ids, {short[1]} log-probabilities for {short[2]} tokens"
            f" at top_k {k}"
        )
    ids, logprobs, tail = (
        np.concatenate([np.asarray(column) for column in columns])
        for columns in zip(*rows, strict=True)
    )
    packed = pack(ids.reshape(-1, k), logprobs.reshape(-1, k), tail, vocab_size, bits)
    ends = np.cumsum(lengths[:, 2]) * token_bytes(k, vocab_size, bits)
    return [packed[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _id_bits(k: int, vocab_size: int) -> tuple[int, int]:
    """(l, bits of `high`) with the smallest sum."""
    if not 1 <= k <= vocab_size:
        raise ValueError(
            f"top_k {k} with a vocabulary of {vocab_size}; a token has 1 to {vocab_size}"
            " log-probabilities"
        )
    low = min(
        range(vocab_size.bit_length()), key=lambda bits: k * bits + ((vocab_size - 1) >> bits)
    )
    return low, k + ((vocab_size - 1) >> low)


def _pack(
    ids: np.ndarray, logprobs: np.ndarray, tail: np.ndarray, vocab_size: int, bits: int
) -> bytes:
    (n, k), levels = ids.shape, (1 << bits) - 1
    low, high = _id_bits(k, vocab_size)
    largest = logprobs.max(axis=1, keepdims=True).astype(np.float32)
    if not (np.isfinite(largest).all() and np.isfinite(tail).all()):
        raise ValueError("a token with a NaN, or with no finite log-probability, cannot be packed")
    distance = np.minimum(largest - logprobs, SPAN_MAX, dtype=np.float32)
    span = distance.max(axis=1, keepdims=True).astype(np.float16)
    scale, curve = _curve(span, k)
    codes = np.rint(np.expm1(distance * (-curve / scale)) * (levels / np.expm1(-curve))).clip(
        0, levels
    )
    ranked = np.sort(
        ids.astype(np.int64) << 8 | codes.astype(np.int64), axis=1
    )  # one sort orders ids and codes
    ids, codes = ranked >> 8, (ranked & 255).astype(np.uint8)
    if ids[:, 0].min() < 0 or ids[:, -1].max() >= vocab_size:
        raise ValueError(
            f"ids {ids[:, 0].min()} to {ids[:, -1].max()} with a vocabulary of {vocab_size}"
        )
    if (ids[:, 1:] == ids[:, :-1]).any():
        raise ValueError("a token has the same id twice; capture each id once")
    vector = np.zeros((n, low * k + high + bits * k), np.uint8)
    _write_planes(vector[:, : low * k], ids, low)
    np.put_along_axis(vector[:, low * k :], (ids >> low) + np.arange(k), 1, axis=1)
    _write_planes(vector[:, low * k + high :], codes, bits)
    # The mass inside from the log-probabilities, not 1 - tail: exact where the tail is nearly
    # everything.
    mass = np.log(np.exp(-distance, dtype=np.float32).sum(axis=1)) + largest[:, 0]
    logit = np.log(np.maximum(tail, 1e-30), dtype=np.float32) - mass
    tails = np.where(
        tail > 0, np.rint((logit.clip(-LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX) / LOGIT_STEP) + 1, 0
    )
    header = np.column_stack([tails.astype("<u2"), span.astype("<f2").view("<u2")]).view(np.uint8)
    return np.concatenate([header, np.packbits(vector, axis=1)], axis=1).tobytes()


def _unpack(
    tokens: np.ndarray, k: int, vocab_size: int, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, (low, high) = len(tokens), _id_bits(k, vocab_size)
    header = np.ascontiguousarray(tokens[:, :4])
    vector = np.unpackbits(tokens[:, 4:], axis=1)
    rows, places = np.nonzero(vector[:, low * k : low * k + high])
    if len(rows) != n * k or (rows.reshape(n, k) != np.arange(n)[:, None]).any():
        raise ValueError(
            f"packed tokens without {k} ids each: damaged, or packed with another top_k, vocabulary"
            " or bits"
        )
    ids = (places.reshape(n, k) - np.arange(k)) << low | _read_planes(vector[:, : low * k], low, k)
    codes = _read_planes(vector[:, low * k + high : low * k + high + bits * k], bits, k)
    ranked = np.sort(codes << 32 | ids, axis=1)
    scale, curve = _curve(header.view("<f2")[:, 1:], k)
    levels = (1 << bits) - 1
    distance = np.log1p((ranked >> 32).astype(np.float32) * (np.expm1(-curve) / levels)) * (
        -scale / curve
    )
    tails = header.view("<u2")[:, 0]
    logit = np.where(tails > 0, (tails - 1.0) * LOGIT_STEP - LOGIT_MAX, -np.inf)
    mass = -np.logaddexp(0, logit)  # log(1 - tail)
    logprobs = (mass - np.log(np.exp(-distance).sum(axis=1)))[:, None] - distance
    return ranked & 0xFFFFFFFF, logprobs, np.exp(logit + mass)


def _curve(span: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """R (n, 1) as stored -> (R, a) for the module's formula, kept from 0, where its limit is a
    straight line."""
    scale = np.maximum(span.astype(np.float32), 1e-6)
    curve = np.minimum((scale - np.float32(np.log(k))) / 4, 2)
    return scale, np.where(abs(curve) < 1e-3, np.float32(1e-3), curve)


def _write_planes(vector: np.ndarray, values: np.ndarray, width: int) -> None:
    """values (n, k) -> `width` planes of k bits at the start of `vector`."""
    k = values.shape[1]
    for bit in range(width):
        vector[:, bit * k : (bit + 1) * k] = values >> bit & 1


def _read_planes(vector: np.ndarray, width: int, k: int) -> np.ndarray:
    """Planes as `_write_planes` leaves them -> values (n, k) int64."""
    values = np.zeros((len(vector), k), np.int64)
    for bit in range(width):
        values |= vector[:, bit * k : (bit + 1) * k].astype(np.int64) << bit
    return values
