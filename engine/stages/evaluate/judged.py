"""What a judge's rows come to: wins against each other model, and grades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from engine.job.spec import JudgeSpec
from engine.rows.comparison import Comparison
from engine.rows.judging.choices import Choice
from engine.rows.judging.duel import EQUAL, Duel
from engine.rows.judging.duels import (
    compare_duels,
    compare_grades,
    flip_rate,
    length_correlation,
    longer_won,
    mean_grade,
    positions_of,
    rank_correlation,
    win_rate,
)
from engine.rows.records import Judgement, Prompt
from engine.rows.words import words
from engine.run.judge_facts import Grades, JudgedPairs
from engine.stages.evaluate.scoring import Answers, Resampling


@dataclass(frozen=True)
class Judged:
    """What was judged, and the judge's rows about it."""

    spec: JudgeSpec
    prompts: Sequence[Prompt]
    answers: Answers
    rows: Sequence[Judgement]
    resampling: Resampling


def compared_with(spec: JudgeSpec, answers: Answers) -> list[str]:
    """The models whose answers the student's are compared with."""
    return [model for model in answers if model in spec.against]


def is_same_text(one: str, other: str) -> bool:
    """Whether two answers differ in nothing that a reader sees."""
    return one.strip() == other.strip()


def judged(told: Judged) -> dict[str, Any]:
    """The fields of a Judge that its rows decide."""
    duels = _duels(told)
    pairs = {}
    for model, of_model in duels.items():
        pairs[model] = _pairs(of_model, told.resampling)
    everything = list(chain.from_iterable(duels.values()))
    positions = positions_of(everything)
    unreadable: Counter[str] = Counter()
    for row in told.rows:
        if row.verdict is None and row.grade is None:
            unreadable[row.status] += 1
    fields = {
        "replies": len(told.rows),
        "unreadable": dict(unreadable),
        "named": positions.named,
        "first_share": positions.first_share,
        "first_p": positions.p,
        "flip_rate": flip_rate(everything),
        "pairs": pairs,
    }
    if told.spec.scale is not None:
        fields |= {"scale": tuple(told.spec.scale), "grades": _grades(told)}
    return fields


def _duels(told: Judged) -> dict[str, list[Duel]]:
    """By the model that the student is compared with, one per prompt."""
    votes: dict[tuple[int, str, int], Choice | None] = {}
    for row in told.rows:
        if row.against is not None:
            votes[row.prompt_id, row.against, row.order] = cast("Choice | None", row.verdict)
    ours = told.answers["student"]
    duels: dict[str, list[Duel]] = {}
    for model in compared_with(told.spec, told.answers):
        duels[model] = []
        theirs = told.answers[model]
        for prompt, mine, other in zip(told.prompts, ours, theirs, strict=True):
            if is_same_text(mine.said, other.said):
                duels[model].append(EQUAL)
                continue
            number = prompt.prompt_id
            duel = Duel(
                votes[number, model, 0],
                votes[number, model, 1],
                len(words(mine.said)),
                len(words(other.said)),
            )
            duels[model].append(duel)
    return duels


def _pairs(duels: Sequence[Duel], resampling: Resampling) -> JudgedPairs:
    found = compare_duels(duels, resampling.samples, resampling.seed, resampling.clusters)
    results = Counter(duel.result for duel in duels)
    return JudgedPairs(
        **_rate(found),
        wins=results["win"],
        losses=results["loss"],
        ties=results["tie"],
        flips=sum(duel.is_flip for duel in duels),
        same=sum(duel.is_same for duel in duels),
        unjudged=results[None],
        n=len(duels) - results[None],
        longer_won=longer_won(duels),
        length_correlation=length_correlation(duels),
    )


def _rate(found: Comparison | None) -> dict[str, Any]:
    """The win rate, of wins less losses: ties are half a win, so it is half of that difference
    above one half."""
    rate: dict[str, Any] = {"win_rate": None, "ci95": None, "p": None, "mde": None, "clusters": 0}
    if found is None:
        return rate
    rate |= {"p": found.p, "clusters": found.clusters}
    if found.difference is not None:
        rate["win_rate"] = win_rate(found.difference)
    if found.ci95 is not None:
        rate["ci95"] = tuple(map(win_rate, found.ci95))
    if found.mde is not None:
        rate["mde"] = found.mde / 2
    return rate


def _grades(told: Judged) -> dict[str, Grades]:
    """By model."""
    by_model: dict[str, list[float | None]] = {}
    for row in told.rows:
        if row.against is None:
            by_model.setdefault(row.model, []).append(row.grade)
    ours = by_model.get("student", [])
    grades = {}
    for model, given in by_model.items():
        fields = _graded(told, model, given)
        if model != "student":
            fields |= _student_ahead(told, ours, given)
        grades[model] = Grades(**fields)
    return grades


def _graded(told: Judged, model: str, given: Sequence[float | None]) -> dict[str, Any]:
    how = told.resampling
    mean, ci95 = mean_grade(given, how.samples, how.seed, how.clusters)
    lengths = []
    grades = []
    for answer, grade in zip(told.answers[model], given, strict=True):
        if grade is not None:
            lengths.append(len(words(answer.said)))
            grades.append(grade)
    return {
        "mean": mean,
        "ci95": ci95,
        "n": len(grades),
        "ungraded": len(given) - len(grades),
        "length_correlation": rank_correlation(lengths, grades),
    }


def _student_ahead(
    told: Judged, ours: Sequence[float | None], theirs: Sequence[float | None]
) -> dict[str, Any]:
    how = told.resampling
    found = compare_grades(ours, theirs, how.samples, how.seed, how.clusters)
    if found is None:
        return {}
    return {
        "student_ahead": found.difference,
        "student_ahead_ci95": found.ci95,
        "student_ahead_p": found.p,
    }
