"""How varied is what stays? Figures for the report (engine/curation/diversity.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.curation.balance import counts_of
from engine.curation.diversity import (
    SAMPLE,
    VENDI_SAMPLE,
    cluster_entropy,
    commonest_opening,
    distinct,
    sampled,
    vendi,
)
from engine.curation.ledger import is_left_in
from engine.run.curate_facts import Diversity
from engine.stages.curate.narrow import COUNTED

_DIGITS = 4


def sample_of(answers: pa.Table, seed: int) -> np.ndarray:
    """Rows of training examples whose answers `diversity_of` wants."""
    rows = np.flatnonzero(answers["split"].to_numpy(zero_copy_only=False) == "train")
    return rows[sampled(answers.take(rows), SAMPLE, seed)]


def diversity_of(train: pa.Table, answers: Sequence[str]) -> Diversity | None:
    """Of all training answers, with the reasons of those that went, and of the sampled ones that
    stay; None where none stays."""
    if not answers:
        return None
    texts = pa.array(answers, pa.string())
    # of all prompts: answers to one stand together
    spread = np.linspace(0, len(texts) - 1, min(len(texts), VENDI_SAMPLE)).astype(np.int64)
    some = texts.take(spread)
    opening = commonest_opening(texts)
    facts: dict[str, Any] = {
        "sample": len(texts),
        "distinct_1": _rounded(distinct(texts, 1)),
        "distinct_2": _rounded(distinct(texts, 2)),
        "opening": opening.words,
        "opening_share": round(float(opening.share), _DIGITS),
        "vendi": _rounded(vendi(some)),
        "vendi_sample": len(some),
        "counts": _counts(train),
    }
    if "cluster" in train.column_names:
        clusters = train["cluster"].drop_null().to_numpy()
        entropy = cluster_entropy(clusters)
        facts["cluster_bits"] = _rounded(entropy.bits)
        facts["cluster_evenness"] = _rounded(entropy.evenness)
    return Diversity(**facts)


def _counts(train: pa.Table) -> dict[str, dict[str, tuple[int, int]]]:
    left = train.filter(pa.array(is_left_in(train)))
    counted = {}
    for name in COUNTED:
        before = counts_of(train, name)
        after = counts_of(left, name)
        if before:
            counted[name] = {value: (before[value], after.get(value, 0)) for value in before}
    return counted


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), _DIGITS)
