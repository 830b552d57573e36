"""What a row's column of gold answers holds -> texts: one, several, or the maps of public sets."""

from __future__ import annotations

from typing import Any

from engine.rows.sources.columns import scalar
from engine.rows.sources.source_row import BadRow

_ANSWER_NAMES = ("text", "value", "answer", "answers", "aliases")


def gold_answers(value: Any) -> list[str]:
    """Every right answer: one, a list of them, SQuAD's {"text": […]} or TriviaQA's {"value",
    "aliases"}. BadRow for another map."""
    if isinstance(value, list):
        if any(isinstance(each, list) for each in value):
            raise BadRow("several_values")
        every: list[str] = []
        for each in value:
            every += gold_answers(each)
        return list(dict.fromkeys(every))
    if isinstance(value, dict):
        return gold_answers(_known_answers(value))
    text = scalar(value)
    if text is None:
        return []
    return [text]


def _known_answers(value: dict[str, Any]) -> list[Any]:
    answers = []
    known = [name for name in _ANSWER_NAMES if name in value]
    for name in known:
        named = value[name]
        if isinstance(named, list):
            answers += named
        else:
            answers.append(named)
    if value and not known:
        raise BadRow("unknown_reference")
    return answers
