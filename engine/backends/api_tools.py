"""Tools in the two protocols: OpenAI's chat completions and Anthropic's messages.

A conversation is in OpenAI's form with arguments as objects (engine/rows/tools.py); here it becomes
what each protocol wants, and what a reply calls is read. Nothing here knows a vendor's client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.backends.api_words import ApiError
from engine.rows.tools import Call, Conversation, Message, Tool, as_call

_NO_PARAMETERS = {"type": "object", "properties": {}}


def openai_messages(prompt: Conversation) -> list[Message]:
    """Messages whose calls have their arguments as text."""
    written = []
    for message in prompt.messages:
        plain = dict(message)
        if "tool_calls" in message:
            plain["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
        if message["role"] == "tool":
            plain.pop("name", None)  # it stands in the call
        written.append(plain)
    return written


def _with_text(call: Message) -> Message:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return call | {"function": function | {"arguments": arguments}}


def openai_calls(message: Any) -> list[Call]:
    """What a reply's message calls; servers of the older protocol give one `function_call`.
    Arguments that are no JSON stay as they came. ApiError where a call has no name."""
    given = _field(message, "tool_calls") or []
    older = _field(message, "function_call")
    functions = [_field(one, "function") for one in given]
    if older is not None and not functions:
        functions.append(older)
    calls = []
    for function in functions:
        name = _field(function, "name")
        if not isinstance(name, str):
            raise ApiError("the answer calls a tool without a name")
        calls.append(as_call(name, _field(function, "arguments")))
    return calls


def anthropic_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Each with its JSON schema as `input_schema`."""
    written = []
    for tool in tools:
        function = tool["function"]
        one = {"name": function["name"]}
        if function.get("description"):
            one["description"] = function["description"]
        one["input_schema"] = function.get("parameters") or _NO_PARAMETERS
        written.append(one)
    return written


def anthropic_messages(prompt: Conversation) -> list[Message]:
    """Messages without the system's: calls are blocks of the assistant's, answers of tools blocks
    of the user's next one."""
    written: list[Message] = []
    for message in prompt.messages:
        if message["role"] == "system":
            continue
        turn = {"role": message["role"], "content": message["content"]}
        if "tool_calls" in message:
            turn["content"] = [*_text_blocks(message), *map(_use, message["tool_calls"])]
        if message["role"] == "tool":
            turn = {"role": "user", "content": [_result(message)]}
        if written and _takes_more(written[-1], turn):
            written[-1]["content"] += _blocks(turn)
        else:
            written.append(turn)
    return written


def _takes_more(last: Message, turn: Message) -> bool:
    """All answers to one turn's calls, and what the user says with them, are one message."""
    if last["role"] != "user" or turn["role"] != "user":
        return False
    return isinstance(last["content"], list)


def _blocks(turn: Message) -> list[Message]:
    if isinstance(turn["content"], list):
        return turn["content"]
    return _text_blocks(turn)


def _text_blocks(message: Message) -> list[Message]:
    """The text as a block; none where it is blank, which the protocol refuses."""
    if not message["content"].strip():
        return []
    return [{"type": "text", "text": message["content"]}]


def _use(call: Message) -> Message:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": function["name"],
        "input": function["arguments"],
    }


def _result(message: Message) -> Message:
    return {
        "type": "tool_result",
        "tool_use_id": message["tool_call_id"],
        "content": message["content"],
    }


def anthropic_calls(blocks: Sequence[Any]) -> list[Call]:
    """What the blocks of a reply call."""
    return [as_call(block.name, block.input) for block in blocks if block.type == "tool_use"]


def _field(holder: Any, name: str) -> Any:
    """Of a client's object, or of JSON that a server put where one belongs."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    return getattr(holder, name, None)
