"""No label, source, language or length may outweigh the rest: caps on rows and on shares.

The rows that stay of a value are drawn by lot, so they do not depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

OVER_CAP = "over_cap"


class Balanced(NamedTuple):
    """What caps do to a table, and what the caller may have to say about it."""

    reasons: pa.Array  # `over_cap` or null of each row
    before: dict[str, int]  # rows still there of each value, most first
    after: dict[str, int]
    without_value: int  # rows still there that have no value: not capped, but in the total
    unknown: list[str]  # values that are capped and never seen: the job says what is not there
    is_met: bool  # False: no choice of rows meets the shares; then none is dropped


def balance(
    table: pa.Table,
    *,
    by: str,
    seed: int,
    most: int | Mapping[str, int] | None = None,
    share: float | Mapping[str, float] | None = None,
) -> Balanced:
    """Rows beyond `most` of each value, or beyond its `share` of all rows that stay.

    `by` is `length` (bands of powers of two tokens: "64-127"), `difficulty` (tenths of the pass
    rate of the prompt over all teachers: "0.3" is from 0.3 to below 0.4), or a column: `label`,
    `source`, `language`, `meta.<field>`. One number caps every value, a mapping those that it
    names. `most` and `share` may both be given; `most` comes first.

    Shares count of what is left in the end: the largest set of rows is kept in which no value has
    more than its share. It does not exist where few values share out less than all: three labels of
    at most 0.3 each. A column that the table lacks, or that is null in all rows, has no value:
    `before` is empty.
    """
    raise NotImplementedError


def values_of(table: pa.Table, by: str) -> pa.Array:
    """What `by` says of each row, as strings; null where it says nothing."""
    raise NotImplementedError


def counts_of(table: pa.Table, by: str) -> dict[str, int]:
    """Rows of each value, most first; rows without one are left out."""
    raise NotImplementedError


def limits_of(
    counts: Mapping[str, int], total: int, share: float | Mapping[str, float]
) -> dict[str, int]:
    """How many rows of each value stay, so that none is more than its share of all rows that do;
    all 0 where no set of rows is like that. `total` also counts rows without a value.

    The greatest fixed point of T = Σ min(rows, share * T): from all rows downwards.
    """
    raise NotImplementedError
