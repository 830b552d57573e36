"""Which of equals goes first: drawn by lot, and the same lot on every machine.

A lot depends on the seed, on what it is drawn for (`salt`) and on the row's own ids. Order of rows,
files, workers and cluster do not move it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from engine.curation.ledger import coded
from engine.rows.ids import derive_seed

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def splitmix64(values_N: np.ndarray) -> np.ndarray:
    """The next output of SplitMix64 (Steele, Lea and Flood 2014) in each state (N,) uint64: a
    bijection whose bits all depend on all bits."""
    mixed = values_N.astype(np.uint64) + _STEP  # wraps around, as it should
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


def priorities(seed: int, salt: str, *ids_N: np.ndarray) -> np.ndarray:
    """The lot (N,) uint64 of each row; of two rows the lower one goes first. `ids_N` are columns of
    integers that together name a row."""
    lots = np.full(len(ids_N[0]), derive_seed(seed, salt), np.uint64)
    for ids in ids_N:
        lots = splitmix64(lots ^ ids.astype(np.uint64))
    return lots


def answer_priorities(answers: pa.Table, seed: int, salt: str) -> np.ndarray:
    """The lot (N,) uint64 of each answer, which COMPLETION_KEY names."""
    teachers = coded(answers["teacher"])
    names = [derive_seed(name) for name in teachers.values]
    teacher_N = np.array(names, np.uint64)[teachers.codes_N]
    prompt_N = answers["prompt_id"].to_numpy()
    sample_N = answers["sample_index"].to_numpy()
    return priorities(seed, salt, prompt_N, teacher_N, sample_N)


def first_of_each(
    groups_N: np.ndarray, keys_N: Sequence[np.ndarray], most: np.ndarray
) -> np.ndarray:
    """(N,) bool: the rows that are among the first of their group by the keys, the most important
    one first, lower values first. `groups_N` are numbers from 0, `most` (groups,) how many stay."""
    order = np.lexsort((*reversed(keys_N), groups_N))
    sorted_groups = groups_N[order]
    sizes = np.bincount(groups_N, minlength=len(most))
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(order)) - starts[sorted_groups]
    stays = np.zeros(len(groups_N), bool)
    stays[order] = places < most[sorted_groups]
    return stays
