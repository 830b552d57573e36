"""How varied the examples are that curate left, as part of its facts."""

from __future__ import annotations

from pydantic import BaseModel

from engine.run.fact_settings import FACTS


class Diversity(BaseModel):
    """Of the training examples; figures of texts are of a seeded sample of answers, and compare
    with those of samples of one size only. Nothing is dropped by them."""

    model_config = FACTS

    sample: int
    """Answers whose words were counted."""
    distinct_1: float | None
    """Different words / all words (distinct-n); null without any."""
    distinct_2: float | None
    """The same of pairs of words."""
    opening: str
    """The commonest first four words."""
    opening_share: float
    """Of the sample's answers begin with them."""
    vendi: float | None
    """Effective number of different answers (Vendi score over TF-IDF words) of `vendi_sample`: it
    sees words and no meaning, so one sentence with other numbers counts as many."""
    vendi_sample: int
    cluster_bits: float | None = None
    """Entropy of the clusters of near duplicates (J >= 0.5) before they were dropped; null: they
    were not looked for."""
    cluster_evenness: float | None = None
    """The same, divided by the most that so many examples can have: 1 is all different."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    """By source, and label or language where they are known: training answers before and after."""
