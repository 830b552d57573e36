"""Texts as numbers: the words of each text in order, runs of n of them, and sets of 5-word runs.

Everything that compares many texts (near duplicates, leaks of test data) starts here. Texts are
read in batches that stay in the processor's cache, and no Python object is made per word. Two texts
are alike here if they are alike as lists of words: case, width, composition and invisible
characters do not count, nor does what stands between words. It knows no language.

    N   texts        W   words of all texts        M   runs, or shingles, of all texts
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

SHINGLE_WORDS = 5


class Hashes(NamedTuple):
    """Per text some hashes: those of text i are `values[starts[i] : starts[i + 1]]`.

    `starts` is (N + 1,) int64; `values` (W,) or (M,) uint64, each below 2**48: of two different
    words one pair in 2.8e14 is taken for the same.
    """

    starts: np.ndarray
    values: np.ndarray


def words_of(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """The words of each text, in order: runs of letters and digits with their marks, in scripts
    without spaces each letter alone, as in engine/rows/metrics/words.py. A null has none."""
    raise NotImplementedError


def runs_of(words: Hashes, length: int) -> Hashes:
    """Every run of `length` words of each text, in order: M = sum of max(0, words - length + 1).
    Run k of a text begins at its word k; a text with fewer words has none."""
    raise NotImplementedError


def shingles_of(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """The set of runs of five words of each text, sorted, each once. A text of one to four words
    has one shingle, its words; a text without words, and a null, has none."""
    raise NotImplementedError
