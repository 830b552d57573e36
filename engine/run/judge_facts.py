"""What a judge said, as part of a stage's facts; how it is counted is engine/rows/judging."""

from __future__ import annotations

from pydantic import BaseModel

from engine.run.fact_settings import FACTS


class JudgeFacts(BaseModel):
    """Base of all: frozen, and nothing that no field names."""

    model_config = FACTS


class JudgedPairs(JudgeFacts):
    """The student's answers against another model's, as judged in both orders."""

    win_rate: float | None
    """Share of the pairs that the student wins, ties half; null: no pair has a result."""
    ci95: tuple[float, float] | None
    p: float | None
    """Two-sided, that neither is better."""
    mde: float | None
    """Smallest true distance from a win rate of one half that so many pairs show with a probability
    of 80 %."""
    wins: int
    losses: int
    ties: int
    flips: int
    """Ties whose winner changed with the order."""
    same: int
    """Ties that nobody was asked about: both answers are the same text."""
    unjudged: int
    """Pairs without a vote in both orders; they are in none of the above."""
    n: int
    """Pairs with a result."""
    clusters: int
    longer_won: float | None
    """Share of wins and losses that went to the longer answer."""
    length_correlation: float | None
    """Spearman's, of the words that the student's answer has more and the result."""


class Grades(JudgeFacts):
    """One model's answers on the scale."""

    mean: float | None
    ci95: tuple[float, float] | None
    n: int
    """Answers with a grade."""
    ungraded: int
    length_correlation: float | None
    """Spearman's, of an answer's words and its grade."""
    student_ahead: float | None = None
    """The student's mean less this one, of the prompts where both have a grade."""
    student_ahead_ci95: tuple[float, float] | None = None
    student_ahead_p: float | None = None


class AskedJudge(JudgeFacts):
    """Who was asked, and what all of its replies took together."""

    name: str
    kind: str
    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None
    """Of all that was asked; null without prices."""


class CurateJudge(AskedJudge):
    """The judge whose grades and votes curate chose by."""

    replies: int


class Judge(AskedJudge):
    """The judge of an evaluation: how far its votes can be trusted, and what they come to."""

    rubric_sha256: str
    is_teacher: bool
    """It also taught: models prefer answers like their own."""
    replies: int
    """Of the questions behind the figures below."""
    unreadable: dict[str, int]
    """Replies without a verdict, by status; they are no votes."""
    named: int
    """Votes of pairs that name a winner."""
    first_share: float | None
    """Those of them that name the answer which stood first: one half of a judge that does not
    care."""
    first_p: float | None
    """Two-sided, that places say nothing to it, by which way its flips go."""
    flip_rate: float | None
    """Share of the pairs with a result, other than same texts, whose winner changed with the
    order."""
    pairs: dict[str, JudgedPairs] = {}
    """By the model that the student is compared with."""
    scale: tuple[int, int] | None = None
    grades: dict[str, Grades] = {}
    """By model."""
