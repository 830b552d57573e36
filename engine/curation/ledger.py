"""The table that rules over all answers read: narrow columns, no texts.

A rule over a table is a function (table, *, settings) -> pa.Array of strings: the reason, or null,
for each row. It sees every training answer, those too that an earlier rule dropped (their `reason`
is not null), and gives reasons to rows that are still there only. The order of rows never matters.
Columns, of which each rule reads its own:

| column | type | content |
|---|---|---|
| prompt_id, teacher, sample_index | int64, string, int32 | the key |
| task | string | of the prompt |
| answer | string | final answer as stated_answer.stated gives it; null: it states none |
| correct | bool | against the references; null: there is none, or nobody could tell |
| score | double | of a judge, more is better; null: none |
| completion_tokens | int32 | null: an API did not say |
| label, source, language, meta.<field> | string | what balance counts by; null: it has none |
| reason | string | why an earlier rule dropped the row; null: it did not |

A group is the answers to one prompt by all teachers (`across`: "teachers"), or by each (None).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

Across = Literal["teachers"] | None


class Groups(NamedTuple):
    """The number of each row's group, (N,) int64 from 0, and how many numbers there are; with
    several teachers some may have no row."""

    of_row_N: np.ndarray
    count: int


class Coded(NamedTuple):
    """A column as numbers: its different values, and which of them each row has; -1 is null."""

    values: list[Any]
    codes_N: np.ndarray  # int64


def groups_in(answers: pa.Table, across: Across) -> Groups:
    """Of which group each answer is."""
    ids = answers["prompt_id"].to_numpy()
    prompts, of_row_N = np.unique(ids, return_inverse=True)
    if across == "teachers":
        return Groups(of_row_N, len(prompts))
    teachers = coded(answers["teacher"])
    each = len(teachers.values)
    of_row_N = of_row_N * each + teachers.codes_N
    return Groups(of_row_N, len(prompts) * each)


def coded(column: pa.Array | pa.ChunkedArray) -> Coded:
    """The values in the order in which rows have them first."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy()
    return Coded(values, codes.astype(np.int64))


def is_left_in(answers: pa.Table) -> np.ndarray:
    """(N,) bool: rows that no rule dropped so far."""
    return answers["reason"].is_null().to_numpy()


def is_known(answers: pa.Table, column: str) -> np.ndarray:
    """(N,) bool: rows whose column is not null."""
    return answers[column].is_valid().to_numpy()


def reasons_of(count: int, rows_by_reason: dict[str, np.ndarray]) -> pa.Array:
    """What a rule gives: a reason for the rows (numbers, or a mask) of each, null for the rest."""
    places = np.zeros(count, np.int8)
    for place, rows in enumerate(rows_by_reason.values(), start=1):
        places[rows] = place
    reasons = pa.array([None, *rows_by_reason], pa.string())
    return reasons.take(pa.array(places))
