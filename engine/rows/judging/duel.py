"""One pair of answers before a judge, and what the votes in both orders come to.

Equal votes are the result, any others a tie: where the winner changed with the order, that is a
flip. A pair without a vote in both orders has no result: one order alone would count the place of
an answer, and a silence is no tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.rows.judging.choices import Choice

Result = Literal["win", "loss", "tie"]
_FLIPPED: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True)
class Duel:
    """Our answer against theirs: the votes with ours first and with theirs first, None where the
    reply names none; and the words of both."""

    ours_first: Choice | None
    theirs_first: Choice | None
    our_words: int = 0
    their_words: int = 0
    is_same: bool = False  # the same text: nobody was asked

    @property
    def votes(self) -> list[Choice]:
        """Those that could be read."""
        return [vote for vote in (self.ours_first, self.theirs_first) if vote is not None]

    @property
    def result(self) -> Result | None:
        """Of our answer; None without a vote in both orders."""
        if self.ours_first is None or self.theirs_first is None:
            return None
        if self.ours_first != _FLIPPED[self.theirs_first]:
            return "tie"
        return {"first": "win", "second": "loss", "tie": "tie"}[self.ours_first]

    @property
    def is_flip(self) -> bool:
        """Whether the place won, and not an answer."""
        return self.ours_first == self.theirs_first and self.ours_first in ("first", "second")


EQUAL = Duel("tie", "tie", is_same=True)
