"""Which of two answers a judge prefers, read out of its reply. The last verdict counts; what names
none is no vote.

Verdicts that are written as such (JSON in any state of health, `Verdict: B`, `[[A]]`, `A > B`) win
over a line that is a letter alone, and that over sentences (`Answer A is better`). Of a reply that
was cut only the first kind counts: it was still speaking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from engine.rows.judging.replies import Statement, last_said, plain

Choice = Literal["first", "second", "tie"]
_I = re.IGNORECASE
_NOUN = r"(?:answer|response|assistant|option|model|candidate|output|reply)"
_WHO = rf"(?:(?:the\s+)?{_NOUN}[\s#:]*)"
_TIE = (
    r"(?:(?:an?\s+)?(?:clear\s+)?(?:tied?|draw)|equal(?:ly\s+good)?|(?:the\s+)?same|both|neither"
    r"|equivalent|no\s+preference)\b"
)
_SIDE = r"(?:[ab12]|first|second)\b(?![.,]\d)"
# After the name of a side: an end, a mark, or what a winner does. Not `A better answer would …`.
_THEN = rf"(?=\s*(?:$|\n|[^\w\s]|(?:is|was|wins?|over|because|since|as|one|{_NOUN})\b))"
# `"A" or "B"` says what might be said.
_NO_LIST = (
    r"(?![\"'\])}>]*\s*(?:\||/|or\b)\s*[\"'\[({<]*\s*"
    rf"{_WHO}?(?:[ab12]|first|second|tie)\b)"
)
_LETTERS = rf"[\"'\[({{<]*\s*(?P<said>{_TIE}|{_WHO}?[ab]\b{_THEN}){_NO_LIST}"
_VALUE = rf"[\"'\[({{<]*\s*(?P<said>{_TIE}|{_WHO}?(?:the\s+)?{_SIDE}{_THEN}){_NO_LIST}"
_KEY = (
    r"\b(?:verdict|winner|preference|decision|judge?ment"
    rf"|(?:better|best|preferred)(?:\s+(?:{_NOUN}|one))?)"
)
_IS = (
    r"[\"'\]>]*\s*(?:\([^)\n]{0,60}\)\s*)?"
    r"(?:(?:is\b|was\b|goes\s+to\b|in\s+favou?r\s+of\b|[:=—–]|-+>?\s|→)\s*)+"
)
_WRITTEN = (
    re.compile(rf"{_KEY}{_IS}{_VALUE}", _I),
    # The question too may have an answer, and most of all a number.
    re.compile(rf"[\"'](?:choice|answer|result|vote)[\"']\s*:\s*{_LETTERS}", _I),
    re.compile(rf"\bfinal\s+answer{_IS}{_LETTERS}", _I),
    re.compile(rf"<answer>\s*(?P<said>{_TIE}|{_WHO}?[ab])\s*<", _I),
    re.compile(rf"<(?:verdict|winner|choice)>\s*(?P<said>{_TIE}|{_WHO}?{_SIDE})\s*<", _I),
    re.compile(rf"\[\[\s*(?P<said>{_TIE}|{_WHO}?(?:{_SIDE}|c\b))\s*\]", _I),
    re.compile(rf"boxed\{{[\s{{]*(?P<said>{_TIE}|{_WHO}?[ab])\s*\}}", _I),
)
_CHAIN = re.compile(r"(?<!\w)(?P<one>[AB])\s*(?P<sign>[<>≪≫≺≻]+|=+)\s*(?P<other>[AB])(?!\w)")
_LETTER = re.compile(rf"[^\w:]*(?:[ab]|{_TIE})[^\w:]*", _I)
_ALONE = re.compile(
    rf"[^\w:]*(?:it'?s\s+)?(?P<said>{_TIE}|{_WHO}?[ab]|{_WHO}[12]|(?:the\s+)?(?:first|second)"
    rf"\s+{_NOUN})[^\w:]*",
    _I,
)
_DEGREE = (
    r"(?:(?:slightly|clearly|much|far|by\s+far|significantly|marginally|considerably|somewhat|also"
    r"|overall|therefore|thus|still|definitely|generally|the|a)\s+){0,4}"
)
_DOUBT = r"(?P<doubt>\b(?:nor|neither|if|whether|unless|than)\s+)?"
_NAMED = rf"(?P<said>{_WHO}?(?-i:\b[AB]\b)|{_WHO}[12]\b|\b(?:first|second)\s+{_NOUN})"
_SENTENCES = (
    re.compile(
        rf"{_DOUBT}{_NAMED}\s+(?:(?:is|was)\s+{_DEGREE}(?:better|best|superior|preferable|preferred"
        rf"|stronger|winner)|{_DEGREE}wins)\b",
        _I,
    ),
    re.compile(
        r"\bI(?:\s+would|'d)?\s+(?:prefer|choose|pick|favou?r|vote\s+for|go\s+with)\s+"
        rf"(?:the\s+)?{_NAMED}",
        _I,
    ),
    re.compile(
        r"\b(?:both|they|the\s+two|(?:the\s+)?(?:two\s+)?answers)\b[^.\n]{0,40}?\b(?:are|is)\s+"
        r"(?:about\s+|roughly\s+)?(?P<said>equal|equally\s+good|equivalent|tied|the\s+same)\b",
        _I,
    ),
    re.compile(r"\b(?:it'?s|it\s+is|this\s+is|call\s+it)\s+(?P<said>a\s+(?:tie|draw))\b", _I),
)
_FIRST = ("a", "1", "first")
_SECOND = ("b", "2", "second")


def read_choice(reply: str, *, is_cut: bool = False) -> Choice | None:
    """The last verdict of a reply, by the place of the answer that it prefers; None where it names
    none. `is_cut`: the reply ran into its limit."""
    text = plain(reply)
    written = last_said(text, list(_written(text)))
    if written or is_cut:
        return written
    return _alone(text) or last_said(text, list(_in_sentences(text)))


def _written(text: str) -> Iterator[Statement[Choice]]:
    for pattern in _WRITTEN:
        for match in pattern.finditer(text):
            yield match.start(), match.end("said"), _choice_of(match["said"])
    for match in _CHAIN.finditer(text):
        if match["one"] == match["other"]:
            continue
        is_bracketed = text[: match.start()].rstrip().endswith("[[")
        if "=" in match["sign"]:
            if is_bracketed:
                yield match.start(), match.end(), "tie"
            continue
        winner = match["one"]
        if match["sign"][0] in "<≪≺":
            winner = match["other"]
        yield match.start(), match.end(), _choice_of(winner)


def _alone(text: str) -> Choice | None:
    """Of a line that says nothing else: the last one, or the first where it is a letter."""
    lines = text.strip().splitlines() or [""]
    if match := _ALONE.fullmatch(lines[-1]):
        return _choice_of(match["said"])
    if match := _LETTER.fullmatch(lines[0]):
        return _choice_of(match[0])
    return None


def _in_sentences(text: str) -> Iterator[Statement[Choice]]:
    for pattern in _SENTENCES:
        for match in pattern.finditer(text):
            if not match.groupdict().get("doubt"):
                yield match.start(), match.end(), _choice_of(match["said"])


def _choice_of(said: str) -> Choice:
    """Of a side or a word for a tie: its last word but for what the sides are called."""
    words = [word for word in re.findall(r"\w+", said.lower()) if not re.fullmatch(_NOUN, word)]
    if words[-1] in _FIRST:
        return "first"
    return "second" if words[-1] in _SECOND else "tie"
