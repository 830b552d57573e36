"""Metrics of answers that are right or wrong: by their final answer (engine/rows/final_answer.py).

What an answer's final one is, and when two are the same, is decided there. Without a verdict from
whoever asked algebra, what only it could tell counts as not right.
"""

from __future__ import annotations

import numpy as np

from engine.rows.answers.labels import (
    AMBIGUOUS,
    NOT_ENTAILMENT,
    label_of,
    names_in,
    reference_label,
    same_label,
)
from engine.rows.answers.labels import LABELS as THREE
from engine.rows.final_answer import Verdict, judge
from engine.rows.metrics.metric import Asked

LABELS = (*THREE, NOT_ENTAILMENT)


def is_right(text: str, asked: Asked) -> list[float]:
    """Whether it ends in one of the right answers."""
    return [float(_verdict(text, asked) == Verdict.RIGHT), 1.0]


def _verdict(text: str, asked: Asked) -> Verdict | None:
    if asked.verdict is not None:
        return asked.verdict
    found = judge(asked.task, text, asked.references, asked.rules, prompt=asked.source)
    return found if isinstance(found, Verdict) else None


def has_no_label(text: str, asked: Asked) -> list[float]:
    """Whether no label, or more than one, is found in it."""
    return [float(_label(text, asked) in (None, AMBIGUOUS)), 1.0]


def _label(text: str, asked: Asked) -> str | None:
    return label_of(text, names_in(asked.source, asked.rules.labels))


def label_counts(text: str, asked: Asked) -> list[float]:
    """Per label: given rightly, given, wanted (C = 12). The first reference's label is wanted, or
    that of the one which the answer is right by."""
    said = _label(text, asked)
    labels = [reference_label(one, asked.rules.labels) for one in asked.references]
    wanted = labels[0]
    for label in labels:
        if said in (None, AMBIGUOUS) or label is None:
            continue
        if same_label(said, label):
            wanted = label
            said = label
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
