"""Scores of answers against references, per task, with 95 % intervals: pure functions, all on a scale from 0 to 1.

Shapes: N answers, C additive statistics per answer. A metric is a row of statistics per answer plus the score of their
sum, so that means, corpus BLEU and the paired bootstrap of `retention = student / teacher` share one code path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.answers import normalise_qa, same_final_answer
from engine.errors import SpecError

Interval = list[float] | None


@dataclass(frozen=True)
class Metric:
    """Statistics (N, C) of answers, and the score of summed statistics (C,) of n answers."""

    statistics: Callable[[str, Sequence[str], Sequence[str]], np.ndarray]  # task, texts, references
    score: Callable[[np.ndarray, int], float]
    is_proportion: bool = False


def resolve_metrics(task: str, wanted: str | Sequence[str]) -> list[str]:
    """The task's metrics, or those of them that are wanted; the first is the headline."""
    allowed = TASK_METRICS[task]
    names = allowed if wanted == "auto" else list(wanted)
    if unknown := [name for name in names if name not in allowed]:
        raise SpecError(f"evaluate.metrics={unknown}; choose from {', '.join(allowed)} for task {task}, or auto")
    return names or allowed


def score_of(metric: str, statistics_NC: np.ndarray) -> float:
    """The score of all answers."""
    return float(METRICS[metric].score(statistics_NC.sum(0), len(statistics_NC)))


def interval_of(metric: str, statistics_NC: np.ndarray, samples: int, seed: int) -> Interval:
    """95 % interval of the score: Wilson for proportions, else the percentile bootstrap."""
    if METRICS[metric].is_proportion:
        from scipy.stats import binomtest  # seconds to import, wanted once per run

        found = binomtest(round(statistics_NC.sum()), len(statistics_NC)).proportion_ci(method="wilson")
        return [float(found.low), float(found.high)]
    score = METRICS[metric].score
    return _percentiles([score(sums, len(statistics_NC)) for sums in _resampled(statistics_NC, samples, seed)])


def retention_interval(metric: str, student_NC: np.ndarray, teacher_NC: np.ndarray, samples: int, seed: int) -> Interval:
    """95 % interval of student / teacher: percentile bootstrap over prompts, both models on the same resample."""
    score, columns = METRICS[metric].score, student_NC.shape[1]
    ratios = []
    for sums in _resampled(np.hstack([student_NC, teacher_NC]), samples, seed):
        if teacher := score(sums[columns:], len(student_NC)):
            ratios.append(score(sums[:columns], len(student_NC)) / teacher)
    return _percentiles(ratios) if ratios else None


def f1_of(text: str, reference: str) -> float:
    """Harmonic mean of precision and recall of normalised words (official SQuAD v1.1 evaluation script)."""
    said, wanted = normalise_qa(text).split(), normalise_qa(reference).split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def _resampled(statistics_NC: np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums (C,) over N rows drawn with replacement, `samples` times."""
    draws, rows = np.random.default_rng(seed), len(statistics_NC)
    for _ in range(samples):
        yield np.bincount(draws.integers(rows, size=rows), minlength=rows) @ statistics_NC


def _percentiles(values: Sequence[float]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]


def _mean(sums: np.ndarray, count: int) -> float:
    return sums[0] / count


def _per_answer(score: Callable[[str, str, str], float]) -> Callable[[str, Sequence[str], Sequence[str]], np.ndarray]:
    def statistics(task: str, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        return np.array([[float(score(task, text, ref))] for text, ref in zip(texts, references, strict=True)])

    return statistics


def _rouge_l(task: str, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """F of the longest common subsequence of words (rouge-score, no stemming)."""
    from rouge_score.rouge_scorer import RougeScorer  # imports NLTK, which only text tasks need

    scorer = RougeScorer(["rougeL"])
    return np.array([[scorer.score(ref, text)["rougeL"].fmeasure] for text, ref in zip(texts, references, strict=True)])


def _bleu_counts(task: str, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Matched 1- to 4-grams, all 1- to 4-grams, length and reference length: C = 10 (sacrebleu, tokenizer 13a)."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)  # the counts are the same; without it sacrebleu warns about single sentences
    scored = [bleu.sentence_score(text, [ref]) for text, ref in zip(texts, references, strict=True)]
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scored])


def _bleu(sums: np.ndarray, count: int) -> float:
    from sacrebleu.metrics import BLEU

    matched, total, (length, reference_length) = sums[:4].tolist(), sums[4:8].tolist(), sums[8:].tolist()
    return BLEU.compute_bleu(matched, total, length, reference_length, smooth_method="exp").score / 100


_same = _per_answer(lambda task, text, reference: same_final_answer(task, text, reference) is True)

METRICS: dict[str, Metric] = {
    "exact_match": Metric(_same, _mean, is_proportion=True),
    "accuracy": Metric(_same, _mean, is_proportion=True),
    "f1": Metric(_per_answer(lambda task, text, reference: f1_of(text, reference)), _mean),
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
