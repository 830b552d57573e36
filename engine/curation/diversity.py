"""How varied are the examples? Figures for the report; nothing is dropped by them.

Figures of texts are of a seeded sample, because most of them depend on how many texts there are:
compare them between samples of one size only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.curation.ledger import is_left_in
from engine.curation.priority import answer_priorities
from engine.curation.shingles import Hashes, each_once, runs_of, words_of
from engine.rows.records import COMPLETION_KEY
from engine.rows.words import words

SAMPLE = 10_000  # texts, for n-grams and openings
VENDI_SAMPLE = 256  # its time grows with the third power, and all jobs wait for it
OPENING_WORDS = 4


class Opening(NamedTuple):
    """The commonest first words, and the share of texts that begin with them."""

    words: str
    share: float


class Entropy(NamedTuple):
    """Of the sizes of clusters: in bits, and divided by the most that so many rows can have: 1
    where every row is a cluster of its own, 0 where all are one."""

    bits: float
    evenness: float


def sampled(answers: pa.Table, size: int, seed: int) -> np.ndarray:
    """Numbers (at most `size`,) of rows still there, by lot; a smaller sample is the beginning of a
    larger one."""
    left = np.flatnonzero(is_left_in(answers))
    keys = answers.select(COMPLETION_KEY).take(left)
    lots = answer_priorities(keys, seed, "diversity")
    return left[np.argsort(lots)[:size]]


def distinct(texts: pa.Array | pa.ChunkedArray, n: int) -> float:
    """Different n-grams of words divided by all of them (distinct-n of Li et al. 2016, over all
    texts together); NaN without any. The more texts, the lower."""
    grams = runs_of(words_of(texts), n).values
    if not len(grams):
        return np.nan
    return len(each_once(grams)) / len(grams)


def commonest_opening(texts: pa.Array | pa.ChunkedArray, count: int = OPENING_WORDS) -> Opening:
    """The first `count` words that most texts have; a shorter text has none. Templates show here
    that n-grams hide: "Sure! Here is a"."""
    runs = runs_of(words_of(texts), count)
    opened = np.flatnonzero(np.diff(runs.starts))
    if not len(opened):
        return Opening("", 0.0)
    openings = runs.values[runs.starts[opened]]
    _, first, counts = np.unique(
        openings,
        return_index=True,
        return_counts=True,
    )
    commonest = np.argmax(counts)
    row = opened[first[commonest]]
    said = words(texts[int(row)].as_py())
    share = counts[commonest] / len(texts)
    return Opening(" ".join(said[:count]), float(share))


def cluster_entropy(clusters_N: np.ndarray) -> Entropy:
    """Shannon's entropy of near-duplicate clusters, of which `clusters_N` numbers the one of each
    row."""
    _, sizes = np.unique(clusters_N, return_counts=True)
    shares = sizes / sizes.sum()
    bits = float(shares @ np.log2(1 / shares))
    if len(clusters_N) < 2:
        return Entropy(bits, 1.0)
    return Entropy(bits, bits / float(np.log2(len(clusters_N))))


def vendi(texts: pa.Array | pa.ChunkedArray) -> float:
    """The Vendi score (Friedman and Dieng 2023): the effective number of different texts, from 1 to
    their number, with the cosine of TF-IDF words as likeness. Texts without words do not count; NaN
    without any other.

    It sees words and no meaning: a paraphrase counts as new, and one sentence with 1,000 different
    numbers scores 386. Read it beside the commonest opening and the clusters, and gate nothing
    on it. It takes n² memory and n³ time, and it rises with n: give it VENDI_SAMPLE texts.
    """
    said = words_of(texts)
    if not len(said.values):
        return np.nan
    likeness_NN = _likeness(said)
    parts = np.linalg.eigvalsh(likeness_NN / len(likeness_NN))
    parts = parts[parts > 0]
    entropy = parts @ np.log(1 / parts)
    return float(np.exp(entropy))


def _likeness(said: Hashes) -> np.ndarray:
    """(N, N) cosines of the TF-IDF vectors of texts that have words; smoothed idf, as
    scikit-learn's."""
    from scipy import sparse  # stages that never ask start without it

    lengths = np.diff(said.starts)
    lengths = lengths[lengths > 0]
    count = len(lengths)
    rows = np.repeat(np.arange(count), lengths)
    _, columns = np.unique(said.values, return_inverse=True)
    ones = np.ones(len(rows))
    vectors = sparse.csr_array((ones, (rows, columns)))
    having = np.bincount(vectors.indices)
    rarity = np.log((1 + count) / (1 + having)) + 1
    weights = vectors.data * rarity[vectors.indices]
    row_of = np.repeat(np.arange(count), np.diff(vectors.indptr))
    squares = np.bincount(row_of, weights**2)
    vectors.data = weights / np.sqrt(squares)[row_of]
    return (vectors @ vectors.T).toarray()
