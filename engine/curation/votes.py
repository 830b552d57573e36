"""Which answers to a prompt agree: several spellings of one number are one vote.

B   rows on the ballot      V   rows of them that state an answer
E   entries: the different spellings in each group
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.curation.ledger import Across, coded, groups_in, is_known, is_left_in
from engine.rows.final_answer import is_compared
from engine.rows.stated_answer import is_plain, same_stated


class Votes(NamedTuple):
    """Of each row: how many rows of its group give the same answer, itself among them, and their
    share of the group. 0 and NaN where the row does not vote."""

    votes: np.ndarray  # (N,) int16
    agreement: np.ndarray  # (N,) float64


class Ballot(NamedTuple):
    """Rows that are asked what most say, the votes for each one's answer (0: it states none), their
    groups, the rows on the ballot of each group, and the rows of the table."""

    rows_B: np.ndarray
    votes_B: np.ndarray
    groups_B: np.ndarray
    sizes: np.ndarray  # (groups,)
    count: int


def votes_of(ballot: Ballot) -> Votes:
    """How the rows vote that selection.minority looks at."""
    votes = np.zeros(ballot.count, np.int16)
    agreement = np.full(ballot.count, np.nan)
    votes[ballot.rows_B] = ballot.votes_B
    voters = votes > 0
    agreement[ballot.rows_B] = ballot.votes_B / ballot.sizes[ballot.groups_B]
    agreement[~voters] = np.nan
    return Votes(votes, agreement)


def ballot_of(answers: pa.Table, *, across: Across = None) -> Ballot:
    """Rows that are still there, of tasks whose answers are compared and of prompts of which no
    answer, dropped ones too, could be compared with a reference."""
    groups = groups_in(answers, across)
    rows_B = np.flatnonzero(is_left_in(answers) & _is_unchecked(answers))
    groups_B = groups.of_row_N[rows_B]
    sizes = np.bincount(groups_B, minlength=groups.count)
    states = is_known(answers, "answer")[rows_B]
    votes_B = np.zeros(len(rows_B), np.int64)
    voters = answers.select(["task", "answer"]).take(rows_B[states])
    votes_B[states] = _votes_for_each(voters, groups_B[states])
    return Ballot(rows_B, votes_B, groups_B, sizes, len(answers))


def _is_unchecked(answers: pa.Table) -> np.ndarray:
    tasks = coded(answers["task"])
    compared = [is_compared(task) for task in tasks.values]
    is_voted_on = np.array(compared, bool)[tasks.codes_N]
    prompts = groups_in(answers, "teachers")
    known = prompts.of_row_N[is_known(answers, "correct")]
    checked = np.zeros(prompts.count, bool)
    checked[known] = True
    return is_voted_on & ~checked[prompts.of_row_N]


def _votes_for_each(voters: pa.Table, groups_V: np.ndarray) -> np.ndarray:
    """Votes (V,) for the answer of each voter."""
    tasks = coded(voters["task"])
    spelt = coded(voters["answer"])
    keys = groups_V * len(spelt.values) + spelt.codes_N
    _, first_E, entry_V = np.unique(keys, return_index=True, return_inverse=True)
    answer_E = np.arange(len(first_E))
    code_E = spelt.codes_N[first_E]
    odd = [not is_plain(answer) for answer in spelt.values]
    is_odd_E = np.array(odd, bool)[code_E]
    stretches = _stretches_to_compare(groups_V[first_E], is_odd_E)
    for start, end in stretches:
        task = tasks.values[tasks.codes_N[first_E[start]]]
        spellings = [spelt.values[code] for code in code_E[start:end]]
        answer_E[start:end] = start + _answers_in(task, spellings)
    answer_V = answer_E[entry_V]
    return np.bincount(answer_V, minlength=len(first_E))[answer_V]


def _stretches_to_compare(groups_E: np.ndarray, is_odd_E: np.ndarray) -> list[list[int]]:
    """From where to where the entries are that spelling alone does not tell apart: those of a group
    with several, of which one is odd, that is, no plain number."""
    starts = np.flatnonzero(np.diff(groups_E, prepend=-1))
    ends = np.append(starts, len(groups_E))[1:]
    odd_before = np.concatenate([[0], np.cumsum(is_odd_E)])
    wanted = odd_before[ends] > odd_before[starts]
    wanted &= ends - starts > 1
    return np.stack([starts[wanted], ends[wanted]], axis=1).tolist()


def _answers_in(task: str, spellings: Sequence[str]) -> np.ndarray:
    """The number of the answer that each spelling stands for: what is the same as something that is
    the same is the same too, so that the order does not matter."""
    answers = np.arange(len(spellings))
    for at, one in enumerate(spellings):
        for before, other in enumerate(spellings[:at]):
            if answers[at] != answers[before] and same_stated(task, one, other):
                answers[answers == answers[at]] = answers[before]
    return answers
