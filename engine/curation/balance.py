"""No label, source, language or length may outweigh the rest: caps on rows and on shares.

The rows that stay of a value are drawn by lot, so they do not depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.curation.ledger import coded, is_left_in, reasons_of
from engine.curation.priority import answer_priorities, first_of_each
from engine.curation.selection import pass_rates
from engine.rows.records import COMPLETION_KEY

OVER_CAP = "over_cap"
_ALMOST = 1e-9  # 0.3 of 10 are 3 rows, whatever the last bit says
_TENTHS = 10

Caps = Mapping[str, float]  # of the values that it names


class Balanced(NamedTuple):
    """What caps do to a table, and what the caller may have to say about it."""

    reasons: pa.Array  # `over_cap` or null of each row
    before: dict[str, int]  # rows still there of each value, most first
    after: dict[str, int]
    without_value: int  # rows still there that have no value: not capped, but in the total
    unknown: list[str]  # values that are capped and never seen: the job says what is not there
    is_met: bool  # False: no choice of rows meets the shares; then they drop none


def balance(
    answers: pa.Table,
    *,
    by: str,
    seed: int,
    most: int | Mapping[str, int] | None = None,
    share: float | Caps | None = None,
) -> Balanced:
    """Rows beyond `most` of each value, or beyond its `share` of all rows that stay.

    `by` is `length` (bands of tokens between powers of two: "64-127"), `difficulty` (tenths of the
    pass rate of the prompt over all teachers: "0.3" is from 0.3 to below 0.4), or a column:
    `label`, `source`, `language`, `meta.<field>`. One number caps every value, a mapping those that
    it names. Both `most` and `share` may be given; `most` comes first.

    Shares count of what is left in the end: the largest set of rows is kept in which no value has
    more than its share. There is none where few values may have less than all together: three
    labels of at most 0.3 each. A column that the table lacks, or that is null in all rows, has no
    value: `before` is empty, and no row is dropped.
    """
    left = np.flatnonzero(is_left_in(answers))
    values = values_of(answers, by).take(pa.array(left))
    before = _counted(values)
    without_value = values.null_count
    capped = dict(before)
    if most is not None:
        for name, cap in caps_for(before, most).items():
            if name in capped:
                capped[name] = min(capped[name], int(cap))
    after = capped
    if share is not None:
        shares = caps_for(before, share)
        after = limits_of(capped, without_value, shares)
    is_met = any(after.values()) or not any(capped.values())
    if not is_met:
        after = capped
    names, codes = coded(values)
    is_counted = codes >= 0
    rows = left[is_counted]
    keys = answers.select(COMPLETION_KEY).take(rows)
    lots = answer_priorities(keys, seed, "balance")
    limits = np.array([after[name] for name in names], np.int64)
    stays = first_of_each(codes[is_counted], [lots], limits)
    dropped = rows[~stays]
    return Balanced(
        reasons=reasons_of(len(answers), {OVER_CAP: dropped}),
        before=before,
        after=_most_first(after),
        without_value=without_value,
        unknown=_unknown(before, most) + _unknown(before, share),
        is_met=is_met,
    )


def counts_of(answers: pa.Table, by: str) -> dict[str, int]:
    """Rows of each value, most first; rows without one are left out."""
    return _counted(values_of(answers, by))


def values_of(answers: pa.Table, by: str) -> pa.Array:
    """What `by` says of each row, as strings; null where it says nothing."""
    if by in _VALUES:
        return _VALUES[by](answers)
    if by not in answers.column_names:
        return pa.nulls(len(answers), pa.string())
    return answers[by].cast(pa.string()).combine_chunks()


def caps_for(counts: Mapping[str, int], caps: float | Caps) -> Caps:
    """The cap of each value that has one."""
    if isinstance(caps, Mapping):
        return caps
    return dict.fromkeys(counts, caps)


def limits_of(counts: Mapping[str, int], others: int, shares: Caps) -> dict[str, int]:
    """How many rows of each value stay, so that none is more than its share of all rows that do;
    all 0 where no set of rows is like that. `others` are rows without a value, which stay.

    T = others + Σ min(rows, share * T), from all rows downwards to the first T that holds: the
    greatest, because every set of rows that meets the shares is within the limits of every T on the
    way.
    """
    rows = np.array(list(counts.values()), np.int64)
    share = np.array([shares.get(name, 1.0) for name in counts])
    total = others + rows.sum()
    while True:
        allowed = np.floor(share * total + _ALMOST)
        limits = np.minimum(rows, allowed).astype(np.int64)
        smaller = others + limits.sum()
        if smaller == total:
            return dict(zip(counts, limits.tolist(), strict=True))
        total = smaller


def _length_bands(answers: pa.Table) -> pa.Array:
    tokens = answers["completion_tokens"].combine_chunks()
    known = tokens.fill_null(0).to_numpy()
    _, bits = np.frexp(known.astype(np.float64))
    names = ["0", "1"]
    longest = int(bits.max(initial=1))
    for bit in range(1, longest):
        first = 2**bit
        names.append(f"{first}-{2 * first - 1}")
    unknown = tokens.is_null().to_numpy(zero_copy_only=False)
    numbers = pa.array(bits, mask=unknown)
    return pa.array(names).take(numbers)


def _pass_rate_tenths(answers: pa.Table) -> pa.Array:
    rates = pass_rates(answers, across="teachers")
    known = np.nan_to_num(rates)
    tenths = np.floor(known * _TENTHS + _ALMOST)
    numbers = pa.array(tenths.astype(np.int64), mask=np.isnan(rates))
    names = [str(tenth / _TENTHS) for tenth in range(_TENTHS + 1)]
    return pa.array(names).take(numbers)


def _counted(values: pa.Array) -> dict[str, int]:
    counts = {}
    for one in values.drop_null().value_counts().to_pylist():
        counts[one["values"]] = one["counts"]
    return _most_first(counts)


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    names = sorted(counts)
    names.sort(key=lambda name: counts[name], reverse=True)
    return {name: counts[name] for name in names}


def _unknown(counts: Mapping[str, int], caps: object) -> list[str]:
    if not isinstance(caps, Mapping):
        return []
    return sorted(set(caps) - set(counts))


_VALUES: dict[str, Callable[[pa.Table], pa.Array]] = {
    "length": _length_bands,
    "difficulty": _pass_rate_tenths,
}
