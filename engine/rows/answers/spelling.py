"""One spelling for what Unicode and languages write in many ways, and where sentences end.

Digits of any script become ASCII, full-width signs too, dashes that stand for a minus become one,
superscripts become powers. Words stay as they are: no translation, no folding of case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Letters with the marks that belong to them: `\w` leaves out the vowel signs of Indic scripts.
MARKS = "\u0300-\u036f\u064b-\u065f\u0670\u0900-\u0dff\u0e30-\u0e4e\u1000-\u109f\u1780-\u17d3"
LETTER = rf"(?:[^\W\d_]|[{MARKS}])"
_SPELT = {
    "−": "-",
    "﹣": "-",
    "–": "-",
    "‒": "-",
    "‐": "-",
    "‑": "-",
    "—": " — ",
    "―": " — ",
    "⁄": "/",
    "∕": "/",
    "÷": "/",
    "∶": ":",
    "٫": ".",
    "٬": ",",
    "،": ",",
    "、": ", ",
    "٪": "%",
    "’": "'",
    "‘": "'",
    "ʼ": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "«": '"',
    "»": '"',
    "「": '"',
    "」": '"',
    "『": '"',
    "』": '"',
    "【": "[",
    "】": "]",
    "∗": "*",
}
_SUPERSCRIPTS = re.compile("[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_FULL_WIDTH = range(0xFF01, 0xFF5F)
_SENTENCE_END = re.compile(r"[.!?]+(?=[\"'`)\]*_}$>]*(?:\s|$))[\"'`)\]*_}$]*|[。！？।॥؟۔]+|\n")
# A dot behind one of these ends no sentence.
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:Rs|approx|ca|No|Nr|Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e|aprox|env|incl|excl|ரூ|रु)\Z"
)
_LONGEST_ABBREVIATION = 7
_END = 10_000  # characters


class _Spelling(dict[int, str]):
    """How a character is spelt here, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        spelt = _spelt(chr(code))
        self[code] = spelt
        return spelt


def _spelt(sign: str) -> str:
    if sign in _SPELT:
        return _SPELT[sign]
    digit = unicodedata.decimal(sign, None)
    if digit is not None:
        return str(digit)
    if ord(sign) in _FULL_WIDTH:
        return chr(ord(sign) - 0xFEE0)
    category = unicodedata.category(sign)
    if category == "Zs":
        return " "
    if category == "Cf":  # joiners, marks of direction, soft hyphens
        return ""
    decomposed = unicodedata.decomposition(sign)
    if decomposed.startswith("<fraction>"):  # ½; behind a whole number it is a mixed one
        above, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
        return f" {above}/{below or 1}"
    return sign


_spelling = _Spelling()


def spelt(text: str) -> str:
    """The text with digits, signs and spaces as ASCII has them."""
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(_power, text)
    text = _SUBSCRIPTS.sub(_index, text)
    return unicodedata.normalize("NFC", text).translate(_spelling)


def _power(signs: re.Match[str]) -> str:
    raised = unicodedata.normalize("NFKC", signs[0]).replace("−", "-")
    if len(raised) == 1:
        return f"^{raised}"
    return f"^{{{raised}}}"


def _index(signs: re.Match[str]) -> str:
    return "_" + unicodedata.normalize("NFKC", signs[0])


def bounded(text: str) -> str:
    """The text, or of a very long one its first and last part: there it states its answer."""
    if len(text) <= 2 * _END:
        return text
    return f"{text[:_END]}\n{text[-_END:]}"


def _ends(text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    for stop in _SENTENCE_END.finditer(text, start, end):
        if stop[0][0] == ".":
            before = text[max(0, stop.start() - _LONGEST_ABBREVIATION) : stop.start()]
            if _ABBREVIATION.search(before):
                continue
        yield stop


def sentence_end(text: str, start: int, most: int) -> int:
    """Where the sentence that `start` lies in ends, at most `most` characters on; a line ends it
    too."""
    end = next(_ends(text, start, start + most), None)
    if end is None:
        return min(len(text), start + most)
    return end.start()


def sentence_start(text: str, end: int, most: int) -> int:
    """Where the sentence that goes on at `end` starts, at most `most` characters before."""
    start = max(0, end - most)
    for stop in _ends(text, start, end):
        start = stop.end()
    return start


def sentences(text: str) -> list[str]:
    """The text's sentences in order, each with its mark; a line is at least one."""
    found = []
    start = 0
    for stop in _ends(text, 0, len(text)):
        found.append(text[start : stop.start()] + stop[0].strip())
        start = stop.end()
    found.append(text[start:])
    return [one for one in found if one.strip()]
