r"""Whether two expressions are the same, where both are fractions of polynomials: `x+1` and `1+x`,
`\frac{1}{\sqrt{2}}` and `\frac{\sqrt{2}}{2}`.

Exact: coefficients are fractions, and names, π and the roots of primes are independent of each
other. Functions, relations, roots of sums and whatever is too large are left to an algebra system:
they are None here.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

Monomial = tuple[tuple[str, int], ...]  # atoms in order, each with its power
Terms = dict[Monomial, Fraction]

_MOST_TERMS = 400
_MOST_POWER = 40
_MOST_BITS = 2000  # of a coefficient
_LARGEST_ROOT = 10**8
_LONGEST = 200  # characters
_DEEPEST = 40  # brackets in brackets
_ROUNDED_DIGITS = 5  # behind the point: such a decimal may stand for something else
_ROOT = "√"
_TOKEN = re.compile(
    r"\s+|(?P<number>\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<command>\\(?:frac|sqrt|pi|cdot|times|div))(?![A-Za-z])|\\(?:left|right)(?![A-Za-z])"
    r"|\\[,;:! ]|(?P<name>[A-Za-zα-ωΑ-Ω])|(?P<sign>[-+*/^(){}\[\]√×·⋅÷])"
)
_LETTERS = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{3,}|(?<![\\A-Za-z])(?:ln|or|in|cm|mm|km|kg)(?![A-Za-z])"
)
_FUNCTION = re.compile(r"(?<![A-Za-z\\])[fghFGHP]\s*(?:\\left)?\(")
_SPELLINGS = {"π": r"\pi", "×": "*", "·": "*", "⋅": "*", r"\cdot": "*", r"\times": "*"}
_SPELLINGS |= {"÷": "/", r"\div": "/"}
_COMMANDS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<![A-Za-z\\])(pi|sqrt)(?![A-Za-z])"), r"\\\1 "),
)
_BEHIND_DIVISION = ("", "+", "-", "*", "/", ")", "}", "]")
_OPENING = {"(": ")", "{": "}", "[": "]"}


class _NotOne(Exception):
    """No fraction of polynomials, or too large a one."""


@dataclass(frozen=True)
class _Ratio:
    """A polynomial over another one."""

    above: Mapping[Monomial, Fraction]
    below: Mapping[Monomial, Fraction]

    @property
    def names(self) -> set[str]:
        """Letters in it."""
        found = set()
        for terms in (self.above, self.below):
            for monomial in terms:
                found |= {atom for atom, _ in monomial if atom.isalpha() and atom != "π"}
        return found


def same_expression(said: str, wanted: str) -> bool | None:
    """Whether two expressions, in LaTeX or plain, are the same; None where algebra has to tell.
    Those with other names in them are left to it, and so are decimals that may be rounded."""
    ours = _ratio_of(said)
    theirs = _ratio_of(wanted)
    if ours is None or theirs is None:
        return None
    try:
        is_same = _product(ours.above, theirs.below) == _product(theirs.above, ours.below)
    except _NotOne:
        return None
    if is_same:
        return True
    if _may_be_renamed(ours.names, theirs.names):
        return None
    return None if _may_be_rounded(said) or _may_be_rounded(wanted) else False


def _may_be_renamed(ours: set[str], theirs: set[str]) -> bool:
    """Whether the same may be meant by other names; i may be the imaginary unit."""
    if "i" in ours | theirs:
        return True
    return bool(ours) and bool(theirs) and ours != theirs


def _may_be_rounded(text: str) -> bool:
    return re.search(rf"\.\d{{{_ROUNDED_DIGITS}}}", text) is not None


@functools.lru_cache(maxsize=4096)
def _ratio_of(text: str) -> _Ratio | None:
    if len(text) > _LONGEST:
        return None
    for pattern, command in _COMMANDS:
        text = pattern.sub(command, text)
    if _LETTERS.search(text) or _FUNCTION.search(text):
        return None
    try:
        return _Reader(_tokens(text)).whole()
    except _NotOne:
        return None


def _tokens(text: str) -> list[str]:
    found = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _NotOne
        at = match.end()
        token = match["number"] or match["command"] or match["name"] or match["sign"]
        if token:
            found.append(_SPELLINGS.get(token, token))
    return found


class _Reader:
    """Reads tokens from left to right: sums of products of powers."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> _Ratio:
        """All of it."""
        ratio = self._sum()
        if self._next():
            raise _NotOne
        return ratio

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._at += 1
        return token

    def _sum(self) -> _Ratio:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _NotOne
        total = self._term()
        while self._next() in ("+", "-"):
            sign = self._take()
            total = _added(total, self._term(), -1 if sign == "-" else 1)
        self._depth -= 1
        return total

    def _term(self) -> _Ratio:
        sign = 1
        while self._next() in ("+", "-"):
            if self._take() == "-":
                sign = -sign
        product = _times(_number(Fraction(sign)), self._power())
        while token := self._next():
            if token in "+-)}]":
                break
            if token == "*":
                self._at += 1
                product = _times(product, self._signed_power())
            elif token == "/":
                self._at += 1
                product = _times(product, _turned(self._signed_power()))
                if self._next() not in _BEHIND_DIVISION:
                    raise _NotOne  # 1/2x is x/2 to some
            elif self._is_unclear():
                raise _NotOne
            else:
                product = _times(product, self._power())
        return product

    def _is_unclear(self) -> bool:
        """A number behind something, or between a number and a fraction nothing: a mixed one."""
        token = self._next()
        if token[0] in "0123456789.":
            return True
        return token == r"\frac" and self._tokens[self._at - 1][-1].isdigit()

    def _signed_power(self) -> _Ratio:
        if self._next() == "-":
            self._at += 1
            return _times(_number(Fraction(-1)), self._power())
        return self._power()

    def _power(self) -> _Ratio:
        base = self._base()
        if self._next() != "^":
            return base
        self._at += 1
        exponent = _constant(self._short())
        if exponent == Fraction(1, 2):
            return _root(base)
        if exponent.denominator != 1 or abs(exponent) > _MOST_POWER:
            raise _NotOne
        if exponent < 0:
            base = _turned(base)
        raised = _number(Fraction(1))
        for _ in range(abs(int(exponent))):
            raised = _times(raised, base)
        return raised

    def _short(self) -> _Ratio:
        """What a command or a power takes without braces: one sign or digit, or a group."""
        token = self._next()
        if token in _OPENING or token.startswith("\\"):
            return self._base()
        if token == "-":
            self._at += 1
            return _times(_number(Fraction(-1)), self._short())
        if token.isdigit() and len(token) > 1 and self._tokens[self._at - 1] != "^":
            # \frac12 is 1/2
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._base()

    def _base(self) -> _Ratio:
        token = self._take()
        if token in _OPENING:
            inner = self._sum()
            if self._take() != _OPENING[token]:
                raise _NotOne
            return inner
        if token == r"\frac":
            above = self._short()
            return _times(above, _turned(self._short()))
        if token == r"\sqrt":
            if self._next() == "[":
                raise _NotOne
            return _root(self._short())
        if token == _ROOT:
            return _root(self._base())
        if token == r"\pi":
            return _atom("π")
        if token and (token[0].isdigit() or token[0] == "."):
            return _number(Fraction(token))
        if len(token) == 1 and token.isalpha():
            return _atom(token)
        raise _NotOne


def _number(value: Fraction) -> _Ratio:
    above: Terms = {(): value} if value else {}
    return _Ratio(above, {(): Fraction(1)})


def _atom(name: str) -> _Ratio:
    return _Ratio({((name, 1),): Fraction(1)}, {(): Fraction(1)})


def _constant(ratio: _Ratio) -> Fraction:
    """Its value, where it is a plain fraction."""
    if set(ratio.above) - {()} or set(ratio.below) - {()}:
        raise _NotOne
    return ratio.above.get((), Fraction(0)) / ratio.below[()]


def _root(ratio: _Ratio) -> _Ratio:
    """Of a plain fraction: what is left under roots of primes."""
    value = _constant(ratio)
    under = value.numerator * value.denominator
    if under < 0:
        raise _NotOne
    outside = Fraction(1, value.denominator)
    if not under:
        return _number(Fraction(0))
    inside = []
    exact = math.isqrt(under)
    if exact * exact == under:
        return _number(outside * exact)
    if under > _LARGEST_ROOT:
        raise _NotOne
    prime = 2
    while prime * prime <= under:
        while under % (prime * prime) == 0:
            under //= prime * prime
            outside *= prime
        if under % prime == 0:
            under //= prime
            inside.append((f"{_ROOT}{prime}", 1))
        prime += 1
    if under > 1:
        inside.append((f"{_ROOT}{under}", 1))
    return _Ratio({tuple(sorted(inside)): outside}, {(): Fraction(1)})


def _turned(ratio: _Ratio) -> _Ratio:
    if not ratio.above:
        raise _NotOne  # division by nothing
    return _Ratio(ratio.below, ratio.above)


def _times(a: _Ratio, b: _Ratio) -> _Ratio:
    return _Ratio(_product(a.above, b.above), _product(a.below, b.below))


def _added(a: _Ratio, b: _Ratio, sign: int) -> _Ratio:
    if a.below == b.below:
        return _Ratio(_sum_of(a.above, b.above, sign), a.below)
    left = _product(a.above, b.below)
    right = _product(b.above, a.below)
    return _Ratio(_sum_of(left, right, sign), _product(a.below, b.below))


def _sum_of(a: Mapping[Monomial, Fraction], b: Mapping[Monomial, Fraction], sign: int) -> Terms:
    total = dict(a)
    for monomial, factor in b.items():
        total[monomial] = total.get(monomial, Fraction(0)) + sign * factor
    return _checked(total)


def _product(a: Mapping[Monomial, Fraction], b: Mapping[Monomial, Fraction]) -> Terms:
    if len(a) * len(b) > _MOST_TERMS:
        raise _NotOne
    total: Terms = {}
    for one, factor in a.items():
        for other, more in b.items():
            monomial, outside = _joined(one, other)
            value = total.get(monomial, Fraction(0)) + factor * more * outside
            total[monomial] = value
    return _checked(total)


def _joined(one: Monomial, other: Monomial) -> tuple[Monomial, int]:
    """The product of two monomials, and the whole number that squares of roots give."""
    if not one or not other:
        return one or other, 1
    powers = dict(one)
    outside = 1
    for atom, power in other:
        powers[atom] = powers.get(atom, 0) + power
        if atom[0] == _ROOT and powers[atom] == 2:
            outside *= int(atom[1:])
            del powers[atom]
    return tuple(sorted(powers.items())), outside


def _checked(terms: Terms) -> Terms:
    """Without terms that are nothing, and within bounds."""
    kept = {monomial: factor for monomial, factor in terms.items() if factor}
    for factor in kept.values():
        if max(factor.numerator.bit_length(), factor.denominator.bit_length()) > _MOST_BITS:
            raise _NotOne
    return kept
