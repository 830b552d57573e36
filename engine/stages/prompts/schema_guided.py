"""Schema-guided dialogues (SGD, MultiWOZ 2.2) -> messages in OpenAI's form.

Their turns have `speaker`, `utterance` and `frames`; frames hold the values that an utterance
names. Spans and actions name the same values twice, in the words of the utterance and in canonical
ones: those are two spellings of one value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.rows.slots import named_slots

_ROLES = {"USER": "user", "SYSTEM": "assistant"}


def is_schema_guided(turns: Any) -> bool:
    """Whether a row's `turns` are of this form."""
    if not isinstance(turns, list) or not turns:
        return False
    return all(isinstance(turn, dict) and "utterance" in turn for turn in turns)


def messages_of(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A message per turn; those of the assistant with the values that they name (`slots`)."""
    messages = []
    for turn in turns:
        speaker = turn.get("speaker")
        role = _ROLES.get(str(speaker).upper(), speaker)
        message = {"role": role, "content": turn["utterance"]}
        if role == "assistant":
            message["slots"] = _values(turn)
        messages.append(message)
    return messages


def _values(turn: dict[str, Any]) -> list[list[str]]:
    """The spellings of each value that the utterance names, each value once."""
    text = str(turn["utterance"])
    found: dict[str, list[str]] = {}
    for frame in turn.get("frames") or []:
        for spellings in (*_of_actions(frame), *_of_spans(frame, text)):
            found.setdefault(spellings[0], spellings)
    return named_slots(text, list(found.values()))


def _of_actions(frame: dict[str, Any]) -> Iterator[list[str]]:
    for action in frame.get("actions") or []:
        values = action.get("values") or []
        canonical = action.get("canonical_values") or values
        for pair in zip(values, canonical, strict=False):
            yield list(dict.fromkeys(map(str, pair)))


def _of_spans(frame: dict[str, Any], text: str) -> Iterator[list[str]]:
    for slot in frame.get("slots") or []:
        start = slot.get("start")
        end = slot.get("exclusive_end")
        if start is not None and end is not None:
            yield [text[start:end]]
