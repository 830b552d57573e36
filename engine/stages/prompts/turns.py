"""The forms of a message that are understood -> turns: OpenAI's and ShareGPT's.

What is left out silently would make another conversation, so what is not understood is a BadRow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.rows.slots import SLOTS
from engine.rows.sources.source_row import BadRow
from engine.rows.tools import Call, Message
from engine.stages.prompts.tool_turns import GivenCall, Linker, given_calls, tool_text

_NOTHING = (None, [], {})
# Names of roles: ours, OpenAI's newer one for system, and ShareGPT's.
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai", "bot"), "assistant"
    ),
    **dict.fromkeys(("tool", "function"), "tool"),
}


@dataclass(frozen=True)
class Turn:
    """A message, the weight of its training in OpenAI's fine-tuning files, and the values that it
    names where the source says them. `is_added`: it does not stand in the row's conversation.

    `of_tools` is what tools add to the message (engine/rows/tools.py).
    """

    message: dict[str, str]
    weight: float = 1
    slots: Any = None
    is_added: bool = False
    calls: list[Call] = field(default_factory=list)
    of_tools: Message = field(default_factory=dict)

    @property
    def role(self) -> str:
        return self.message["role"]

    @property
    def is_blank(self) -> bool:
        """Whether it says nothing and calls nothing."""
        return not self.message["content"].strip() and not self.calls

    @property
    def is_question(self) -> bool:
        """Whether the assistant is to go on from here."""
        return self.role == "tool" or (self.role == "user" and not self.is_blank)


def turns_of(given: Sequence[Any]) -> list[Turn]:
    """The turns of a conversation. BadRow for what would silently make another one if it were left
    out: a picture, a name, an answer to no call."""
    linker = Linker()
    return [_turn(message, linker) for message in given]


def _turn(message: Any, linker: Linker) -> Turn:
    if not isinstance(message, dict):
        raise BadRow("wrong_type")
    left = {key: value for key, value in message.items() if value not in _NOTHING}
    weight = float(left.pop("weight", 1))
    if "content" not in left and left.keys() == {"from", "value"}:
        left = {"role": left["from"], "content": left["value"]}
    role = _role(left.pop("role", None))
    content = left.pop("content", None)
    slots = [left.pop(name) for name in SLOTS if name in left]
    given: list[GivenCall] = []
    of_tools: Message = {}
    if role == "assistant":
        given = given_calls(left)
    if given:
        of_tools = linker.of_calls(given)
        content = content or ""
    if role == "tool":
        of_tools = linker.of_answer(left.pop("tool_call_id", None), left.pop("name", None))
        content = tool_text(content)
    if left:
        raise BadRow("unknown_message_field")
    text = {"role": role, "content": _content(content)}
    calls = [one.call for one in given]
    return Turn(text, weight, next(iter(slots), None), calls=calls, of_tools=of_tools)


def _role(given: Any) -> str:
    role = given
    if isinstance(role, str):
        role = role.lower()
    if role not in _ROLES:
        raise BadRow("unknown_role")
    return _ROLES[role]


def _content(content: Any) -> str:
    """A message's text, also of parts that are all text."""
    if content is None:
        raise BadRow("wrong_type")
    if isinstance(content, list):
        return "".join(map(_text_of_part, content))
    if not isinstance(content, str):
        raise BadRow("content_not_text")
    return content


def _text_of_part(part: Any) -> str:
    if isinstance(part, dict):
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise BadRow("content_not_text")
