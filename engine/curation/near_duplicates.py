"""Which rows are near twins of which, exactly: candidates by shared keys, each verified.

Each step sees only what it needs, so that each can be a task of its own: `candidate_pairs` one
band's column of keys, `jaccards` the shingles of candidates, `twins` and `clusters` pairs of row
numbers. What comes out depends on rows and their rank, not on the order in which they lie.

    N   rows        P   pairs of rows, as row numbers (lower, higher)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from engine.curation.minhash import NO_KEY
from engine.curation.shingles import HASH_BITS, Hashes, each_once, is_new, places_of

ALL_PAIRS_UP_TO = 32  # rows that share a key
OTHERS = 8  # of more rows: how many of the best, and of those just before it, each is paired with

_BATCH_SHINGLES = 1 << 16  # of both sides: they are sorted in the second cache
_BATCH_PAIRS = 1 << 15


class Twins(NamedTuple):
    """Rows that go: `rows` (D,) int64, ascending; for each the row that stays and is most like it,
    `twin_of` (D,) int64; how much, `jaccard` (D,) float64."""

    rows: np.ndarray
    twin_of: np.ndarray
    jaccard: np.ndarray


def candidate_pairs(keys_N: np.ndarray, rank_N: np.ndarray) -> np.ndarray:
    """Pairs of rows with the same key in one band, (P, 2) int64, each once, sorted; the pairs of
    all bands make `united`.

    Every pair of up to 32 rows that share a key; of more rows each with the eight that rank best
    and the eight that rank next before it, so that a crowd makes pairs by its number, not by its
    square. Rows with NO_KEY have no pair: give it to rows that are out already.
    """
    order = np.argsort(keys_N)
    keys = keys_N[order]
    is_shared = np.zeros(len(keys), bool)
    is_shared[1:] = (keys[1:] == keys[:-1]) & (keys[1:] != NO_KEY)
    is_shared[:-1] |= is_shared[1:]
    rows = order[is_shared]
    rows = rows[np.lexsort((rows, rank_N[rows], keys_N[rows]))]
    return _pairs_of_buckets(rows, keys_N[rows])


def _pairs_of_buckets(rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Of rows sorted by key and rank; a bucket is the rows of one key."""
    is_first = is_new(keys)
    bucket = np.cumsum(is_first) - 1
    first = np.flatnonzero(is_first)[bucket]
    place = np.arange(len(rows)) - first
    is_crowded = np.bincount(bucket)[bucket] > ALL_PAIRS_UP_TO
    pairs = []
    for back in range(1, ALL_PAIRS_UP_TO):
        here = place >= back
        if back > OTHERS:
            here &= ~is_crowded
        later = np.flatnonzero(here)
        pairs.append(np.stack([rows[later - back], rows[later]], axis=1))
    for best in range(OTHERS):
        later = np.flatnonzero(is_crowded & (place > best + OTHERS))
        pairs.append(np.stack([rows[first[later] + best], rows[later]], axis=1))
    return united([np.concatenate(pairs)])


def united(pairs: Iterable[np.ndarray]) -> np.ndarray:
    """Several arrays of pairs as one, (P, 2) int64: each once, sorted, the lower row first. They
    are taken one by one, since most pairs come in several bands. Rows are below 2**31."""
    codes = np.zeros(0, np.int64)
    for some_P2 in pairs:
        one, other = some_P2.T
        more = np.minimum(one, other) << 32 | np.maximum(one, other)
        codes = each_once(np.concatenate([codes, more]))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def jaccards(pairs_P2: np.ndarray, shingles: Hashes) -> np.ndarray:
    """How alike each pair is, exactly: (P,) float64, shingles of both / shingles of either; 0 where
    there are none. Row numbers are those of `shingles`."""
    sizes_P2 = np.diff(shingles.starts)[pairs_P2]
    total_P = sizes_P2.sum(axis=1)
    ends = np.cumsum(total_P)
    shared_P = np.zeros(len(pairs_P2), np.int64)
    first = 0
    while first < len(pairs_P2):
        before = ends[first] - total_P[first]
        fitting = int(np.searchsorted(ends, before + _BATCH_SHINGLES, side="right"))
        last = min(max(fitting, first + 1), first + _BATCH_PAIRS)
        here = slice(first, last)
        shared_P[here] = _shared(pairs_P2[here], shingles)
        first = last
    return shared_P / np.maximum(total_P - shared_P, 1)


def _shared(pairs_P2: np.ndarray, shingles: Hashes) -> np.ndarray:
    """How many shingles the rows of each pair share: those that come twice among the pair's. Pair
    and hash are sorted as one number."""
    owners, places = places_of(shingles.starts, pairs_P2.ravel())
    pair = (owners >> 1).astype(np.uint64)
    found = (pair << np.uint64(HASH_BITS)) | shingles.values[places]
    found.sort()
    twice = found[1:][found[1:] == found[:-1]] >> np.uint64(HASH_BITS)
    return np.bincount(twice.astype(np.int64), minlength=len(pairs_P2))


def twins(
    pairs_P2: np.ndarray, jaccards_P: np.ndarray, rank_N: np.ndarray, at_least: float
) -> Twins:
    """Who goes: by rank, lowest first, a row goes if one that stays is its twin, that is, if their
    pair has a Jaccard of `at_least` or more. So nothing goes for a row that goes itself: of
    A ~ B ~ C in this order, where A and C are no twins, A and C stay.

    `rank_N` (N,) is each row's, the best the lowest; equal ones go by row number.
    """
    are_twins = jaccards_P >= at_least
    jaccard = jaccards_P[are_twins]
    nodes, pairs = np.unique(pairs_P2[are_twins], return_inverse=True)
    rank = np.empty(len(nodes), np.int64)
    rank[np.lexsort((nodes, rank_N[nodes]))] = np.arange(len(nodes))
    better, worse = _by_rank(pairs.reshape(-1, 2), rank)
    goes = _goes(better, worse, len(nodes))
    decides = np.flatnonzero(goes[worse] & ~goes[better])
    decides = decides[np.lexsort((rank[better[decides]], -jaccard[decides], worse[decides]))]
    rows, most_like = np.unique(worse[decides], return_index=True)
    chosen = decides[most_like]
    return Twins(nodes[rows], nodes[better[chosen]], jaccard[chosen])


def _by_rank(pairs_P2: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_ordered = rank[pairs_P2[:, 0]] < rank[pairs_P2[:, 1]]
    better = np.where(is_ordered, pairs_P2[:, 0], pairs_P2[:, 1])
    worse = np.where(is_ordered, pairs_P2[:, 1], pairs_P2[:, 0])
    return better, worse


def _goes(better: np.ndarray, worse: np.ndarray, count: int) -> np.ndarray:
    """Round by round: a row without a better twin that may stay, stays; its worse twins go."""
    goes = np.zeros(count, bool)
    while len(worse):
        waits = np.zeros(count, bool)
        waits[worse] = True
        goes[worse[~waits[better]]] = True
        is_open = ~(goes[worse] | goes[better])
        better = better[is_open]
        worse = worse[is_open]
    return goes


def clusters(pairs_P2: np.ndarray, count: int) -> np.ndarray:
    """Connected components of `count` rows, (N,) int64: each is named by its lowest row number. For
    reports and splits; who goes is said by `twins`."""
    from scipy.sparse import coo_array  # half a second to import
    from scipy.sparse.csgraph import connected_components

    nodes, pairs = np.unique(pairs_P2, return_inverse=True)
    one, other = pairs.reshape(-1, 2).T
    size = len(nodes)
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    component = connected_components(graph, directed=False)[1]
    lowest = np.unique(component, return_index=True)[1]
    named = np.arange(count)
    named[nodes] = nodes[lowest[component]]
    return named
