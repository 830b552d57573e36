"""Which of several answers to one prompt stay: the right ones, those that most agree with, the best.

A rule over a table is a function (table, *, settings) -> pa.Array of strings, the reason or null
for each row. It sees every training answer, those too that an earlier rule dropped (their `reason`
is not null), and gives a reason to rows that are still there only. No rule depends on the order of
rows. Columns that rules read (`LEDGER`; whatever else the table has is left alone):

| column | type | content |
|---|---|---|
| prompt_id, teacher, sample_index | int64, string, int32 | the key |
| task | string | of the prompt |
| answer | string | final answer as final_answer.stated gives it; null: it states none |
| correct | bool | against the references; null: there is none, or nobody could tell |
| score | double | of a judge, more is better; null: none |
| completion_tokens | int32 | null: an API did not say |
| label, source, language, meta.<field> | string | what balance counts by; null: it has none |
| reason | string | why an earlier rule dropped the row; null: it did not |

A group is a prompt's answers by all teachers (`across`: "teachers"), or by each (None).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

Across = Literal["teachers"] | None
Quality = Literal["correct", "score", "shorter"]
MINORITY = "minority_answer"
NO_MAJORITY = "no_majority"
LOWER_SCORE = "lower_score"
TOO_EASY = "too_easy"
TOO_HARD = "too_hard"


class Votes(NamedTuple):
    """Of each row: how many rows of its group give the same answer, itself among them, and their
    share of the group. 0 and NaN where the row does not vote."""

    votes: np.ndarray  # (N,) int16
    agreement: np.ndarray  # (N,) float64


def minority(table: pa.Table, *, min_agreement: float = 0.5, across: Across = None) -> pa.Array:
    """Where there is no reference: `minority_answer` for what is not the answer of most,
    `no_majority` for all of a group where two answers lead together or the leading one has less
    than `min_agreement` of the group.

    A prompt has a reference if any of its answers, dropped ones too, could be compared with one
    (`correct` is not null). Tasks whose answers are not compared are left alone. Answers that are
    still there vote; one that states no final answer counts in the group and agrees with nobody.
    A group of one answer agrees with itself.
    """
    raise NotImplementedError


def votes_of(table: pa.Table, *, across: Across = None) -> Votes:
    """How the rows vote that `minority` looks at."""
    raise NotImplementedError


def pass_rates(table: pa.Table, *, across: Across = None) -> np.ndarray:
    """(N,) float64: share of right answers in the row's group, of all whose `correct` is not null,
    dropped ones too; NaN where there is none."""
    raise NotImplementedError


def off_difficulty(
    table: pa.Table, *, keep: tuple[float, float], across: Across = None
) -> pa.Array:
    """`too_easy` above and `too_hard` below the bounds on the pass rate, both inclusive; a group
    without a pass rate stays."""
    raise NotImplementedError


def not_best(
    table: pa.Table,
    *,
    per_prompt: int,
    by: Sequence[Quality],
    seed: int,
    across: Across = None,
) -> pa.Array:
    """`lower_score` for all but the `per_prompt` best rows of each group.

    Rows compare by the first of `by` in which they differ: `correct` (right, then unknown, then
    wrong), `score` (higher, then none), `shorter` (fewer tokens, then unknown); what is equal in
    all is drawn by lot.
    """
    raise NotImplementedError


class PromptCounts(NamedTuple):
    """Prompts with an answer in the table, and those of them without one that is still there."""

    prompts: int
    with_no_answer_left: int


def count_prompts(table: pa.Table) -> PromptCounts:
    """Of the table with the reasons that it has now."""
    raise NotImplementedError
