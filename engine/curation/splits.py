"""Which prompts are for validation: whole groups on one side, so that nothing is measured on what
was learnt.

A group is what must not be torn apart: a dialogue, a document, a cluster of near duplicates.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.curation.ledger import coded
from engine.curation.near_duplicates import clusters
from engine.curation.priority import priorities


def groups_of(values: pa.Array | pa.ChunkedArray, twins_P2: np.ndarray | None = None) -> np.ndarray:
    """(N,) int64: the number of each row's group, which is that of equal values (texts, integers).
    A null is a group of its own. `twins_P2` are pairs of row numbers whose groups become one, and
    so on along the chain."""
    known, numbers = coded(values)
    alone = np.flatnonzero(numbers < 0)
    numbers[alone] = len(known) + np.arange(len(alone))
    if twins_P2 is None:
        return numbers
    links_P2 = np.concatenate([_chains(numbers), twins_P2])
    return clusters(links_P2, len(values))


def is_validation(
    ids_N: np.ndarray, groups_N: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """(N,) bool: the rows of validation, whole groups, `fraction` of all rows as nearly as groups
    allow. `ids_N` int64 are the prompts' ids, `groups_N` any numbers.

    Groups are drawn by lot, in an order that only the seed and a group's smallest id decide; one
    that is too large for what is missing is passed over. If the smallest of those passed over
    brings the split nearer to the fraction, it comes last. So validation stays empty where each
    group is twice the fraction or more.
    """
    _, numbers_N = np.unique(groups_N, return_inverse=True)
    sizes = np.bincount(numbers_N)
    least_ids = np.full(len(sizes), np.iinfo(np.int64).max)
    np.minimum.at(least_ids, numbers_N, ids_N)
    order = np.argsort(priorities(seed, "validation", least_ids))
    wanted = round(fraction * len(ids_N))
    chosen = _chosen(sizes[order].tolist(), wanted)
    is_chosen = np.zeros(len(sizes), bool)
    is_chosen[order[chosen]] = True
    return is_chosen[numbers_N]


def leaves_validation(validation_N: np.ndarray, twins_P2: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of validation that have a twin in training. `twins_P2` are pairs of row
    numbers, in any order. They leave the split altogether: in training they would be twins of what
    is still in validation."""
    leaves = np.zeros(len(validation_N), bool)
    for pairs_P2 in (twins_P2, twins_P2[:, ::-1]):
        here, there = pairs_P2.T
        is_across = validation_N[here] & ~validation_N[there]
        leaves[here[is_across]] = True
    return leaves


def _chains(numbers_N: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of rows that hold each group together."""
    order = np.argsort(numbers_N, kind="stable")
    is_same = np.diff(numbers_N[order]) == 0
    before = order[:-1][is_same]
    after = order[1:][is_same]
    return np.stack([before, after], axis=1)


def _chosen(sizes: list[int], wanted: int) -> list[int]:
    """Places of the groups that together have about as many rows as are wanted."""
    chosen = []
    passed_over = []
    missing = wanted
    for place, size in enumerate(sizes):
        if not missing:
            break
        if size <= missing:
            chosen.append(place)
            missing -= size
        else:
            passed_over.append(place)
    if passed_over:
        smallest = min(passed_over, key=lambda place: sizes[place])
        if sizes[smallest] - missing < missing:
            chosen.append(smallest)
    return chosen
