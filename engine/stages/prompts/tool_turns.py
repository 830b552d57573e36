"""What a source says of tools -> OpenAI's form: tools that are offered, calls, and whose answer a
tool's turn is.

OpenAI's files and their older form (`function_call`, role `function`) are understood, calls also
without the wrapping of OpenAI's form; ids of calls are given anew, so that they make no difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.rows.sources.source_row import BadRow
from engine.rows.tools import Call, Message, Tool, as_call, as_tool_calls, is_sound


@dataclass(frozen=True)
class GivenCall:
    """A call, and the id that the source has for it."""

    call: Call
    source_id: str | None = None


def offered_tools(given: Any) -> list[Tool]:
    """The tools of a row: a list, or its JSON. BadRow for anything else."""
    if given in (None, "", [], {}):
        return []
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise BadRow("broken_tools") from None
    if not isinstance(given, list):
        raise BadRow("broken_tools")
    return list(map(_tool, given))


def _tool(given: Any) -> Tool:
    """In OpenAI's form; also from a function alone, or Anthropic's form."""
    function = dict(_without_nulls(_named_function(given, "broken_tools")))
    if "input_schema" in function:
        function["parameters"] = function.pop("input_schema")
    function.pop("type", None)  # of the wrapping, where there is none
    return {"type": "function", "function": function}


def _named_function(given: Any, problem: str) -> dict[str, Any]:
    """The function of a tool or a call, in the wrapping of OpenAI's form or without it. BadRow
    where there is none with a name."""
    if not isinstance(given, dict):
        raise BadRow(problem)
    function = given.get("function") or given
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(problem)
    return function


def _without_nulls(value: Any) -> Any:
    """Parquet gives every tool the fields of all."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def given_calls(message: dict[str, Any]) -> list[GivenCall]:
    """Takes the calls out of a message. BadRow for calls that are none, or whose arguments are no
    JSON object."""
    given = message.pop("tool_calls", [])
    older = message.pop("function_call", None)
    if not isinstance(given, list):
        raise BadRow("broken_tool_call")
    if older is not None:
        given = [*given, older]
    return list(map(_call, given))


def _call(given: Any) -> GivenCall:
    function = _named_function(given, "broken_tool_call")
    call = as_call(function["name"], function.get("arguments"))
    if not is_sound(call):
        raise BadRow("tool_arguments_not_json")
    source_id = given.get("id")
    if source_id is None:
        return GivenCall(call)
    return GivenCall(call, str(source_id))


def gold_calls(reference: Any) -> list[Call]:
    """The calls that a column of gold answers holds: a list of them, or its JSON; none where it
    holds something else."""
    if isinstance(reference, str) and reference.lstrip().startswith("["):
        try:
            reference = json.loads(reference)
        except ValueError:
            return []
    if not isinstance(reference, list):
        return []
    try:
        return [_call(one).call for one in reference]
    except BadRow:
        return []


def tool_text(content: Any) -> Any:
    """What a tool answered as text: its JSON where it is none."""
    if content is None:
        return ""
    is_parts = isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    )
    if isinstance(content, str) or is_parts:
        return content
    return json.dumps(content, ensure_ascii=False)


class Linker:
    """Gives calls their ids, and finds the call that each turn of a tool answers."""

    def __init__(self) -> None:
        self._calls = 0
        self._open: list[tuple[GivenCall, str]] = []

    def of_calls(self, given: Sequence[GivenCall]) -> Message:
        """What a turn that calls has besides its text."""
        tool_calls = as_tool_calls([one.call for one in given], self._calls)
        self._calls += len(given)
        for one, call in zip(given, tool_calls, strict=True):
            self._open.append((one, call["id"]))
        return {"tool_calls": tool_calls}

    def of_answer(self, source_id: str | None, name: str | None) -> Message:
        """What a tool's turn has besides its text: the answered call by its id, else by its name,
        else the first that is open. BadRow where there is none."""
        for at, (one, own_id) in enumerate(self._open):
            fits = name in (None, one.call["name"])
            if source_id is not None and one.source_id is not None:
                fits = one.source_id == source_id
            if fits:
                del self._open[at]
                return {"tool_call_id": own_id, "name": one.call["name"]}
        raise BadRow("tool_answer_without_call")
