"""Answers of all models -> their scores, intervals and retention, and the rows that are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.rows import metrics
from engine.rows.final_answer import Rules, Verdict
from engine.rows.ids import bare_prompt
from engine.rows.intervals import Clusters, interval_of, retention_interval
from engine.rows.metrics.metric import Calls
from engine.rows.records import Answer, Completion, Prompt
from engine.rows.tools import offered_in
from engine.run.facts import Quality

Answers = dict[str, list[Completion]]  # model -> one per validation prompt
Statistics = dict[str, dict[str, np.ndarray]]  # metric -> model -> (N, C)
Scores = dict[str, float | None]  # model -> its score


@dataclass(frozen=True)
class References:
    """What each prompt's answers are scored against, one right answer or several, and whether that
    is a gold answer or, for want of one, the teacher's."""

    texts: list[list[str]]
    is_gold: np.ndarray

    @property
    def kind(self) -> str:
        """gold, teacher or mixed."""
        if self.is_gold.all():
            return "gold"
        return "mixed" if self.is_gold.any() else "teacher"

    @property
    def without_gold(self) -> int:
        """How many are the teacher's."""
        return int((~self.is_gold).sum())


@dataclass(frozen=True)
class Resampling:
    """How intervals and tests draw: how often, from which seed, and what belongs together."""

    samples: int
    seed: int
    clusters: Clusters = None

    def of(self, wanted: np.ndarray) -> Resampling:
        """The same for some of the prompts."""
        if self.clusters is None:
            return self
        kept = [self.clusters[at] for at in np.flatnonzero(wanted)]
        return Resampling(self.samples, self.seed, kept)


def references_of(
    task: str, prompts: Sequence[Prompt], teacher: Sequence[Completion], rules: Rules
) -> References:
    """The gold answers that the task can use, else the teacher's."""
    texts = []
    is_gold = []
    for prompt, row in zip(prompts, teacher, strict=True):
        gold = metrics.usable_references(task, prompt.right_answers, rules)
        is_gold.append(bool(gold))
        texts.append(gold or [row.said])
    return References(texts, np.array(is_gold))


def statistics_of(
    names: Sequence[str],
    task: str,
    answers: Answers,
    references: References,
    prompts: Sequence[Prompt],
    verdicts: Mapping[str, Sequence[Verdict | None]],
    rules: Rules,
) -> Statistics:
    """Every metric's statistics of every model; a model without verdicts is judged by rules
    alone."""
    sources = [bare_prompt(prompt.messages) for prompt in prompts]
    metas = [json.loads(prompt.meta) for prompt in prompts]
    statistics: Statistics = {name: {} for name in names}
    for model, rows in answers.items():
        texts = [row.said for row in rows]
        calls = _calls(rows, answers["teacher"], references, prompts)
        for name, by_model in statistics.items():
            by_model[model] = metrics.statistics_of(
                name,
                task,
                texts,
                references.texts,
                sources=sources,
                metas=metas,
                verdicts=verdicts.get(model),
                calls=calls,
                rules=rules,
            )
    return statistics


def _calls(
    rows: Sequence[Completion],
    teacher: Sequence[Completion],
    references: References,
    prompts: Sequence[Prompt],
) -> list[Calls | None]:
    """What each answer calls, and what it had to: the gold answer's calls, or for want of one the
    teacher's. None where no tools are offered."""
    found: list[Calls | None] = []
    for at, prompt in enumerate(prompts):
        if not offered_in(prompt.tools):
            found.append(None)
            continue
        wanted = teacher[at].tool_calls
        if references.is_gold[at]:
            wanted = prompt.reference_calls
        found.append(Calls(rows[at].tool_calls, wanted))
    return found


def scores_of(statistics: Statistics) -> dict[str, Scores]:
    """Every metric of every model."""
    scores: dict[str, Scores] = {}
    for name, by_model in statistics.items():
        scores[name] = {}
        for model, rows in by_model.items():
            scores[name][model] = metrics.score_of(name, rows)
    return scores


def quality_of(
    metric: str,
    statistics: Mapping[str, np.ndarray],
    references: References,
    resampling: Resampling,
) -> Quality:
    """The headline: scores, retention and their intervals. None where there is nothing to say.
    Retention is of the prompts with a gold answer: the teacher against itself says nothing."""
    scores: Scores = dict.fromkeys(("teacher", "baseline", "student"))
    ci95: dict[str, Any] = dict.fromkeys(scores)
    for model, rows in statistics.items():
        scores[model] = metrics.score_of(metric, rows)
        ci95[model] = interval_of(
            metric, rows, resampling.samples, resampling.seed, resampling.clusters
        )
    if references.kind == "teacher":
        # The student's score already is a ratio to the teacher.
        retention = scores["student"]
        ci95["retention"] = ci95["student"]
        scores["teacher"] = None
        ci95["teacher"] = None
    else:
        retention, ci95["retention"] = _retention(metric, statistics, references, resampling)
    return Quality(
        metric=metric,
        n=len(statistics["student"]),
        **scores,
        retention=retention,
        ci95=ci95,
    )


def _retention(
    metric: str,
    statistics: Mapping[str, np.ndarray],
    references: References,
    resampling: Resampling,
) -> tuple[float | None, list[float] | None]:
    """Student / teacher and its interval, on the prompts with a gold answer."""
    gold = references.is_gold
    student_NC = statistics["student"][gold]
    teacher_NC = statistics["teacher"][gold]
    student = metrics.score_of(metric, student_NC)
    teacher = metrics.score_of(metric, teacher_NC)
    retention = None
    if student is not None and teacher:
        retention = student / teacher
    drawn = resampling.of(gold)
    interval = retention_interval(
        metric, student_NC, teacher_NC, drawn.samples, drawn.seed, drawn.clusters
    )
    return retention, interval


def answer_rows(
    answers: Answers,
    references: References,
    statistics: Statistics,
    verdicts: Mapping[str, Sequence[Verdict | None]],
) -> list[Answer]:
    """Each answer with all its scores, and its verdict where the task has any."""
    rows = []
    for model, completions in answers.items():
        scores = {}
        for name, by_model in statistics.items():
            scores[name] = metrics.row_scores(name, by_model[model]).tolist()
        found = verdicts.get(model) or [None] * len(completions)
        for at, done in enumerate(completions):
            own = {name: _written(values[at]) for name, values in scores.items()}
            row = Answer(
                done.prompt_id,
                model,
                done.status,
                done.said,
                references.texts[at][0],
                json.dumps(own),
                found[at],
            )
            rows.append(row)
    return rows


def _written(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 6)
