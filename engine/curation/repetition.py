"""How much of a text is said more than once: teachers that loop, teach looping."""

from __future__ import annotations


def repetition(text: str | None) -> float:
    """The share of words, 0 to 1, that stand inside a run of five words which the text has more
    than once; 0.0 for a text of fewer than six words, and for null."""
    raise NotImplementedError
