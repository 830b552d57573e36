"""In which language a text is written, by py3langid, whose model comes with it.

The model is read once per process, when the first text is asked about; it takes no memory where
nobody asks.
"""

from __future__ import annotations

import functools

import regex
from py3langid.langid import MODEL_FILE, LanguageIdentifier

LETTERS = 16  # fewer cannot tell; one of a script with a sign per syllable or word counts as four
_MOST = 4000  # characters are enough, and a text may be long
_LETTER = regex.compile(r"\p{L}")
_WHOLE_SIGN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")


def language_of(text: str | None) -> str | None:
    """ISO 639-1 code (`en`) by the first 4,000 characters; None for null and for what is too short
    to tell: fewer than 16 letters."""
    if not text:
        return None
    head = text[:_MOST]
    letters = len(_LETTER.findall(head)) + 3 * len(_WHOLE_SIGN.findall(head))
    if letters < LETTERS:
        return None
    language, _ = _identifier().classify(head)
    return language


@functools.cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)
