"""How varied are the examples? Figures for the report; nothing is dropped by them.

Figures of texts are of a seeded sample, because most of them depend on how many texts there are:
compare them between samples of one size only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

SAMPLE = 10_000  # texts, for n-grams and openings
VENDI_SAMPLE = 1_000  # its time grows with the third power
OPENING_WORDS = 4


class Opening(NamedTuple):
    """The commonest first words, and the share of texts that begin with them."""

    words: str
    share: float


class Entropy(NamedTuple):
    """Of the sizes of clusters: in bits, and divided by the most that so many rows can have, which
    is 1 where every row is a cluster of its own and 0 where all are one."""

    bits: float
    evenness: float


def sampled(table: pa.Table, size: int, seed: int) -> np.ndarray:
    """Numbers (at most `size`,) of rows still there, by lot; a smaller sample is the beginning of a
    larger one. Rows are named by `prompt_id`, `teacher` and `sample_index`."""
    raise NotImplementedError


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words divided by all of them (distinct-n of Li et al. 2016, over all
    texts together); NaN without any. More texts, lower figure."""
    raise NotImplementedError


def commonest_opening(texts: Sequence[str], words: int = OPENING_WORDS) -> Opening:
    """Templates show here that n-grams hide: "Sure! Here is a"."""
    raise NotImplementedError


def cluster_entropy(clusters_N: np.ndarray) -> Entropy:
    """Shannon's entropy of near-duplicate clusters; `clusters_N` numbers the cluster of each row."""
    raise NotImplementedError


def vendi(texts: Sequence[str]) -> float:
    """The Vendi score (Friedman and Dieng 2023): the effective number of different texts, from 1
    to their number, with the cosine of hashed TF-IDF words as likeness.

    It sees words, no meaning: one sentence with 1,000 different numbers scores 736 of 1,000, a
    paraphrase counts as new. Read it beside the commonest opening and the clusters; gate nothing
    on it. Give it a sample of VENDI_SAMPLE texts: it takes n² memory and n³ time, and it rises with
    the number of texts.
    """
    raise NotImplementedError
