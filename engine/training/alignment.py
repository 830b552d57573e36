"""Where tokens of two tokenizers stand in the same answer: what the loss `uld` compares across
vocabularies.

Two next-token distributions are comparable where both follow the same text, that is where a token
of either starts at the same character. Starts come from decoding the ids, not from a tokenizer's
offsets, which leave out a leading space in some families.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

_UNFINISHED = "\ufffd"  # what a part of a character decodes to


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that text leaves out, of a transformers tokenizer: ends of turns and the like."""
    return frozenset(
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    )


def align(teacher_starts: np.ndarray, student_starts: np.ndarray) -> np.ndarray:
    """For each of the student's tokens (n,) the teacher's token (an index) that starts at the same
    character, or -1."""
    matches = np.full(len(student_starts), -1)
    shared, students, teachers = np.intersect1d(student_starts, teacher_starts, return_indices=True)
    is_place = shared >= 0
    matches[students[is_place]] = teachers[is_place]
    return matches


def token_starts(
    ids: Iterable[int], answer: str, tokenizer: Tokenizer, special: frozenset[int]
) -> np.ndarray:
    """The character of `answer` at which each of the ids (n,) starts, and len(answer) for the
    special token that ends it.

    -1 for a token that starts within a character, before the answer (reasoning) or after it (line
    breaks); for all of them if their text does not end with `answer`, apart from white space. White
    space that opens the answer belongs to its first token.
    """
    starts: list[int] = []
    is_special: list[bool] = []
    text = ""
    window: list[int] = []  # the tokens that are decoded together
    settled = 0  # how many of them are in `text` already
    known = ""  # what those spell
    spelled = ""  # what all of them do
    for token in ids:
        start = len(text)
        if spelled.endswith(_UNFINISHED):
            start = -1
        starts.append(start)
        is_special.append(token in special)
        if is_special[-1]:
            continue
        # Decoded after the tokens before it: decoders strip the space of a first token, and join
        # the bytes of a character.
        window.append(token)
        spelled = tokenizer.decode(window, skip_special_tokens=False)
        is_longer = spelled.startswith(known) and len(spelled) > len(known)
        if is_longer and not spelled.endswith(_UNFINISHED):
            text += spelled[len(known) :]
            window = window[settled:]
            settled = len(window)
            known = tokenizer.decode(window, skip_special_tokens=False)
    starts_n = np.array(starts, np.int64)
    is_special_n = np.array(is_special, bool)
    return _within(answer.strip(), text, starts_n, is_special_n)


def _within(answer: str, text: str, starts: np.ndarray, is_special: np.ndarray) -> np.ndarray:
    """Starts (n,) in the whole text -> starts in the answer that ends it."""
    end = len(text.rstrip())
    begin = end - len(answer)
    if text[max(0, begin) : end] != answer:
        return np.full(len(starts), -1)
    is_text = ~is_special
    is_inside = (starts >= begin) & (starts < end) & is_text
    within = np.where(is_inside, starts - begin, -1)
    is_before = (starts >= 0) & (starts <= begin)
    opening = np.flatnonzero(is_before & is_text)
    if len(opening):
        first = opening[-1]
        if text[starts[first] : begin].isspace():
            within[first] = 0
    closing = np.flatnonzero((starts >= end) & is_special)
    within[closing[:1]] = len(answer)
    return within
