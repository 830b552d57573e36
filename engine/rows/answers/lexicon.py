"""Words found in texts: whole ones in alphabets with spaces, anywhere in scripts without, or where
endings hang on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from engine.rows.answers.spelling import MARKS

WORD = re.compile(rf"[^\W\d_][\w{MARKS}]*")


def words(spaced: str) -> list[str]:
    """The words of a text between spaces."""
    return spaced.split()


class Mention(NamedTuple):
    """A word of the vocabulary in a text."""

    start: int
    end: int
    word: str  # folded


class Lexicon:
    """Words to be found in texts: whole ones of spaced alphabets, and what is found anywhere."""

    def __init__(
        self, words: Iterable[str], anywhere: Iterable[str] = (), phrases: Iterable[str] = ()
    ) -> None:
        self.words = frozenset(word.casefold() for word in words)
        self._anywhere = _any_of(anywhere)
        self._phrases = _any_of(phrases)

    def mentions(self, text: str, start: int = 0, end: int | None = None) -> Iterator[Mention]:
        """Its words in the text, not in order across the kinds."""
        yield from self._spaced(text, start, end)
        yield from self._others(text, start, end)

    def _spaced(self, text: str, start: int, end: int | None) -> Iterator[Mention]:
        for match in WORD.finditer(text, start, len(text) if end is None else end):
            word = match[0].lower()
            if word in self.words:
                yield Mention(match.start(), match.end(), word)

    def _others(self, text: str, start: int, end: int | None) -> Iterator[Mention]:
        if text.isascii():
            return
        for pattern in (self._anywhere, self._phrases):
            if pattern is not None:
                for match in pattern.finditer(text, start, len(text) if end is None else end):
                    yield Mention(match.start(), match.end(), match[0].lower())

    def first(self, text: str, start: int = 0, end: int | None = None) -> Mention | None:
        """The first of its words."""
        spaced = next(self._spaced(text, start, end), None)
        others = [spaced] if spaced else []
        return min([*others, *self._others(text, start, end)], default=None)

    def last(self, text: str, start: int = 0, end: int | None = None) -> Mention | None:
        """The last of its words."""
        return max(self.mentions(text, start, end), default=None)


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    # the longest first: 最终答案 before 答
    longest_first = sorted(words, key=len, reverse=True)
    if not longest_first:
        return None
    spelt = "|".join(map(re.escape, longest_first))
    return re.compile(spelt, re.IGNORECASE)
