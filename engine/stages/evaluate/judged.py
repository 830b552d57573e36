"""What a judge's rows come to: pairs, grades, and what must be known before they are believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from engine.job.spec import JudgeSpec
from engine.rows.comparison import Comparison
from engine.rows.judging.choices import Choice
from engine.rows.judging.duels import (
    EQUAL,
    Duel,
    compare_duels,
    compare_grades,
    length_correlation,
    longer_won,
    mean_grade,
    positions_of,
    rank_correlation,
    win_rate,
)
from engine.rows.metrics.words import words
from engine.rows.records import Judgement, Prompt
from engine.run.facts import Judge
from engine.run.judge_facts import Grades, JudgedPairs
from engine.stages.evaluate.scoring import Answers, Resampling

MOST_UNREADABLE = 0.1  # of the replies; above, a sentence says so
MOST_FLIPS = 0.3  # of the pairs
LEANS = 0.6  # share of the votes for one place
LEANS_ALWAYS = 0.9
ALPHA = 0.05


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
    return one.split() == other.split()


def judged(told: Judged) -> dict[str, Any]:
    """The fields of a Judge that its rows decide."""
    duels = _duels(told)
    everything = [duel for of_model in duels.values() for duel in of_model]
    positions = positions_of(everything)
    pairs = {}
    for model, of_model in duels.items():
        pairs[model] = _pairs(of_model, told.resampling)
    asked = sum(one.n - one.same for one in pairs.values())
    flips = sum(one.flips for one in pairs.values())
    unreadable = Counter(
        row.status for row in told.rows if row.verdict is None and row.grade is None
    )
    fields: dict[str, Any] = {}
    if told.spec.scale is not None:
        fields = {"scale": tuple(told.spec.scale), "grades": _grades(told)}
    return fields | {
        "replies": len(told.rows),
        "unreadable": dict(unreadable),
        "named": positions.named,
        "first_share": positions.first_share,
        "first_p": positions.p if positions.named else None,
        "flip_rate": flips / asked if asked else None,
        "pairs": pairs,
    }


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
            if is_same_text(mine.text, other.text):
                duels[model].append(EQUAL)
                continue
            number = prompt.prompt_id
            duel = Duel(
                votes[number, model, 0],
                votes[number, model, 1],
                len(words(mine.text)),
                len(words(other.text)),
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
    how = (told.resampling.samples, told.resampling.seed, told.resampling.clusters)
    grades = {}
    for model, given in by_model.items():
        mean, ci95 = mean_grade(given, *how)
        more: dict[str, Any] = {}
        ahead = None
        if model != "student":
            ahead = compare_grades(by_model["student"], given, *how)
        if ahead is not None:
            more["student_ahead"] = ahead.difference
            more["student_ahead_ci95"] = ahead.ci95
            more["student_ahead_p"] = ahead.p
        lengths = [len(words(row.text)) for row in told.answers[model]]
        there = [at for at, grade in enumerate(given) if grade is not None]
        grades[model] = Grades(
            mean=mean,
            ci95=ci95,
            n=len(there),
            ungraded=len(given) - len(there),
            length_correlation=rank_correlation(
                [lengths[at] for at in there], [given[at] or 0.0 for at in there]
            ),
            **more,
        )
    return grades


def warnings_of(judge: Judge, file: str) -> list[str]:
    """What makes its verdicts doubtful, a sentence each; `file` has its replies."""
    told = []
    if judge.is_teacher:
        told.append(
            f"the judge '{judge.name}' is the teacher ({judge.model}), and models prefer answers"
            " like their own: a win rate of such a judge is no evidence by itself; name another"
            " model in evaluate.judge.teacher"
        )
    told += _of_silence(judge, file)
    told += _of_places(judge)
    return told


def _of_silence(judge: Judge, file: str) -> list[str]:
    silent = sum(judge.unreadable.values())
    if silent <= MOST_UNREADABLE * judge.replies:
        return []
    by_status = ", ".join(f"{status} {count:,}" for status, count in judge.unreadable.items())
    return [
        f"{silent:,} of the judge's {judge.replies:,} replies hold no verdict ({by_status}) and are"
        f" no votes; read some in {file}, raise evaluate.judge.max_tokens where they were cut, or"
        " name a judge that keeps to the form"
    ]


def _of_places(judge: Judge) -> list[str]:
    """Of a judge that goes by the order: always by one place, more often by one, or at random."""
    if judge.first_share is None or judge.flip_rate is None:
        return []
    place = "first"
    share = judge.first_share
    if share < 0.5:
        place = "second"
        share = 1 - share
    flips = f"{judge.flip_rate:.0%} of the pairs changed their winner with the order"
    if judge.first_p is not None and judge.first_p < ALPHA and share >= LEANS:
        leaning = (
            f"the judge named the answer that stood {place} in {share:.0%} of {judge.named:,} votes"
            f" that name a winner, and {flips} (they count as ties)"
        )
        if share >= LEANS_ALWAYS:
            return [
                f"{leaning}: it goes by the place and not by the answers, so its win rates say"
                " nothing; name another judge, or mend the rubric"
            ]
        return [f"{leaning}: it leans towards a place, and fewer verdicts are about the answers"]
    if judge.flip_rate > MOST_FLIPS:
        return [
            f"{flips} (they count as ties): the judge can hardly tell these answers apart; a"
            " sharper rubric or another judge may"
        ]
    return []
