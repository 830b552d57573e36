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


def resolve_metrics(task: str, wanted: str | Sequence[str]) -> list[str]:
    """The task's metrics, or those of them that are wanted; the first is the headline."""
    allowed = TASK_METRICS[task]
    names = allowed if wanted == "auto" else list(wanted)
    if unknown := [name for name in names if name not in allowed]:
        raise SpecError(
            f"evaluate.metrics={unknown}; choose from {', '.join(allowed)} for task {task}, or auto"
        )
    return names or allowed


def usable_reference(task: str, reference: str | None) -> str | None:
    """The reference, if the task's headline metric can compare with it."""
    compares_final = METRICS[TASK_METRICS[task][0]].is_proportion
    return (
        reference if not compares_final or final_answer(task, reference or "") is not None else None
    )


def statistics_of(
    metric: str, task: str, texts: Sequence[str], references: Sequence[str]
) -> np.ndarray:
    """Statistics (N, C) of all answers."""
    return np.array(
        [
            METRICS[metric].statistics(task, text, ref)
            for text, ref in zip(texts, references, strict=True)
        ]
    )


def score_of(metric: str, statistics_NC: np.ndarray) -> float:
    """The score of all answers."""
    return float(METRICS[metric].score(statistics_NC.sum(0), len(statistics_NC)))


def interval_of(metric: str, statistics_NC: np.ndarray, samples: int, seed: int) -> Interval:
    """95 % interval of the score: Wilson for proportions, else the percentile bootstrap."""
    if METRICS[metric].is_proportion:
        from scipy.stats import binomtest  # seconds to import, wanted once per run

        return list(
            binomtest(round(statistics_NC.sum()), len(statistics_NC)).proportion_ci(method="wilson")
        )
    return _bootstrap(
        lambda sums_C: METRICS[metric].score(sums_C, len(statistics_NC)),
        statistics_NC,
        samples,
        seed,
    )


def retention_interval(
    metric: str, student_NC: np.ndarray, teacher_NC: np.ndarray, samples: int, seed: int
) -> Interval:
    """95 % interval of student / teacher: percentile bootstrap over prompts, both models on the
    same resample."""
    score, count, columns = METRICS[metric].score, *student_NC.shape

    def ratio(sums: np.ndarray) -> float | None:
        teacher = score(sums[columns:], count)
        return score(sums[:columns], count) / teacher if teacher else None

    return _bootstrap(ratio, np.hstack([student_NC, teacher_NC]), samples, seed)


def _bootstrap(
    score: Callable[[np.ndarray], float | None], statistics_NC: np.ndarray, samples: int, seed: int
) -> Interval:
    """Percentiles of the scores of sums (C,) over N rows drawn with replacement; a resample without
    score is left out."""
    draws, rows = np.random.default_rng(seed), len(statistics_NC)
    resampled = (
        np.bincount(draws.integers(rows, size=rows), minlength=rows) @ statistics_NC
        for _ in range(samples)
    )
    scores = [found for found in map(score, resampled) if found is not None]
    return np.percentile(scores, [2.5, 97.5]).tolist() if scores else None


def _mean(sums: np.ndarray, count: int) -> float:
    return sums[0] / count


def _same_answer(task: str, text: str, reference: str) -> list[float]:
    return [float(same_final_answer(task, text, reference) is True)]


def _f1(task: str, text: str, reference: str) -> list[float]:
    """Harmonic mean of precision and recall of normalised words (official SQuAD v1.1 evaluation
    script)."""
    said, wanted = normalise_qa(text).split(), normalise_qa(reference).split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return [2 * common / (len(said) + len(wanted)) if common else 0.0]


def _rouge_l(task: str, text: str, reference: str) -> list[float]:
    """F of the longest common subsequence of words (rouge-score, no stemming)."""
    return [_rouge_scorer().score(reference, text)["rougeL"].fmeasure]


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports NLTK, which only text tasks need

    return RougeScorer(["rougeL"])


def _bleu_counts(task: str, text: str, reference: str) -> list[float]:
    """Matched 1- to 4-grams, all 1- to 4-grams, length and reference length: C = 10 (sacrebleu,
    tokenizer 13a)."""
    found = sacrebleu.sentence_bleu(text, [reference])
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def _bleu(sums: np.ndarray, count: int) -> float:
    matched, total, (length, reference_length) = (
        sums[:4].tolist(),
        sums[4:8].tolist(),
        sums[8:].tolist(),
    )
    return (
        sacrebleu.BLEU.compute_bleu(
            matched, total, length, reference_length, smooth_method="exp"
        ).score
        / 100
    )


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
