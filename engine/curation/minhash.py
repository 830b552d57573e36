"""Band keys: 20 numbers per text, of which texts that are alike share one or more.

MinHash (Broder 1997) with banding (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
Two texts of Jaccard similarity j share a key with probability 1 - (1 - j**6)**20: 0.9976 at 0.8,
0.27 at 0.5. What shares a key is a candidate, not a duplicate: near_duplicates.py verifies each.
"""

from __future__ import annotations

import functools

import numpy as np

from engine.curation.priority import splitmix64
from engine.curation.shingles import Hashes

BANDS = 20
ROWS = 6  # hashes per band
NO_KEY = np.uint64(0)  # of a text without shingles; no other text has it

_BATCH_SHINGLES = 1 << 15  # with their products they stay in the second cache
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def band_keys(shingles: Hashes) -> np.ndarray:
    """The keys of each text, (N, BANDS) uint64, a column in one piece. Only keys of the same band
    compare. A text without shingles has NO_KEY in each band, which `candidate_pairs` matches with
    nothing."""
    starts, values = shingles
    keys = np.full((BANDS, len(starts) - 1), NO_KEY, np.uint64)
    texts = np.flatnonzero(np.diff(starts))
    ends = starts[texts + 1]
    first = 0
    while first < len(texts):
        begin = starts[texts[first]]
        fitting = int(np.searchsorted(ends, begin + _BATCH_SHINGLES, side="right"))
        last = max(fitting, first + 1)
        batch = texts[first:last]
        keys[:, batch] = _keys(values[begin : ends[last - 1]], starts[batch] - begin)
        first = last
    return keys.T


def _keys(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(BANDS, N) keys of N texts that all have shingles: the least of their hashes by each of 120
    orders, six of them in a key."""
    short = values.astype(np.uint32)  # 32 bits find candidates; all 48 decide about them
    products = np.empty_like(short)
    least = np.empty(len(starts), np.uint32)
    keys = np.empty((BANDS, len(starts)), np.uint64)
    for band, multipliers in enumerate(_multipliers()):
        key = np.zeros(len(starts), np.uint64)
        for multiplier in multipliers:
            np.multiply(short, multiplier, out=products)
            np.minimum.reduceat(products, starts, out=least)
            key = key * _MULTIPLIER + least
        keys[band] = np.maximum(splitmix64(key), NO_KEY + np.uint64(1))
    return keys


@functools.cache
def _multipliers() -> np.ndarray:
    """(BANDS, ROWS) odd uint32: each orders 32-bit numbers in its own way (multiplicative hashing:
    Dietzfelbinger and others 1997)."""
    drawn = splitmix64(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64))
    return drawn.astype(np.uint32).reshape(BANDS, ROWS) | np.uint32(1)
