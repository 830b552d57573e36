r"""Whether two values are the same, as far as rules can tell.

Two plain numbers compare exactly, whatever their spelling, and so do fractions of polynomials
(`x+1` and `1+x`), and tuples, intervals and sets of both. Equal spelling is equal. Everything else
is undecided here (`\sin 2x` and `2 \sin x \cos x`): None.
"""

from __future__ import annotations

from fractions import Fraction

from engine.rows.answers.polynomials import same_expression
from engine.rows.answers.values import UNITS, Value

_ROUNDED = Fraction(1, 2 * 10**6)  # as near as a decimal of six places comes to a fraction
_LONG = 10**12  # a denominator that no written decimal has


def same_value(said: Value, wanted: Value) -> bool | None:
    """Whether both are the same; None where only algebra can tell. Where one says what it is about,
    that will do as well."""
    if said.nearly is not None and _same(said.nearly, wanted) is True:
        return True
    if wanted.nearly is not None and _same(said, wanted.nearly) is True:
        return True
    return _same(said, wanted)


def _same(said: Value, wanted: Value) -> bool | None:
    if said.numbers and wanted.numbers:
        return _same_number(said, wanted)
    if said.parts and wanted.parts:
        return _same_parts(said, wanted)
    if said.key == wanted.key:
        return True
    if said.is_words or wanted.is_words:
        return False
    if said.parts and wanted.numbers:
        return all(same_value(part, wanted) is True for part in said.parts)
    if said.numbers and wanted.parts:
        return False
    if said.parts or wanted.parts:
        return None
    return same_expression(said.tex, wanted.tex)


def _same_number(said: Value, wanted: Value) -> bool:
    here = set(said.numbers)
    there = set(wanted.numbers)
    if said.unit != wanted.unit and said.unit and wanted.unit:
        kind, scale = UNITS[said.unit]
        other_kind, other_scale = UNITS[wanted.unit]
        if kind == other_kind:
            here = {number * scale for number in here}
            there = {number * other_scale for number in there}
    elif said.is_percent != wanted.is_percent:
        # what was asked for may be counted in percent, or not
        if said.is_percent:
            here |= {number / 100 for number in here}
        else:
            there |= {number / 100 for number in there}
    return bool(here & there) or _is_rounded(said.numbers[0], wanted.numbers[0])


def _is_rounded(a: Fraction, b: Fraction) -> bool:
    """Whether one is a fraction that no decimal is, and the other its decimal of six places."""
    return abs(a - b) <= _ROUNDED and _is_endless(a) != _is_endless(b)


def _is_endless(value: Fraction) -> bool:
    below = value.denominator
    if below > _LONG:
        return False
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below > 1


def _same_parts(said: Value, wanted: Value) -> bool | None:
    kinds = {said.brackets, wanted.brackets}
    if len(kinds) > 1 and kinds != {"", "{}"}:
        # (1,2) and [1,2] differ; whether (1,2) answers for {1,2} depends on the question
        if kinds == {"", "()"} and _same_in_order(said.parts, wanted.parts) is True:
            return True
        if "" in kinds or "{}" in kinds:
            return None
        return False
    if said.brackets in ("", "{}"):
        return _same_unordered(said.parts, wanted.parts)
    return _same_in_order(said.parts, wanted.parts)


def _same_in_order(said: tuple[Value, ...], wanted: tuple[Value, ...]) -> bool | None:
    if len(said) != len(wanted):
        return False
    verdicts = list(map(same_value, said, wanted))
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _same_unordered(said: tuple[Value, ...], wanted: tuple[Value, ...]) -> bool | None:
    if len(said) != len(wanted):
        return False
    left = list(wanted)
    undecided = False
    for one in said:
        verdicts = [same_value(one, other) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True
