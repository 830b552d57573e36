"""Scores of answers against references, per task: pure functions, most on a scale from 0 to 1.

`METRICS` has a row per metric: statistics of one answer that add up, and the score of their sum
(metric.py). Intervals are in engine/rows/intervals.py, the comparison of two models in
engine/rows/comparison.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import SpecError
from engine.rows.final_answer import Rules, Verdict, is_readable
from engine.rows.metrics import calls as tool_calls
from engine.rows.metrics import content, labels, overlap
from engine.rows.metrics.metric import EXACT, Asked, Calls, Metric, mean

METRICS: dict[str, Metric] = {
    "exact_match": Metric(labels.is_right, mean, is_proportion=True),
    "accuracy": Metric(labels.is_right, mean, is_proportion=True),
    "macro_f1": Metric(labels.label_counts, labels.macro_f1),
    "no_label": Metric(labels.has_no_label, mean, is_proportion=True, better="lower"),
    "f1": Metric(overlap.f1, mean),
    "bleu": Metric(overlap.bleu_counts, overlap.bleu),
    "chrf": Metric(overlap.chrf_counts, overlap.chrf),
    "rouge1": Metric(overlap.rouge("rouge1"), mean),
    "rouge2": Metric(overlap.rouge("rouge2"), mean),
    "rougeL": Metric(overlap.rouge("rougeL"), mean),
    "length_ratio": Metric(content.length_ratio, mean, better=None),
    "new_numbers": Metric(content.new_numbers, mean, better="lower"),
    "slots": Metric(content.slots_named, mean),
    "tool_calls": Metric(tool_calls.right_calls, mean),
    "needless_calls": Metric(tool_calls.needless_calls, mean, better="lower"),
}
TASK_METRICS: dict[str, list[str]] = {
    "math": ["exact_match"],
    "nli": ["accuracy", "macro_f1", "no_label"],
    "qa": ["exact_match", "f1"],
    "conversation": [
        "bleu",
        "rougeL",
        "rouge1",
        "rouge2",
        "chrf",
        "slots",
        "tool_calls",
        "needless_calls",
    ],
    "summarization": ["rougeL", "bleu", "rouge1", "rouge2", "chrf", "length_ratio", "new_numbers"],
}
# How a figure was computed, for whoever computes it again.
_SIGNATURES: dict[str, Callable[[Sequence[Sequence[str]]], str]] = {
    "bleu": overlap.bleu_signature,
    "chrf": overlap.chrf_signature,
    "rouge1": overlap.rouge_signature,
    "rouge2": overlap.rouge_signature,
    "rougeL": overlap.rouge_signature,
}


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


def usable_references(task: str, references: Sequence[str], rules: Rules = EXACT) -> list[str]:
    """Those references that the task's headline metric can compare with."""
    headline = METRICS[TASK_METRICS[task][0]]
    if not headline.is_proportion:
        return list(references)
    return [one for one in references if is_readable(task, one, rules)]


def statistics_of(
    metric: str,
    task: str,
    texts: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    sources: Sequence[str] | None = None,
    metas: Sequence[Mapping[str, Any]] | None = None,
    verdicts: Sequence[Verdict | None] | None = None,
    calls: Sequence[Calls | None] | None = None,
    rules: Rules = EXACT,
) -> np.ndarray:
    """Statistics (N, C) of all answers. A reference is one right answer, or several of them;
    `sources` and `metas` are what the prompts hold, `verdicts` what the answers were found to be,
    `calls` what is called (metric.py)."""
    statistics = METRICS[metric].statistics
    count = len(texts)
    rows = []
    given = zip(
        texts,
        references,
        sources or [""] * count,
        metas or [{}] * count,
        verdicts or [None] * count,
        calls or [None] * count,
        strict=True,
    )
    for text, reference, source, meta, verdict, called in given:
        several = [reference] if isinstance(reference, str) else reference
        asked = Asked(task, several, source, meta, rules=rules, verdict=verdict, calls=called)
        rows.append(statistics(text, asked))
    return np.array(rows, dtype=float)


def score_of(metric: str, statistics_NC: np.ndarray) -> float | None:
    """The score of all answers; None where there is nothing to score."""
    score = float(METRICS[metric].score(statistics_NC.sum(0)))
    if math.isnan(score):
        return None
    return score


def row_scores(metric: str, statistics_NC: np.ndarray) -> np.ndarray:
    """The score of each answer by itself (N,), NaN where there is nothing to score."""
    return METRICS[metric].score(statistics_NC)


def signature_of(metric: str, references: Sequence[Sequence[str]]) -> str | None:
    """How the metric was computed: sacrebleu's signature, or one of its form; None for those whose
    name says all."""
    build = _SIGNATURES.get(metric)
    if build is None:
        return None
    return build(references)
