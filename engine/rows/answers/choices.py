"""The letter of a choice that a text gives: "The answer is (b).", "I'd pick D", "**C) 12 cm**".

It is looked for only where the reference is such a letter: elsewhere a letter is a variable.
"""

from __future__ import annotations

import re

from engine.rows.answers.statement import marked, without_thoughts

_REFERENCE = re.compile(r"\(?([A-Ha-h])[).]?")
_LETTER = r"[(\[]?(?P<letter>[A-Ha-h])(?![\w'’])[)\].:]?"
_NAMED = re.compile(
    rf"\b(?:option|choice|pick|choose|select|letter|answer)\b[\s:*_\"'(]*(?:is\s+|would be\s+)?"
    rf"(?:option\s+|choice\s+)?[\s*_\"'(]*{_LETTER}",
    re.IGNORECASE,
)
_LISTED = re.compile(r"^[\s*_#>(]*(?P<letter>[A-H])[).:][*_\s]", re.MULTILINE)
_ALONE = re.compile(rf"[\s*_\"'(\[$]*{_LETTER}[\s*_\"')\].$]*")


def choice_of(text: str) -> str | None:
    """The letter, in capitals; None where the text gives none, or lists several."""
    text = without_thoughts(text)
    for piece in (marked(text), text):
        whole = _ALONE.fullmatch(piece) if piece else None
        if whole is not None:
            return whole["letter"].upper()
    named = [
        found["letter"] for found in _NAMED.finditer(text) if _is_letter(found["letter"], text)
    ]
    if named:
        return named[-1].upper()
    listed = {found["letter"] for found in _LISTED.finditer(text)}
    return listed.pop().upper() if len(listed) == 1 else None


def are_listed(prompt: str) -> bool:
    """Whether a prompt offers several choices by letter."""
    return len({found["letter"] for found in _LISTED.finditer(prompt)}) > 1


def _is_letter(letter: str, text: str) -> bool:
    """ "a" is an article unless it stands in brackets."""
    return letter.isupper() or f"({letter})" in text or f"{letter})" in text


def reference_choice(reference: str) -> str | None:
    """The letter of a reference that is nothing but one."""
    whole = _REFERENCE.fullmatch(reference.strip())
    return whole[1].upper() if whole else None
