"""Tools in conversations: what is offered, what was called, what a tool answered.

In memory a conversation is in OpenAI's form, arguments as objects, as chat templates take it. In
files its messages are roles and texts, and what tools add stands beside them as JSON, in the column
`tools`; none of it is a conversation without tools.

| JSON | form |
|---|---|
| `tools` of a prompt or example | {"offered": [tool, …], "turns": {"2": {"tool_calls": […]}, …}} |
| `tool_calls` of an answer, `reference_calls` of a prompt | [{"name": …, "arguments": {…}}, …] |

`turns` are numbers of messages: a turn that calls has `tool_calls`, one that answers `tool_call_id`
and `name`. Arguments that are no JSON object stay the text that a model gave for them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

Message = dict[str, Any]
Tool = dict[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}
Call = dict[str, Any]  # {"name", "arguments"}


@dataclass(frozen=True)
class Conversation:
    """Messages, and the tools that whoever answers may call."""

    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)

    def before(self, turn: int) -> Conversation:
        """What came before that message."""
        return Conversation(self.messages[:turn], self.tools)

    def with_system(self, system: str | None) -> Conversation:
        """With a system message put before it, if it has none."""
        if system is None or self.messages[0]["role"] == "system":
            return self
        return Conversation([{"role": "system", "content": system}, *self.messages], self.tools)


def tools_column(offered: Sequence[Tool], turns: Mapping[int, Message]) -> str | None:
    """The column `tools`; None where there are none."""
    if not offered and not turns:
        return None
    numbered = {str(number): more for number, more in turns.items()}
    return _json({"offered": list(offered), "turns": numbered})


def conversation_of(messages: Sequence[Mapping[str, str]], tools: str | None) -> Conversation:
    """A row's messages with what its column `tools` adds to them."""
    whole: list[Message] = [dict(message) for message in messages]
    if tools is None:
        return Conversation(whole)
    written = json.loads(tools)
    for number, more in written["turns"].items():
        whole[int(number)] |= more
    return Conversation(whole, written["offered"])


def conversations_of(table: pa.Table) -> list[Conversation]:
    """The conversation of each row of prompts or examples; files of older versions have no
    tools."""
    messages = table["messages"].to_pylist()
    tools: list[str | None] = [None] * len(messages)
    if "tools" in table.column_names:
        tools = table["tools"].to_pylist()
    return list(map(conversation_of, messages, tools))


def offered_in(tools: str | None) -> list[Tool]:
    """The tools that a row offers."""
    if tools is None:
        return []
    return json.loads(tools)["offered"]


def with_answer(tools: str | None, turn: int, calls: str | None) -> str | None:
    """The column `tools` of a conversation that goes on with an answer at `turn` and its calls."""
    if calls is None:
        return tools
    written: dict[str, Any] = {"offered": [], "turns": {}}
    if tools is not None:
        written = json.loads(tools)
    earlier = 0
    for more in written["turns"].values():
        earlier += len(more.get("tool_calls", ()))
    written["turns"][str(turn)] = {"tool_calls": as_tool_calls(json.loads(calls), earlier)}
    return _json(written)


def as_tool_calls(calls: Sequence[Call], earlier: int) -> list[Message]:
    """Calls in OpenAI's form. Their ids are their numbers in the conversation, after `earlier`
    ones, so that equal conversations are equal; nine letters and digits are what Mistral takes."""
    found = []
    for number, call in enumerate(calls, earlier + 1):
        function = {"name": call["name"], "arguments": call["arguments"]}
        found.append({"id": f"call{number:05d}", "type": "function", "function": function})
    return found


def calls_column(calls: Sequence[Call]) -> str | None:
    """The column `tool_calls`; None where nothing is called."""
    if not calls:
        return None
    return _json(list(calls))


def as_call(name: Any, arguments: Any) -> Call:
    """A call by name, its arguments an object or the JSON text of one; text that is none stays."""
    if isinstance(arguments, str):
        arguments = _object_of(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict | str):
        arguments = _json(arguments)
    return {"name": str(name or ""), "arguments": arguments}


def _object_of(text: str) -> dict[str, Any] | str:
    if not text.strip():
        return {}  # how some servers write that there are none
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        return value
    return text


def is_sound(call: Call) -> bool:
    """Whether it names something, and its arguments are a JSON object."""
    return bool(call["name"]) and isinstance(call["arguments"], dict)


def spelled(text: str, calls: str | None) -> str:
    """An answer in words, for those who compare or read texts: its calls stand behind it, one a
    line."""
    if calls is None:
        return text
    lines = []
    for call in json.loads(calls):
        arguments = call["arguments"]
        if isinstance(arguments, dict):
            arguments = _json(arguments)
        lines.append(f"{call['name']} {arguments}")
    if text.strip():
        lines.insert(0, text)
    return "\n".join(lines)


def same_calls(ours: str | None, theirs: str | None) -> bool:
    """Whether both call the same with the same arguments: in any order, keys of objects too, and
    1.0 is 1."""
    return _normal(ours) == _normal(theirs)


def _normal(calls: str | None) -> Counter[str]:
    if calls is None:
        return Counter()
    return Counter(json.dumps(_plain(call), sort_keys=True) for call in json.loads(calls))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _json(value: Any) -> str:
    """In the order in which keys were given: a template shows a tool as its author wrote it."""
    return json.dumps(value, ensure_ascii=False)
