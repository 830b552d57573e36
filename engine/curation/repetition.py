"""How much of a text is said more than once: teachers that loop, teach looping."""

from __future__ import annotations

from collections import Counter

from engine.rows.words import words

RUN_WORDS = 5


def repetition(text: str | None) -> float:
    """The share of words, 0 to 1, that stand inside a run of five words which the text has more
    than once; 0.0 for a text of fewer than six words, and for null."""
    if not text:
        return 0.0
    said = words(text)
    shifted = [said[start:] for start in range(RUN_WORDS)]
    runs = list(zip(*shifted, strict=False))
    if len(set(runs)) == len(runs):
        return 0.0
    times = Counter(runs)
    inside = 0
    end = 0
    for start, run in enumerate(runs):
        if times[run] > 1:
            inside += start + RUN_WORDS - max(start, end)
            end = start + RUN_WORDS
    return inside / len(said)
