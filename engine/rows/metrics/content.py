"""What an answer holds besides its words: its length, its numbers, the values that it had to name.

Numbers are those written with digits; number words of a language are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.rows.metrics.metric import Asked
from engine.rows.slots import count_named
from engine.rows.words import plain_digits, words

_SPACES = " \u00a0\u2009\u202f"
_NUMBER = re.compile(
    rf"(?<![\d.,])\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?![\d.,]*\d)|\d+(?:[.,'’٫٬]\d+)*", re.ASCII
)
_GROUPED = re.compile(
    rf"\d{{1,3}}(?P<mark>[,.'’٬{_SPACES}])(?:\d{{2,3}}(?P=mark))*\d{{3}}", re.ASCII
)
_POINTS = ".,٫"


def length_ratio(text: str, asked: Asked) -> list[float]:
    """Words of the answer, and of the reference that is nearest in length."""
    said = len(words(text))
    lengths = [len(words(reference)) for reference in asked.references]
    nearest = min(lengths, key=lambda length: (abs(length - said), length))
    return [said, nearest]


def new_numbers(text: str, asked: Asked) -> list[float]:
    """Numbers of the answer that its source does not have, and all numbers of the answer."""
    known: set[str] = set()
    for readings in _numbers(asked.source):
        known |= readings
    said = list(_numbers(text))
    new = [readings for readings in said if not readings & known]
    return [len(new), len(said)]


def slots_named(text: str, asked: Asked) -> list[float]:
    """Values in the prompt's columns SLOTS that the answer names, in any of their spellings, and
    how many there are."""
    named, values = count_named(text, asked.meta)
    return [named, values]


def _numbers(text: str) -> Iterator[set[str]]:
    """Each number in all its readings: `1.234` is a number of thousands and a decimal fraction,
    `10 000` one number or two."""
    for match in _NUMBER.finditer(plain_digits(text)):
        written = match.group()
        readings = set()
        if _GROUPED.fullmatch(written):
            readings.add(_plain(re.sub(r"\D", "", written)))
        whole, mark, fraction = _last_mark(written)
        if mark in _POINTS and mark not in whole:
            readings.add(_plain(re.sub(r"\D", "", whole), fraction))
        if not readings or mark in _SPACES:
            readings |= {_plain(part) for part in re.findall(r"\d+", written)}
        yield readings


def _last_mark(written: str) -> tuple[str, str, str]:
    """Before, at and after the last mark that is no digit."""
    marks = [at for at, character in enumerate(written) if not character.isdigit()]
    if not marks:
        return written, ".", ""
    at = marks[-1]
    return written[:at], written[at], written[at + 1 :]


def _plain(whole: str, fraction: str = "") -> str:
    """One spelling per value: 007.50 is 7.5."""
    value = whole.lstrip("0") or "0"
    fraction = fraction.rstrip("0")
    if fraction:
        return f"{value}.{fraction}"
    return value
