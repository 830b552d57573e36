"""Which of several answers to one prompt stay: what most agree with, of prompts neither too easy
nor too hard, and the best.

Rules over the table of ledger.py. Whether an answer is right is judged with its text, before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.curation.ledger import Across, groups_in, is_known, is_left_in, reasons_of
from engine.curation.priority import answer_priorities, first_of_each
from engine.curation.votes import Ballot
from engine.rows.records import COMPLETION_KEY

Quality = Literal["correct", "score", "shorter"]
MINORITY = "minority_answer"
NO_MAJORITY = "no_majority"
LOWER_SCORE = "lower_score"
TOO_EASY = "too_easy"
TOO_HARD = "too_hard"
NO_END = pa.array(["truncated", "loop", "empty"])  # tried, and not right: the hardest do so most
_ALMOST = 1e-9  # 2 of 3 are at least 2/3, whatever the last bit says


def minority(ballot: Ballot, *, min_agreement: float) -> pa.Array:
    """Where there is no reference: `minority_answer` for what is not the answer of most,
    `no_majority` for all of a group where two answers lead together or the leading one has less
    than `min_agreement` of the group.

    A prompt has a reference if any of its answers, dropped ones too, could be compared with one
    (`correct` is not null). Tasks whose answers are not compared are left alone. Answers that are
    still there vote; one that states no final answer counts in the group and agrees with nobody.
    A single answer agrees with itself.
    """
    groups_B = ballot.groups_B
    most = np.zeros(len(ballot.sizes), np.int64)
    np.maximum.at(most, groups_B, ballot.votes_B)
    leads_B = ballot.votes_B == most[groups_B]
    leads_B &= ballot.votes_B > 0
    # the voters of one leading answer are as many as its votes, those of two are twice as many
    leaders = np.bincount(groups_B[leads_B], minlength=len(most))
    is_decided = (most > 0) & (leaders == most)
    is_decided &= most >= (min_agreement - _ALMOST) * ballot.sizes
    decided_B = is_decided[groups_B]
    return reasons_of(
        ballot.count,
        {
            NO_MAJORITY: ballot.rows_B[~decided_B],
            MINORITY: ballot.rows_B[decided_B & ~leads_B],
        },
    )


def pass_rates(answers: pa.Table, *, across: Across = None) -> np.ndarray:
    """(N,) float64: share of right answers in the row's group, dropped ones too, of all whose
    `correct` is not null or that came to no end (NO_END); NaN where no `correct` is known."""
    groups = groups_in(answers, across)
    of_row_N, count = groups
    is_right = answers["correct"].fill_null(False).to_numpy()
    is_checked = is_known(answers, "correct")
    has_no_end = pc.call_function("is_in", [answers["reason"]], pc.SetLookupOptions(NO_END))
    is_tried = is_checked | has_no_end.to_numpy()
    tried = np.bincount(of_row_N[is_tried], minlength=count)
    checked = np.bincount(of_row_N[is_checked], minlength=count)
    right = np.bincount(of_row_N[is_right], minlength=count)
    rates = np.full(count, np.nan)
    np.divide(right, tried, out=rates, where=checked > 0)
    return rates[of_row_N]


def off_difficulty(
    answers: pa.Table, rates_N: np.ndarray, *, keep: tuple[float, float]
) -> pa.Array:
    """`too_easy` above and `too_hard` below the bounds on the pass rate, both inclusive; a group
    without a pass rate (`pass_rates`) stays."""
    least, most = keep
    is_left = is_left_in(answers)
    too_easy = is_left & (rates_N > most + _ALMOST)
    too_hard = is_left & (rates_N < least - _ALMOST)
    dropped = {TOO_EASY: too_easy, TOO_HARD: too_hard}
    return reasons_of(len(answers), dropped)


def not_best(
    answers: pa.Table,
    *,
    per_prompt: int,
    by: Sequence[Quality],
    seed: int,
    across: Across = None,
) -> pa.Array:
    """`lower_score` for all but the `per_prompt` best rows of each group, as `best_first` ranks
    them."""
    left = np.flatnonzero(is_left_in(answers))
    groups = groups_in(answers, across)
    columns = [_COLUMNS[name] for name in by]
    ranked = answers.select([*COMPLETION_KEY, *columns]).take(left)
    keys = best_first(ranked, by, seed, "best")
    most = np.full(groups.count, per_prompt)
    stays = first_of_each(groups.of_row_N[left], keys, most)
    return reasons_of(len(answers), {LOWER_SCORE: left[~stays]})


def best_first(answers: pa.Table, by: Sequence[Quality], seed: int, salt: str) -> list[np.ndarray]:
    """What rows compare by, the most important first, each (N,) and lower for a better row: the
    first of `by` in which they differ counts, `correct` (right, then unknown, then wrong), `score`
    (higher, then none), `shorter` (fewer tokens, then unknown); what is equal in all is drawn by
    lot (`salt` says for what)."""
    keys = [_RANKS[name](answers) for name in by]
    return [*keys, answer_priorities(answers, seed, salt)]


def _right_first(answers: pa.Table) -> np.ndarray:
    rightness = _numbers(answers["correct"].cast(pa.int8()))
    return -np.nan_to_num(rightness, nan=0.5)


def _high_score_first(answers: pa.Table) -> np.ndarray:
    return -_numbers(answers["score"])


def _few_tokens_first(answers: pa.Table) -> np.ndarray:
    return _numbers(answers["completion_tokens"])


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """As float64; null is NaN, which comes last in every order."""
    floats = column.cast(pa.float64())
    return floats.fill_null(np.nan).to_numpy()


_COLUMNS = {"correct": "correct", "score": "score", "shorter": "completion_tokens"}
_RANKS: dict[str, Callable[[pa.Table], np.ndarray]] = {
    "correct": _right_first,
    "score": _high_score_first,
    "shorter": _few_tokens_first,
}
