"""Scores of answers against references, per task, with 95 % intervals: pure functions, all on a
scale from 0 to 1.

Shapes: N answers, C additive statistics per answer. A metric is a row of statistics per answer plus
the score of their sum, so that means, corpus BLEU and the paired bootstrap of `retention = student
/ teacher` share one code path.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sacrebleu

from engine.errors import SpecError
from engine.rows.final_answer import final_answer, normalise_qa, same_final_answer

Interval = list[float] | None


@dataclass(frozen=True)
class Metric:
    """Statistics (C,) of one answer, and the score of their sums (C,) over n answers."""

    statistics: Callable[[str, str, str], list[float]]  # task, text, reference
    score: Callable[[np.ndarray, int], float]
    is_proportion: bool = False


def resolve_metrics(
    task: str,
    wanted: str | Sequence[str],
) -> list[str]:
    """The task's metrics, or those of them that are wanted; the first is the headline."""
    allowed = TASK_METRICS[task]
    names = allowed
    if wanted != "auto":
        names = list(wanted)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        known = ", ".join(allowed)
        raise SpecError(f"evaluate.metrics={unknown}; choose from {known} for task {task}, or auto")
    return names or allowed


def usable_reference(task: str, reference: str | None) -> str | None:
    """The reference, if the task's headline metric can compare with it."""
    headline = METRICS[TASK_METRICS[task][0]]
    if headline.is_proportion:
        final = final_answer(task, reference or "")
        if final is None:
            return None
    return reference


def statistics_of(
    metric: str,
    task: str,
    texts: Sequence[str],
    references: Sequence[str],
) -> np.ndarray:
    """Statistics (N, C) of all answers."""
    statistics = METRICS[metric].statistics
    pairs = zip(texts, references, strict=True)
    rows = []
    for text, reference in pairs:
        rows.append(statistics(task, text, reference))
    return np.array(rows)


def score_of(metric: str, statistics_NC: np.ndarray) -> float:
    """The score of all answers."""
    sums_C = statistics_NC.sum(0)
    score = METRICS[metric].score(sums_C, len(statistics_NC))
    return float(score)


def interval_of(
    metric: str,
    statistics_NC: np.ndarray,
    samples: int,
    seed: int,
) -> Interval:
    """95 % interval of the score: Wilson for proportions, else the percentile bootstrap."""
    count = len(statistics_NC)
    if METRICS[metric].is_proportion:
        from scipy.stats import binomtest  # seconds to import, wanted once per run

        right = round(statistics_NC.sum())
        proportion = binomtest(right, count)
        return list(proportion.proportion_ci(method="wilson"))

    def score(sums_C: np.ndarray) -> float:
        return METRICS[metric].score(sums_C, count)

    return _bootstrap(score, statistics_NC, samples, seed)


def retention_interval(
    metric: str,
    student_NC: np.ndarray,
    teacher_NC: np.ndarray,
    samples: int,
    seed: int,
) -> Interval:
    """95 % interval of student / teacher: percentile bootstrap over prompts, both models on the
    same resample."""
    score = METRICS[metric].score
    count, columns = student_NC.shape

    def ratio(sums: np.ndarray) -> float | None:
        student = score(sums[:columns], count)
        teacher = score(sums[columns:], count)
        return student / teacher if teacher else None

    both_N2C = np.hstack([student_NC, teacher_NC])
    return _bootstrap(ratio, both_N2C, samples, seed)


def _bootstrap(
    score: Callable[[np.ndarray], float | None],
    statistics_NC: np.ndarray,
    samples: int,
    seed: int,
) -> Interval:
    """Percentiles of the scores of sums (C,) over N rows drawn with replacement; a resample without
    score is left out."""
    draws = np.random.default_rng(seed)
    rows = len(statistics_NC)
    scores = []
    for _ in range(samples):
        drawn = draws.integers(rows, size=rows)
        times_drawn = np.bincount(drawn, minlength=rows)
        resampled = score(times_drawn @ statistics_NC)
        if resampled is not None:
            scores.append(resampled)
    if not scores:
        return None
    return np.percentile(scores, [2.5, 97.5]).tolist()


def _mean(sums: np.ndarray, count: int) -> float:
    return sums[0] / count


def _same_answer(task: str, text: str, reference: str) -> list[float]:
    is_same = same_final_answer(task, text, reference) is True
    return [float(is_same)]


def _f1(task: str, text: str, reference: str) -> list[float]:
    """Harmonic mean of precision and recall of normalised words (official SQuAD v1.1 evaluation
    script)."""
    said = normalise_qa(text).split()
    wanted = normalise_qa(reference).split()
    common = (Counter(said) & Counter(wanted)).total()
    if not common:
        return [0.0]
    words = len(said) + len(wanted)
    return [2 * common / words]


def _rouge_l(task: str, text: str, reference: str) -> list[float]:
    """F of the longest common subsequence of words (rouge-score, no stemming)."""
    scores = _rouge_scorer().score(reference, text)
    return [scores["rougeL"].fmeasure]


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports NLTK, which only text tasks need

    return RougeScorer(["rougeL"])


def _bleu_counts(task: str, text: str, reference: str) -> list[float]:
    """Matched 1- to 4-grams, all 1- to 4-grams, length and reference length: C = 10 (sacrebleu,
    tokenizer 13a)."""
    bleu = sacrebleu.sentence_bleu(text, [reference])
    lengths = (bleu.sys_len, bleu.ref_len)
    return [*bleu.counts, *bleu.totals, *lengths]


def _bleu(sums: np.ndarray, count: int) -> float:
    matched = sums[:4].tolist()
    total = sums[4:8].tolist()
    length, reference_length = sums[8:].tolist()
    bleu = sacrebleu.BLEU.compute_bleu(
        matched,
        total,
        length,
        reference_length,
        smooth_method="exp",
    )
    return bleu.score / 100


METRICS: dict[str, Metric] = {
    "exact_match": Metric(_same_answer, _mean, is_proportion=True),
    "accuracy": Metric(_same_answer, _mean, is_proportion=True),
    "f1": Metric(_f1, _mean),
    "bleu": Metric(_bleu_counts, _bleu),
    "rougeL": Metric(_rouge_l, _mean),
}
TASK_METRICS: dict[str, list[str]] = {
    "math": ["exact_match"],
    "nli": ["accuracy"],
    "qa": ["exact_match", "f1"],
    "conversation": ["bleu", "rougeL"],
    "summarization": ["rougeL", "bleu"],
}
