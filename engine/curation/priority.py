"""Which of equals goes first: drawn by lot, and the same lot on every machine.

A lot depends on the seed, on what it is drawn for (`salt`) and on the row's own ids. Order of rows,
files, workers and cluster do not move it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def splitmix64(values_N: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) of each (N,) uint64: a bijection whose
    bits all depend on all bits."""
    raise NotImplementedError


def priorities(seed: int, salt: str, *ids_N: np.ndarray) -> np.ndarray:
    """The lot (N,) uint64 of each row; of two rows the lower one goes first. `ids_N` are columns of
    integers that together name a row."""
    raise NotImplementedError


def answer_priorities(table: pa.Table, seed: int, salt: str) -> np.ndarray:
    """The lot (N,) uint64 of each answer, which `prompt_id`, `teacher` and `sample_index` name."""
    raise NotImplementedError


def first_of_each(groups_N: np.ndarray, order_N: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(N,) bool: the rows that are among the first of their group. `groups_N` are numbers from 0,
    `order_N` the rows' numbers in the order in which they go, `most` (groups,) how many stay."""
    raise NotImplementedError
