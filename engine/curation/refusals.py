"""Answers that decline to answer, told from polite ones that say no to a request and go on.

By forms, not by lists of sentences: a short answer, in the first person, that cannot or will not
do what assistants do (help, answer, provide), without a question or an offer. English, Spanish,
French, German, Portuguese, Hindi and Chinese.
"""

from __future__ import annotations


def is_refusal(text: str | None) -> bool:
    """Whether the answer is nothing but a refusal; False for null and for a long answer."""
    raise NotImplementedError
