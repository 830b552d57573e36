"""The values that an answer should name, in two columns of its prompt, and which of them a text
names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.rows.words import words

SLOTS = ("slots", "slot_values")


def named_slots(text: str, given: Any) -> Any:
    """Those values of a column SLOTS that the text names, in the column's own form."""
    said = words(text)
    if isinstance(given, Mapping):
        return {slot: value for slot, value in given.items() if _is_named(said, _spellings(value))}
    if isinstance(given, list):
        return [value for value in given if _is_named(said, _spellings(value))]
    return given


def count_named(text: str, meta: Mapping[str, Any]) -> tuple[int, int]:
    """Values of the columns SLOTS that the text names, in any of their spellings, and how many
    there are."""
    said = words(text)
    values = list(_slot_values(meta))
    named = sum(_is_named(said, spellings) for spellings in values)
    return named, len(values)


def _is_named(said: tuple[str, ...], spellings: list[str]) -> bool:
    return any(_holds(said, words(spelling)) for spelling in spellings)


def _slot_values(meta: Mapping[str, Any]) -> Iterator[list[str]]:
    """The spellings of each value: {slot: value}, {slot: [spelling, …]} or [value, …]."""
    for column in SLOTS:
        given = meta.get(column)
        values: list[Any] = []
        if isinstance(given, Mapping):
            values = list(given.values())
        elif isinstance(given, list):
            values = given
        for value in values:
            texts = _spellings(value)
            if texts:
                yield texts


def _spellings(value: Any) -> list[str]:
    spellings = value if isinstance(value, list) else [value]
    return [str(spelling) for spelling in spellings if words(str(spelling))]


def _holds(said: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether these words stand in that order, nothing between."""
    length = len(wanted)
    starts = range(len(said) - length + 1)
    return any(said[at : at + length] == wanted for at in starts)
