"""Metrics of answers that are right or wrong: by their final answer (engine/rows/final_answer.py).

What an answer's final one is, and when two are the same, is decided there: by rules alone, so that
what only algebra could tell counts as not right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.rows.answers.labels import LABELS as THREE
from engine.rows.answers.labels import NOT_ENTAILMENT, label_of, options_in, reference_label
from engine.rows.final_answer import Rules, Verdict, final_answer, judge
from engine.rows.metrics.metric import Asked

LABELS = (*THREE, NOT_ENTAILMENT)
RULES = Rules(qa="exact")


def is_right(text: str, asked: Asked) -> list[float]:
    """Whether it ends in one of the right answers."""
    return [float(_is_right(text, asked, asked.references)), 1.0]


def _is_right(text: str, asked: Asked, references: Sequence[str]) -> bool:
    verdict = judge(asked.task, text, references, RULES, prompt=asked.source)
    return verdict == Verdict.RIGHT


def has_no_answer(text: str, asked: Asked) -> list[float]:
    """Whether no final answer, or label, is found in it."""
    return [float(final_answer(asked.task, text) is None), 1.0]


def label_counts(text: str, asked: Asked) -> list[float]:
    """Per label: given rightly, given, wanted (C = 12). The first reference's label is wanted, or
    that of the one which the answer is right by."""
    said = label_of(text, options_in(asked.source))
    wanted = reference_label(asked.references[0])
    for reference in asked.references:
        if _is_right(text, asked, [reference]):
            wanted = reference_label(reference)
            said = wanted
    counts = []
    for label in LABELS:
        given = float(said == label)
        right = float(wanted == label)
        counts += [given * right, given, right]
    return counts


def macro_f1(sums_C: np.ndarray) -> np.ndarray:
    """Mean over the labels that were wanted at all of 2 · right / (given + wanted); NaN where none
    was."""
    by_label = sums_C.reshape(*sums_C.shape[:-1], len(LABELS), 3)
    right = by_label[..., 0]
    wanted = by_label[..., 2]
    either = by_label[..., 1] + wanted
    f1 = np.zeros(right.shape)
    np.divide(2 * right, either, out=f1, where=either > 0)
    occurs = wanted > 0
    labels = occurs.sum(-1)
    values = np.full(labels.shape, np.nan)
    np.divide((f1 * occurs).sum(-1), labels, out=values, where=labels > 0)
    return values
