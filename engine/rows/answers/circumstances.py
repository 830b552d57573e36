"""What a sentence says beside its value: after what, for what, and how much that is about.

"27 are left after 3 were eaten", "5 more years to be 32", "9π, roughly 28.3": there the last number
is not the answer. Whoever reads the value cuts these off first, as long as a number is left.
"""

from __future__ import annotations

import re

from engine.rows.answers.vocabulary import ABOUT, SUBORDINATES

_RESULTS = re.compile(
    r"=|,|\b(?:get|gets|got|obtain\w*|gives?|gave|yields?|results?|makes?|total\w*)\b",
    re.IGNORECASE,
)
_GOAL = re.compile(
    r"\b(?:more|another|extra|additional|further)\b[^.\d]{0,40}?(?P<goal>\sto\s)[^.\d]{1,40}\d",
    re.IGNORECASE,
)
_GOAL_BEFORE_NUMBER = re.compile(
    r"\banother\s+\d[\d.,]{0,20}\s[^.\d]{0,40}?(?P<goal>\sto\s)[^.\d]{1,40}\d", re.IGNORECASE
)
# A number that is a name: in class 7, on page 12, at gate 3.
_NAME = re.compile(
    r"\b(?:in|on|at)\s+(?!(?:least|most|all|total|sum|average|about|around|exactly|just|only|nearly"
    r"|under|over|roughly|approximately|first|last|fact|short)\b)[a-z]+\s+(?P<name>\d+\w?\b)",
    re.IGNORECASE,
)
# Of what a value is made, or what it is compared with.
_OF_THESE = re.compile(
    r",\s*(?:of|from|among) (?:which|whom|them|these|those)\b"
    r"|,\s*(?:davon|dont|di cui|de los cuales|de las cuales|dos quais|das quais|waarvan"
    r"|varav|из них|из которых)\b|，?其中",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"(?:[,—]|\s-|\b(?:which|that) (?:is|was)|\bthat's|\bor)\s?[$€£₹]?\d[\d.,]{0,20}\s?"
    r"(?:[^\W\d_]+\s+){0,2}(?:more|less|fewer|[a-z]{3,}er)\s+than\b",
    re.IGNORECASE,
)
_TOTAL = re.compile(
    r"\b(?:total\w*|altogether|in all|sum|insgesamt|zusammen|suma|somme|somma|всего|итого|łącznie"
    r"|razem|toplam\w*)\b|合計|总共|一共|कुल|மொத்த|ಒಟ್ಟು|మొత్తం",
    re.IGNORECASE,
)
_RESTATED = re.compile(
    r",?\s?(?:\bi\.\s?e\.|\bthat is(?: to say)?,|\bin other words\b|\bor equivalently\b"
    r"|\bequivalently\b|\bd\.\s?h\.|\bc'est-à-dire\b|\bes decir\b|\bou seja\b|\bcioè\b"
    r"|\bто есть\b|即),?\s*",
    re.IGNORECASE,
)
_AT = re.compile(r"\bat\s*\Z", re.IGNORECASE)
_JOINT = re.compile(r"(?:[,;(]|\b(?:or|i\.e\.|that is|that's|which is))\s*\Z", re.IGNORECASE)
_NEARLY_SIGNS = ("≈", "~", "≃")
_NUMBER = re.compile(r"\d[\d.,]*")
_DIGIT = re.compile(r"\d")
_NUMBER_OR_EQUATION = re.compile(r"\d|=")


def without_circumstances(text: str) -> str:
    """The sentence up to when and for what its value holds, if a number stands before that."""
    of_these = _OF_THESE.search(text)
    parts = of_these.start() if of_these else None
    for cut in (parts, _last_clause(text), _goal(text), _comparison(text)):
        if cut is not None and _DIGIT.search(text, 0, cut):
            text = text[:cut]
    return text


def restated(text: str) -> tuple[str, str]:
    """The sentence up to where it says something again in other words, and those, where they hold a
    number or an equation; else all of it, and nothing."""
    found = list(_RESTATED.finditer(text))
    if not found or not _NUMBER_OR_EQUATION.search(text, found[-1].end()):
        return text, ""
    return text[: found[-1].start()], text[found[-1].end() :]


def _last_clause(text: str) -> int | None:
    """Where a clause like "after 3 were eaten" begins, which holds one number and no result."""
    word = SUBORDINATES.last(text)
    if word is None:
        return None
    clause = text[word.end :]
    return word.start if _holds_one_number(clause) else None


def _goal(text: str) -> int | None:
    goal = _GOAL.search(text) or _GOAL_BEFORE_NUMBER.search(text)
    if goal is None or not _holds_one_number(text[goal.end("goal") :]):
        return None
    return goal.start("goal")


def _holds_one_number(clause: str) -> bool:
    """And no result."""
    return len(_NUMBER.findall(clause)) == 1 and not _RESULTS.search(clause.rstrip(" .,"))


def _comparison(text: str) -> int | None:
    """Where "…, 10 more than her goal of 40" begins."""
    found = list(_COMPARED.finditer(text))
    if not found or _RESULTS.search(text, found[-1].end()):
        return None
    return found[-1].start()


def names_in(text: str) -> set[int]:
    """Where numbers begin that only name something."""
    return {name.start("name") for name in _NAME.finditer(text)}


def is_total(text: str, first: int, second: int) -> bool:
    """Whether the number at `first` is called a total, and what begins at `second` its parts."""
    between = text[first:second]
    return _TOTAL.search(text, 0, second) is not None and any(sign in between for sign in ":;(")


def is_at(text: str, place: int) -> bool:
    """Whether "at" stands before a place: at 10:45."""
    return _AT.search(text, 0, place) is not None


def may_be_about(text: str) -> bool:
    """Whether a sign or word of "about" stands in it."""
    return any(sign in text for sign in _NEARLY_SIGNS) or ABOUT.first(text) is not None


def nearly(text: str, place: int) -> int | None:
    """Where "…, roughly" begins, if that is what stands before the number at `place`."""
    word = ABOUT.last(text, 0, place)
    start = place
    if word is not None and not text[word.end : place].strip(" $€£.~≈"):
        start = word.start
    head = text[:start].rstrip()
    if head.endswith(_NEARLY_SIGNS):
        return len(head) - 1
    joint = _JOINT.search(text[:start])
    if start == place or joint is None:
        return None
    return joint.start()
