"""How good a judge finds one answer, read out of its reply: a number on the scale that it was
given. The last verdict counts; a number off the scale, or of another one (4 of 10), is no vote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from engine.rows.judging.replies import Statement, last_said, plain

_I = re.IGNORECASE
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = rf"(?P<number>[-+]?\d+(?:[.,]\d+)?|\b(?:{'|'.join(_WORDS)})\b)"
_OF = r"(?:[\"']?\s*(?:/|out\s+of)\s*(?P<most>\d+(?:[.,]\d+)?))?"
_NO_RANGE = r"(?![\"']?\s*(?:-|–|—|to\b|or\b|\|)\s*[\"']?\d)(?![\w%])(?![.,]\d)"
_VALUE = rf"[\"'\[({{<]*\s*{_NUMBER}{_NO_RANGE}{_OF}"
_KEY = (
    r"\b(?:(?:final|overall|total)\s+)?(?:score|rating|grade|mark|points|verdict|overall)"
    r"(?:\s+for\s+(?:this|the)\s+(?:answer|response))?(?:\s+(?:would|should))?"
)
_IS = r"[\"'\]>]*\s*(?:\([^)\n]{0,60}\)\s*)?(?:(?:is\b|was\b|of\b|be\b|[:=—–]|-+>?\s|→)\s*)+"
_WRITTEN = (
    re.compile(rf"{_KEY}{_IS}{_VALUE}", _I),
    re.compile(rf"<(?:score|rating|grade|verdict)>\s*{_NUMBER}{_OF}\s*<", _I),
    re.compile(rf"(?:\[\[|boxed\{{)[\s{{]*{_NUMBER}{_OF}\s*[\]}}]", _I),
)
_ALONE = re.compile(rf"[^\w:+-]*(?:{_KEY}\s+)?{_NUMBER}{_OF}(?:\s*(?:stars?|points?))?[^\w:]*", _I)
_IN_SENTENCES = re.compile(rf"{_NUMBER}\s*(?:/|out\s+of)\s*(?P<most>\d+(?:[.,]\d+)?)", _I)


def read_grade(reply: str, scale: Sequence[int], *, is_cut: bool = False) -> float | None:
    """The last grade of a reply; None where there is none on the scale. `is_cut`: the reply ran
    into its limit, so only what is written as a verdict counts."""
    text = plain(reply)
    written = last_said(text, list(_statements(text, _WRITTEN, scale)))
    if written is None and not is_cut:
        written = _alone(text, scale)
    if written is None and not is_cut:
        written = last_said(text, list(_statements(text, (_IN_SENTENCES,), scale)))
    if written is None or not scale[0] <= written <= scale[1]:
        return None
    return written


def _statements(
    text: str, patterns: Sequence[re.Pattern[str]], scale: Sequence[int]
) -> Iterator[Statement[float]]:
    for pattern in patterns:
        for match in pattern.finditer(text):
            yield match.start(), match.end(), _value_of(match, scale)


def _alone(text: str, scale: Sequence[int]) -> float | None:
    """Of a line that says nothing else, the last or the first."""
    lines = text.strip().splitlines() or [""]
    for line in (lines[-1], lines[0]):
        if match := _ALONE.fullmatch(line):
            return _value_of(match, scale)
    return None


def _value_of(match: re.Match[str], scale: Sequence[int]) -> float:
    """Infinite where it is a grade of another scale."""
    most = match["most"]
    if most is not None and _number(most) != scale[1]:
        return float("inf")
    return _number(match["number"])


def _number(text: str) -> float:
    word = text.lower()
    if word in _WORDS:
        return float(_WORDS.index(word))
    return float(text.replace(",", "."))
