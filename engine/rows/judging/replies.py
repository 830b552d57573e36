"""What choices and grades have in common: a judge's reply without its thoughts and its ornaments,
and the last of several statements."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TypeVar

_Value = TypeVar("_Value")
Statement = tuple[int, int, _Value]  # where it starts, where it ends, what it says
_TAG = r"(?:think|thinking|reasoning)>"
_OPENS = re.compile(rf"<{_TAG}", re.IGNORECASE)
_CLOSES = re.compile(rf"</{_TAG}", re.IGNORECASE)
_QUOTES = str.maketrans("“”„«»‘’‚", '"""""\'\'\'')
_ORNAMENTS = re.compile(r"\\text|[*`\\$]")  # Markdown, LaTeX, and escapes of JSON inside JSON
_FARTHEST = 40  # characters between two entries of a list
_LISTED = re.compile(r"""[\s"'{}\[\](),;|/.]*(?:or|and)?[\s"'{}\[\](),;|/.]*""", re.IGNORECASE)


def plain(reply: str) -> str:
    """The reply as it is read: without thoughts that are marked as such, which a template may have
    opened before it, and without those that never ended."""
    text = reply
    for closing in _CLOSES.finditer(reply):
        text = reply[closing.end() :]
    text = _OPENS.split(text)[0]
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    return _ORNAMENTS.sub("", text).replace("_", " ")


def last_said(text: str, found: Sequence[Statement[_Value]]) -> _Value | None:
    """What the last statement says; several in a row that say different things are a list of what
    might be said, as in an echo of the question."""
    chains: list[list[Statement[_Value]]] = []
    for statement in sorted(found, key=lambda one: one[:2]):
        if chains and _follows(text, chains[-1][-1], statement):
            chains[-1].append(statement)
        else:
            chains.append([statement])
    said = None
    for chain in chains:
        values = {value for _, _, value in chain}
        if len(values) == 1:
            said = chain[-1][2]
    return said


def _follows(text: str, before: Statement[_Value], after: Statement[_Value]) -> bool:
    between = text[before[1] : after[0]]
    if len(between) > _FARTHEST or "\n\n" in between:
        return False
    return _LISTED.fullmatch(between) is not None
