"""Words of a text in any script, for all that counts or compares words.

A word is a run of letters and digits with their marks. In scripts that put no spaces between words
(Chinese, Japanese, Thai, Lao, Khmer, Burmese, …) each letter with its marks is one: that needs no
dictionary, and compares what is written. Plain English gives rouge-score's words. It is no
tokenizer of a language: no stems, no compounds.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

import regex

# Unicode's own account (UAX 14) of the scripts whose lines break between any two letters, or only
# where a dictionary says so.
_WITHOUT_SPACES = "".join(rf"\p{{Line_Break={name}}}" for name in ("SA", "ID", "CJ", "AK", "AS"))
ALONE = rf"[[\p{{L}}\p{{N}}]&&[{_WITHOUT_SPACES}]]"  # a letter that is a word, with its marks
TOGETHER = rf"[\p{{L}}\p{{N}}--{ALONE}]"  # a letter that makes a word with its neighbours
MARK = r"\p{M}"
_SEPARATE_WORD = rf"{ALONE}{MARK}*"
_WORD = regex.compile(rf"{_SEPARATE_WORD}|{TOGETHER}(?:{TOGETHER}|{MARK})*", regex.V1)
_ASCII_WORD = re.compile("[0-9a-z]+")
_WIDE_MARKS = r"[\p{P}&&[\p{East_Asian_Width=W}\p{East_Asian_Width=F}]]"
_SEPARATE = regex.compile(rf"{_SEPARATE_WORD}|{_WIDE_MARKS}", regex.V1)
_FORMAT = regex.compile(r"\p{Cf}+")  # joiners, soft hyphens, direction marks: not seen


@functools.lru_cache(maxsize=1024)
def words(text: str) -> tuple[str, ...]:
    """Words, without regard to case, width, form of composition or script of digits; of a text that
    has none, its characters."""
    plain = plain_digits(folded(text))
    pattern = _WORD
    if plain.isascii():
        pattern = _ASCII_WORD  # the same words, in a tenth of the time
    found = pattern.findall(plain) or regex.findall(r"\X", "".join(plain.split()))
    return tuple(found)


def folded(text: str) -> str:
    """The text in lower case, in one form of composition and width, without characters that are not
    seen."""
    if text.isascii():
        return text.lower()
    return _FORMAT.sub("", unicodedata.normalize("NFKC", text)).casefold()


def separated(text: str) -> str:
    """The text with spaces around each letter of scripts without spaces, and around their
    punctuation; any other text as it is."""
    return _SEPARATE.sub(r" \g<0> ", text)


def plain_digits(text: str) -> str:
    """Decimal digits of any script as 0 to 9."""
    if text.isascii():
        return text
    return text.translate(_plain_digits())


@functools.cache
def _plain_digits() -> dict[int, str]:
    digits = {}
    for code in range(128, sys.maxunicode + 1):
        value = unicodedata.decimal(chr(code), None)
        if value is not None:
            digits[code] = str(value)
    return digits
