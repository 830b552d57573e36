"""Texts of made-up words, so that two share a run of five only where a test says so."""

from __future__ import annotations

import random


def sentence(seed: int | str, words: int = 20) -> str:
    """Always the same of the same seed."""
    rng = random.Random(str(seed))
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(words))


def edited(text: str, *places: int) -> str:
    """Other words at these places."""
    words = text.split()
    for place in places:
        words[place] = f"other{place}"
    return " ".join(words)


def dialogue(seed: int, turns: int, opening: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn; the assistant has the last word."""
    messages = []
    for turn in range(turns):
        asked = sentence(f"{seed} asks {turn}", 12)
        if turn == 0 and opening is not None:
            asked = opening
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": sentence(f"{seed} says {turn}", 12)})
    return messages
