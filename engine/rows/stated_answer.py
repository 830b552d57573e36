"""The final answer that a text states, in one spelling, where no reference says what to look for.

Several samples of one prompt can vote with it. What is left out is what cannot be compared: answers
in sentences, and tasks that have no final answer. final_answer.py compares with references; this
compares answers with each other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from fractions import Fraction

from engine.rows.answers import labels, mathematics, phrases
from engine.rows.answers.choices import are_listed, choice_of
from engine.rows.answers.equality import same_value
from engine.rows.answers.values import Value, value_of
from engine.rows.final_answer import USUAL, Rules

_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_LONG = 10**30  # above, a number is left as it was written
_REMEMBERED = 65_536  # answers


def stated(task: str, text: str, rules: Rules = USUAL, *, prompt: str = "") -> str | None:
    """The final answer: a number, label, letter or few words; None where the text states none, or
    the task has none. Equal numbers have one spelling: "1,000", "$1000.00" and "one thousand" are
    1000, 4/8 is 0.5, 2/6 is 1/3."""
    reader = _SPELLERS.get(task)
    return None if reader is None else reader(text, rules, prompt)


def same_stated(task: str, one: str, other: str) -> bool:
    """Whether two stated answers are the same, as far as rules can tell: in mathematics by value,
    else by spelling."""
    if one == other:
        return True
    if task != "math" or (is_plain(one) and is_plain(other)):
        return False
    value = _value(one)
    against = _value(other)
    return value is not None and against is not None and same_value(value, against) is True


def is_plain(answer: str) -> bool:
    """Whether it is a number whose spelling alone says which: two of them are the same only if they
    are spelt the same."""
    return _PLAIN.fullmatch(answer) is not None


@functools.lru_cache(maxsize=_REMEMBERED)
def _value(answer: str) -> Value | None:
    return value_of(answer)


def _math(text: str, rules: Rules, prompt: str) -> str | None:
    if are_listed(prompt):
        letter = choice_of(text)
        if letter is not None:
            return letter
    value = mathematics.answer_of(text)
    return choice_of(text) if value is None else _spelt(value)


def _spelt(value: Value) -> str:
    if not value.numbers:
        spelling = " ".join(value.tex.split())
        if value.nearly is not None:
            return f"{spelling} ≈ {_spelt(value.nearly)}"
        return spelling.casefold() if value.is_words else spelling
    number = value.numbers[0]
    if max(abs(number.numerator), number.denominator) >= _LONG:
        return value.text
    spelling = _number(number)
    if value.is_percent:
        return f"{spelling}%"
    return f"{spelling} {value.unit}".strip()


def _number(number: Fraction) -> str:
    """As a decimal where it ends, else as a fraction."""
    rest = number.denominator
    places = 0
    while rest % 10 == 0:
        rest //= 10
        places += 1
    while rest % 2 == 0 or rest % 5 == 0:
        rest //= 2 if rest % 2 == 0 else 5
        places += 1
    if rest > 1:
        return f"{number.numerator}/{number.denominator}"
    if not places:
        return str(number.numerator)
    digits = str(abs(number.numerator) * 10**places // number.denominator).zfill(places + 1)
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def _label(text: str, rules: Rules, prompt: str) -> str | None:
    label = labels.label_of(text, labels.names_in(prompt, rules.labels))
    return None if label == labels.AMBIGUOUS else label


def _phrase(text: str, rules: Rules, prompt: str) -> str | None:
    phrase = phrases.phrase_of(text)
    if phrase is None or not phrases.is_short(phrase):
        return None
    return phrases.normalise(phrase) or None


_SPELLERS: dict[str, Callable[[str, Rules, str], str | None]] = {
    "math": _math,
    "nli": _label,
    "qa": _phrase,
}
