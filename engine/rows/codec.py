"""Packed form of the top-k signal (`capture.codec: packed`): a fixed number of bytes per token,
about half of plain.

It does not know rows or files (engine/rows/records.py does). Shapes: T tokens, k captured
log-probabilities per token, n tokens of one chunk; V is the vocabulary size. A token is 4 bytes of
header and then one bit vector, zero-padded to a byte:

| part | size | content |
|---|---|---|
| tail | uint16, little-endian | 0: no mass outside the top k; else c (1) |
| span | float16, little-endian | R, in nats from the largest log-probability to the smallest (2) |
| low | l * k bits | the low l bits of the ids in ascending order (3) |
| high | k + ((V - 1) >> l) bits | Elias-Fano: bit (id >> l) + i is set for the i-th id (4) |
| values | bits * k bits | codes c in id order (3), for the distances d (5) |

(1) logit(tail) = (c - 1) * 64 / 65534 - 32
(2) at most 32
(3) one plane of k bits per bit, lowest first
(4) l makes low and high shortest
(5) d = -R log(1 - c / (2^bits - 1) (1 - e^-a)) / a

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
LOGIT_MAX = 32.0
LOGIT_STEP = 64 / 65534
_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def token_bytes(k: int, vocab_size: int, bits: int) -> int:
    """Bytes of one packed token, header included. ValueError for a k that the vocabulary does not
    hold."""
    low, high = _id_bits(k, vocab_size)
    return 4 + -(-(k * low + high + k * bits) // 8)


def pack(
    ids: np.ndarray,
    logprobs: np.ndarray,
    tail: np.ndarray,
    vocab_size: int,
    bits: int,
) -> bytes:
    """ids (T, k), logprobs (T, k) in nats and in any order, tail (T,) -> T * token_bytes bytes.

    ValueError for an id outside the vocabulary or twice in a token (padding is both), a NaN, or a
    token of -inf alone.
    """
    chunks = []
    for at in range(0, len(ids), CHUNK):
        here = slice(at, at + CHUNK)
        chunks.append(_pack(ids[here], logprobs[here], tail[here], vocab_size, bits))
    return b"".join(chunks)


def unpack(data: bytes | memoryview, k: int, vocab_size: int, bits: int) -> _Arrays:
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
    ids = np.empty((len(tokens), k), np.int32)
    logprobs = np.empty((len(tokens), k), np.float32)
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
    lengths = np.array([list(map(len, row)) for row in rows])
    tokens = lengths[:, 2:]
    is_short = (lengths != tokens * [k, k, 1]).any(axis=1)
    if is_short.any():
        short = lengths[is_short][0]
        raise ValueError(
            f"signal cut short: {short[0]} ids, {short[1]} log-probabilities for {short[2]} tokens"
            f" at top_k {k}"
        )
    flat_ids, flat_logprobs, tail = map(_joined, zip(*rows, strict=True))
    ids = flat_ids.reshape(-1, k)
    logprobs = flat_logprobs.reshape(-1, k)
    packed = pack(ids, logprobs, tail, vocab_size, bits)
    ends = np.cumsum(tokens) * token_bytes(k, vocab_size, bits)
    starts = [0, *ends[:-1]]
    return [packed[start:end] for start, end in zip(starts, ends, strict=True)]


def _joined(columns: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(column) for column in columns])


def _id_bits(k: int, vocab_size: int) -> tuple[int, int]:
    """(l, bits of `high`) with the smallest sum."""
    if not 1 <= k <= vocab_size:
        raise ValueError(
            f"top_k {k} with a vocabulary of {vocab_size}; a token has 1 to {vocab_size}"
            " log-probabilities"
        )
    last_id = vocab_size - 1
    choices = range(vocab_size.bit_length())
    low = min(choices, key=lambda bits: k * bits + (last_id >> bits))
    return low, k + (last_id >> low)


def _pack(
    ids: np.ndarray,
    logprobs: np.ndarray,
    tail: np.ndarray,
    vocab_size: int,
    bits: int,
) -> bytes:
    largest = logprobs.max(axis=1, keepdims=True).astype(np.float32)
    is_finite = np.isfinite(largest).all() and np.isfinite(tail).all()
    if not is_finite:
        raise ValueError("a token with a NaN, or with no finite log-probability, cannot be packed")
    distance = np.minimum(largest - logprobs, SPAN_MAX, dtype=np.float32)
    span = distance.max(axis=1, keepdims=True).astype(np.float16)
    codes = _value_codes(distance, span, bits)
    ids, codes = _in_id_order(ids, codes, vocab_size)
    vector = _bit_vector(ids, codes, vocab_size, bits)
    # The mass inside from the log-probabilities, not 1 - tail: exact where the tail is nearly
    # everything.
    of_largest = np.exp(-distance, dtype=np.float32).sum(axis=1)
    mass = np.log(of_largest) + largest[:, 0]
    tails = _tail_codes(tail, mass).astype("<u2")
    spans = span.astype("<f2").view("<u2")
    header = np.column_stack([tails, spans]).view(np.uint8)
    body = np.packbits(vector, axis=1)
    return np.concatenate([header, body], axis=1).tobytes()


def _value_codes(distance: np.ndarray, span: np.ndarray, bits: int) -> np.ndarray:
    """distance (n, k) -> codes (n, k), whole numbers as float32."""
    scale, curve = _curve(span, distance.shape[1])
    levels = (1 << bits) - 1
    bent = np.expm1(distance * (-curve / scale))
    return np.rint(bent * (levels / np.expm1(-curve))).clip(0, levels)


def _in_id_order(
    ids: np.ndarray, codes: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """ids (n, k) int64 ascending, and their codes (n, k) uint8. ValueError for ids that cannot be
    packed."""
    ranked = ids.astype(np.int64) << 8 | codes.astype(np.int64)
    ranked.sort(axis=1)  # one sort orders ids and codes
    ids = ranked >> 8
    first, last = ids[:, 0].min(), ids[:, -1].max()
    if first < 0 or last >= vocab_size:
        raise ValueError(f"ids {first} to {last} with a vocabulary of {vocab_size}")
    if (ids[:, 1:] == ids[:, :-1]).any():
        raise ValueError("a token has the same id twice; capture each id once")
    return ids, (ranked & 255).astype(np.uint8)


def _bit_vector(ids: np.ndarray, codes: np.ndarray, vocab_size: int, bits: int) -> np.ndarray:
    """One bit per uint8 (n, bits of a token): what `np.packbits` makes the bytes of."""
    n, k = ids.shape
    low, high = _id_bits(k, vocab_size)
    vector = np.zeros((n, low * k + high + bits * k), np.uint8)
    low_bits, high_bits, value_bits = _parts_of(vector, k, low, high)
    _write_planes(low_bits, ids, low)
    np.put_along_axis(high_bits, (ids >> low) + np.arange(k), 1, axis=1)
    _write_planes(value_bits, codes, bits)
    return vector


def _parts_of(vector: np.ndarray, k: int, low: int, high: int) -> _Arrays:
    """Views of low, high and values, the last with its padding."""
    high_at = low * k
    values_at = high_at + high
    return vector[:, :high_at], vector[:, high_at:values_at], vector[:, values_at:]


def _tail_codes(tail: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """tail (n,) and log of the mass inside (n,) -> codes (n,), whole numbers as floats."""
    logit = np.log(np.maximum(tail, 1e-30), dtype=np.float32) - mass
    above_least = logit.clip(-LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX
    return np.where(tail > 0, np.rint(above_least / LOGIT_STEP) + 1, 0)


def _unpack(tokens: np.ndarray, k: int, vocab_size: int, bits: int) -> _Arrays:
    n = len(tokens)
    low, high = _id_bits(k, vocab_size)
    header = np.ascontiguousarray(tokens[:, :4])
    vector = np.unpackbits(tokens[:, 4:], axis=1)
    low_bits, high_bits, value_bits = _parts_of(vector, k, low, high)
    rows, places = np.nonzero(high_bits)
    if not np.array_equal(rows, np.repeat(np.arange(n), k)):
        raise ValueError(
            f"packed tokens without {k} ids each: damaged, or packed with another top_k, vocabulary"
            " or bits"
        )
    quotients = places.reshape(n, k) - np.arange(k)
    ids = quotients << low | _read_planes(low_bits, low, k)
    ranked = _read_planes(value_bits, bits, k) << 32 | ids
    ranked.sort(axis=1)  # by code, so by distance
    span = header.view("<f2")[:, 1:]
    distance = _distances(ranked >> 32, span, bits)
    tails = header.view("<u2")[:, 0]
    coded_logit = (tails - 1.0) * LOGIT_STEP - LOGIT_MAX
    logit = np.where(tails > 0, coded_logit, -np.inf)
    mass = -np.logaddexp(0, logit)  # log(1 - tail)
    largest = mass - np.log(np.exp(-distance).sum(axis=1))
    logprobs = largest[:, None] - distance
    return ranked & 0xFFFFFFFF, logprobs, np.exp(logit + mass)


def _distances(codes: np.ndarray, span: np.ndarray, bits: int) -> np.ndarray:
    """codes (n, k) -> distance (n, k) in nats: the way back from `_value_codes`."""
    scale, curve = _curve(span, codes.shape[1])
    levels = (1 << bits) - 1
    shrunk = codes.astype(np.float32) * (np.expm1(-curve) / levels)
    return np.log1p(shrunk) * (-scale / curve)


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
