"""What a metric is: additive statistics of one answer, and the score of their sum.

Shapes: N answers, C additive statistics per answer. Means, corpus BLEU, the bootstrap and the
paired comparison so share one code path: each scores sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from engine.rows.final_answer import Rules, Verdict

EXACT = Rules(qa="exact")  # as SQuAD's exact match has it


@dataclass(frozen=True)
class Calls:
    """What an answer calls, and what its gold answer does, of the tools that were offered: JSON
    (engine/rows/tools.py), None for nothing."""

    said: str | None
    wanted: str | None


@dataclass(frozen=True)
class Asked:
    """What one answer is scored against: the right answers, one or several, and where a metric
    wants it the prompt's text, its further columns, and calls where tools were offered. `rules` are
    those of right and wrong, and `verdict` what the answer was found to be, where somebody asked
    more than rules."""

    task: str
    references: Sequence[str]
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules = EXACT
    verdict: Verdict | None = None
    calls: Calls | None = None


@dataclass(frozen=True)
class Metric:
    """Statistics (C,) of one answer, and the scores (…) of sums (…, C), NaN where there is nothing
    to score.

    `better` is None where neither more nor less is: such a metric is shown and not compared.
    """

    statistics: Callable[[str, Asked], list[float]]
    score: Callable[[np.ndarray], np.ndarray]
    is_proportion: bool = False
    better: Literal["higher", "lower"] | None = "higher"


def mean(sums_C: np.ndarray) -> np.ndarray:
    """The first statistic over the second, which is how often it was counted."""
    counted = sums_C[..., 1]
    values = np.full(counted.shape, np.nan)
    np.divide(sums_C[..., 0], counted, out=values, where=counted != 0)
    return values


def best_of(score: Callable[[str], float], references: Sequence[str]) -> list[float]:
    """Statistics of a mean: the greatest score over the references, counted once."""
    return [max(map(score, references)), 1.0]
