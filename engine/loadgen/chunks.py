"""What the chunks of a streamed chat completion say, whoever sends them.

Providers differ in where they put text (content, reasoning, refusals, tool calls; text or parts)
and usage. Here is one place that knows them all. Nothing raises: what is not understood is counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.loadgen.events import read_event

_CONTENT = {"content", "refusal", "text"}
# Each holds the same text under another name; the first that has some counts.
_REASONING = {"reasoning_content", "reasoning", "reasoning_details", "thinking"}
_PART_TEXT = ("text", "thinking", "reasoning", "content", "summary", "refusal", "transcript")
_WITHOUT_TEXT = {
    "role",
    "name",
    "id",
    "index",
    "annotations",
    "citations",
    "token_ids",
    "tool_call_id",
    "provider_specific_fields",
}
_NOT_A_NAME = re.compile(r"[^\w.]+")
MAX_KIND_CHARACTERS = 40
_SHORT = 10
_read_json = json.JSONDecoder().decode


@dataclass
class Told:
    """What a stream has told so far."""

    content: list[str] = field(default_factory=list)  # of the first choice
    texts: list[str] = field(default_factory=list)  # all: reasoning, tool calls, every choice
    finish_reasons: dict[int, str] = field(default_factory=dict)  # by choice
    choices: set[int] = field(default_factory=set)  # that were seen
    chunks: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    has_usage: bool = False
    error: str | None = None
    is_done: bool = False
    is_plain: bool = False  # a whole completion where chunks were due
    oddities: Counter[str] = field(default_factory=Counter)
    noted: int = 0  # calls of `note`

    def say(self, text: str, *, is_content: bool = False) -> None:
        """Add text, if it is some."""
        if text:
            self.texts.append(text)
            if is_content:
                self.content.append(text)

    def note(self, kind: str) -> None:
        """Count something that was not understood."""
        self.noted += 1
        self.oddities[_NOT_A_NAME.sub("_", kind)[:MAX_KIND_CHARACTERS]] += 1


def take(told: Told, event: bytes) -> None:
    """Add what one event says."""
    name, data = "", event[6:]
    if not event.startswith(b"data: ") or b"\n" in event:
        name, found = _framed(told, event)
        if found is None:
            return
        data = found
    text = decoded(told, data).strip()
    if len(text) < _SHORT and text.strip('"').upper() == "[DONE]":
        told.is_done = True
        return
    try:
        chunk = _read_json(text)
        _take_chunk(told, chunk, name, text)
    except RecursionError:
        told.note("too_deep")
    except ValueError:
        _take_words(told, name, text)


def _framed(told: Told, event: bytes) -> tuple[str, bytes | None]:
    found = read_event(event)
    for _ in range(found.stray):
        told.note("line")
    return found.name, found.data


def decoded(told: Told, data: bytes) -> str:
    """As UTF-8; what is none is replaced and counted."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        told.note("invalid_utf8")
        return data.decode(errors="replace")


def _take_words(told: Told, name: str, text: str) -> None:
    """Data that are no JSON."""
    if name == "error":
        told.error = text
    elif text:
        told.note("bad_json")


def _take_chunk(told: Told, chunk: Any, name: str, text: str) -> None:
    words = text if name == "error" else None
    if name == "error" or "error" in text or '"choices"' not in text:
        words = error_in(chunk) or words
    if words is not None:
        told.error = told.error or words
        return
    if not isinstance(chunk, dict):
        told.note("not_a_chunk")
        return
    has_usage = "usage" in text and _take_usage(told, chunk)
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        if choices is not None:
            told.note("choices")
        elif not has_usage and "choices" not in chunk and chunk.get("type") != "ping":
            told.note("not_a_chunk")
        return
    told.chunks += 1
    for choice in choices:
        if isinstance(choice, dict):
            _take_choice(told, choice, chunk)
        else:
            told.note("choice")


def error_in(chunk: Any) -> str | None:
    """The words of an error object, in the forms that servers have; None: it is none."""
    if not isinstance(chunk, dict):
        return None
    try:
        return _error_in(chunk)
    except RecursionError:
        return "an error that is nested too deep to be shown"


def _error_in(chunk: Mapping[str, Any]) -> str | None:
    error = chunk.get("error")
    if isinstance(error, dict):
        return _words(error) or None
    if error:
        return str(error)
    if chunk.get("object") == "error":
        return _words(chunk)
    if "choices" not in chunk and (chunk.get("detail") or chunk.get("message")):
        return _words(chunk)
    return None


def _words(error: Mapping[str, Any]) -> str:
    for key in ("message", "detail", "msg"):
        if isinstance(error.get(key), str) and error[key]:
            return error[key]
    return json.dumps(error) if error else ""


def _take_usage(told: Told, chunk: Mapping[str, Any]) -> bool:
    """The last count of each kind that is one, wherever in a chunk it stands."""
    places = [chunk, chunk.get("x_groq")]
    choices = chunk.get("choices")
    if isinstance(choices, list):
        places += choices
    found = False
    for place in places:
        usage = place.get("usage") if isinstance(place, dict) else None
        if usage is None:
            continue
        if not isinstance(usage, dict):
            told.note("usage")
            continue
        found = told.has_usage = True
        prompt = _count(told, usage, "prompt_tokens")
        output = _count(told, usage, "completion_tokens")
        if prompt is not None:
            told.prompt_tokens = prompt
        if output is not None:
            told.output_tokens = output
    return found


def _count(told: Told, usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # up to 2**53: beyond it is no count, and NaN and infinity are none
    if is_number and 0 <= value < 2**53 and value == int(value):
        return int(value)
    told.note(f"usage.{name}")
    return None


def _take_choice(told: Told, choice: Mapping[str, Any], chunk: Mapping[str, Any]) -> None:
    index = choice.get("index")
    if not isinstance(index, int):
        index = 0
    told.choices.add(index)
    delta = choice.get("delta")
    if delta is None and isinstance(choice.get("message"), dict):
        if chunk.get("object") == "chat.completion":
            told.is_plain = True
        else:
            told.note("message_for_delta")
        delta = choice["message"]
    if delta is None:  # an annotation; or the older form, which has its text beside it
        delta = {"text": choice.get("text")}
    if isinstance(delta, dict):
        _take_delta(told, delta, index)
    else:
        told.note("delta")
    reason = choice.get("finish_reason")
    if reason:
        if not isinstance(reason, str):
            told.note("finish_reason")
        told.finish_reasons[index] = str(reason)[:MAX_KIND_CHARACTERS]


def _take_delta(told: Told, delta: Mapping[str, Any], index: int) -> None:
    has_reasoned = False
    for name, value in delta.items():
        if not value or name in _WITHOUT_TEXT:
            continue
        if name in _CONTENT:
            told.say(_text(told, value, name), is_content=index == 0)
        elif name in _REASONING:
            text = _text(told, value, name)
            if not has_reasoned:
                told.say(text)
            has_reasoned = has_reasoned or bool(text)
        elif name == "tool_calls":
            for call in value if isinstance(value, list) else [value]:
                _take_call(told, call)
        elif name == "function_call":
            _take_call(told, {"function": value})
        elif name == "audio":
            told.say(_text(told, value, name))
        else:
            told.note(f"delta.{name}")


def _text(told: Told, value: Any, name: str) -> str:
    """The text in a string, a part, or a list of parts."""
    if not value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        pieces = [_text(told, part, name) for part in value]
        return "".join(pieces)
    if isinstance(value, dict):
        for key in _PART_TEXT:
            if value.get(key):
                return _text(told, value[key], name)
        if any(key in value for key in _PART_TEXT):
            return ""
    told.note(f"part_of_{name}")
    return ""


def _take_call(told: Told, call: Any) -> None:
    """A tool's name and arguments are written by the model as any text is."""
    if call is None:
        return
    function = call.get("function") if isinstance(call, dict) else call
    if function is None:
        return
    if not isinstance(function, dict):
        told.note("tool_call")
        return
    for name in ("name", "arguments"):
        value = function.get(name)
        if isinstance(value, str):
            told.say(value)
        elif value is not None:
            told.note(f"tool_call.{name}")
            told.say(json.dumps(value))
