"""Which prompts are for validation: whole groups on one side, so that nothing is measured on what was
learnt.

A group is what must not be torn apart: a dialogue, a document, a cluster of near-duplicates.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def groups_of(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(N,) int64: the number of each row's group, which is that of equal values (text or integers);
    a null is a group of its own."""
    raise NotImplementedError


def links_of(groups_N: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) int64 of row numbers that hold each group together as a chain. Together with
    pairs of twins, near_duplicates.clusters makes groups that tear neither apart."""
    raise NotImplementedError


def is_validation(
    ids_N: np.ndarray, groups_N: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """(N,) bool: the rows of validation, whole groups, `fraction` of all rows as nearly as groups
    allow. `ids_N` int64 are the prompts' ids, `groups_N` any numbers.

    Groups are drawn by lot, in an order that only the seed and a group's smallest id decide; one
    that is too large for what is missing is passed over. If the smallest of those passed over
    brings the split nearer to the fraction, it comes last. So a few groups that each have more than
    twice the fraction leave validation empty.
    """
    raise NotImplementedError


def leaves_validation(validation_N: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of validation that have a twin in training. `pairs_P2` are row numbers of
    verified twins, in any order. They leave the split altogether: in training they would be twins
    of what is still in validation."""
    raise NotImplementedError
