"""All pairs of texts with a Jaccard of 0.8 or more, with nothing of engine/curation: no hashes, no
chance. A prefix filter (Chaudhuri, Ganti and Kaushik 2006): sorted by rarity, two sets that are so
alike share one of their first tokens, so only those are looked up.

    N   texts        S   different shingles        P   pairs
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from engine.rows.words import words

LENGTH = 5
_AT_A_TIME = 20_000  # pairs


class Join(NamedTuple):
    """Pairs (P, 2) of row numbers, the lower first, sorted, and the Jaccard (P,) of each."""

    pairs: np.ndarray
    jaccard: np.ndarray


def join(texts: list[str], at_least: float) -> Join:
    """Every pair of texts that are at least so alike."""
    rows, tokens = _shingles(texts)
    frequency = np.bincount(tokens)
    by_rarity = np.empty(len(frequency), np.int64)
    by_rarity[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    tokens = by_rarity[tokens]
    order = np.lexsort((tokens, rows))
    rows = rows[order]
    tokens = tokens[order]
    sizes = np.bincount(rows, minlength=len(texts))
    place = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[rows]
    in_prefix = place < (sizes - np.ceil(at_least * sizes - 1e-9) + 1)[rows]
    pairs = _sharing(tokens[in_prefix], rows[in_prefix], sizes, at_least)
    ones = np.ones(len(rows), np.int32)
    shape = (len(texts), len(frequency))
    jaccard = _jaccards(pairs, sparse.csr_array((ones, (rows, tokens)), shape=shape), sizes)
    alike = jaccard >= at_least
    return Join(pairs[alike], jaccard[alike])


def _shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, tokens): the set of each text, each token the number of one run of five words."""
    known: dict[str, int] = {}
    numbers = []
    counts = []
    for text in texts:
        said = [known.setdefault(word, len(known) + 1) for word in words(text)]
        if said:  # a short text is one shingle
            said += [0] * (LENGTH - len(said))
        numbers += said
        counts.append(len(said))
    lengths = np.array(counts)
    row = np.repeat(np.arange(len(texts)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(row))
    word = np.array(numbers)
    two = _numbered(word[:-1], word[1:])
    four = _numbered(two[:-2], two[2:])
    five = _numbered(four[:-1], word[4:])
    is_whole = left[: len(five)] >= LENGTH
    both = np.unique(np.stack([row[: len(five)][is_whole], five[is_whole]], 1), axis=0)
    return both[:, 0], both[:, 1]


def _numbered(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A number for each different couple."""
    return np.unique(one * (other.max() + 1) + other, return_inverse=True)[1]


def _sharing(
    tokens: np.ndarray, rows: np.ndarray, sizes: np.ndarray, at_least: float
) -> np.ndarray:
    """Pairs (P, 2) of rows that share a token of their prefixes and are not too unlike in size."""
    order = np.lexsort((rows, tokens))
    tokens = tokens[order]
    rows = rows[order]
    found = np.zeros(0, np.int64)
    back = 1
    here = np.flatnonzero(tokens[1:] == tokens[:-1]) + 1
    while len(here):
        one = rows[here - back]
        other = rows[here]
        small = np.minimum(sizes[one], sizes[other])
        is_alike = small >= at_least * np.maximum(sizes[one], sizes[other]) - 1e-9
        codes = one[is_alike] * len(sizes) + other[is_alike]
        found = np.unique(np.concatenate([found, codes]))
        back += 1
        here = here[here >= back]
        here = here[tokens[here] == tokens[here - back]]
    return np.stack([found // len(sizes), found % len(sizes)], axis=1)


def _jaccards(pairs: np.ndarray, sets_NS: sparse.csr_array, sizes: np.ndarray) -> np.ndarray:
    shared = [np.zeros(0)]
    for first in range(0, len(pairs), _AT_A_TIME):
        one, other = pairs[first : first + _AT_A_TIME].T
        shared.append(sets_NS[one].multiply(sets_NS[other]).sum(axis=1))
    both = np.concatenate(shared)
    return both / (sizes[pairs].sum(axis=1) - both)
