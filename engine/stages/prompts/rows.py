"""One row of a source -> one Prompt: which columns are read, and the forms of conversation that are understood."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.records import Messages, Prompt, prompt_hash, prompt_id_of
from engine.spec import FieldMap, PromptsSpec
from engine.stages.prompts.readers import BadRow, Row

# Names of roles: ours, OpenAI's newer one for system, and ShareGPT's.
_ROLES = {
    "system": "system", "user": "user", "assistant": "assistant", "developer": "system", "human": "user", "gpt": "assistant",
}


def columns_of(row: Row) -> dict[str, Any]:
    """A row's columns by name. BadRow, or ValueError where it is no JSON."""
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, pa.RecordBatch):
        return {name: _python(column[0]) for name, column in zip(row.schema.names, row.columns, strict=True)}
    values = json.loads(row.decode("utf-8-sig")) if isinstance(row, bytes) else row
    if not isinstance(values, dict):
        raise BadRow("wrong_type")
    return values


def _python(value: pa.Scalar) -> Any:
    """As Python has it, or as text where Python has no such value: a date beyond the year 9999 in a column that nobody asked for."""
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return str(value.value if hasattr(value, "value") else value)


def prompt_of(values: dict[str, Any], path: Path, line: int, spec: PromptsSpec, task: str, split: str) -> Prompt:
    """The prompt of a row. BadRow with its reason where it gives none."""
    fields = spec.fields
    messages, answer = _messages(values, fields, spec)
    source_id = f"{path.name}:{line}" if fields.id is None else _scalar(values.get(fields.id))
    if source_id is None:
        raise BadRow("missing_field")
    gold = _answers(values.get(fields.reference))
    reference = gold[0] if gold else answer
    mapped = fields.model_dump().values()
    rest = {key: value for key, value in values.items() if key not in mapped}
    if len(gold) > 1:
        rest[fields.reference] = gold
    meta = json.dumps(rest, sort_keys=True, ensure_ascii=False, default=str)
    f"{source_id}{reference}{meta}".encode()  # the hash does the same for the messages
    sha256 = prompt_hash(messages)
    return Prompt(prompt_id_of(sha256), sha256, source_id, messages, task, path.name, split, reference, meta)


def columns_read(spec: PromptsSpec) -> set[str]:
    """Names of the columns that can become part of a prompt or its reference."""
    fields = spec.fields
    found = {*filter(None, fields.model_dump().values())}
    if spec.template:
        found |= {name for _, name, _, _ in string.Formatter().parse(spec.template) if name}
    if fields.messages == FieldMap().messages:
        found.add("conversations")
    if fields.prompt == "instruction" and not spec.template:
        found.add("input")
    return found


def _messages(values: dict[str, Any], fields: FieldMap, spec: PromptsSpec) -> tuple[Messages, str | None]:
    """The conversation up to its last user turn, and the assistant's answer behind that where it has one."""
    given = values.get(fields.messages)
    if given in (None, "") and fields.messages == FieldMap().messages:
        given = values.get("conversations")  # ShareGPT
    if given in (None, "") or spec.template:
        given = _single_turn(values, fields, spec.template)
    elif isinstance(given, str):  # CSV, and Parquet written from it
        given = json.loads(given)
    if not isinstance(given, list):
        raise BadRow("wrong_type")
    turns = [_turn(turn) for turn in given]
    answer = None
    if turns and turns[-1][0]["role"] == "assistant":
        last, weight = turns.pop()
        answer = last["content"] if weight else None
    messages = [turn for turn, _ in turns]
    if not messages or messages[-1]["role"] != "user":
        raise BadRow("last_message_not_user")
    if not messages[-1]["content"].strip():
        raise BadRow("empty_prompt")
    if spec.system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": spec.system}, *messages]
    return messages, answer if answer and answer.strip() else None


def _single_turn(values: dict[str, Any], fields: FieldMap, template: str | None) -> list[dict[str, Any]]:
    prompt = values.get(fields.prompt) if template is None else _filled(template, values)
    if prompt is None:
        raise BadRow("missing_field")
    about = values.get("input") if fields.prompt == "instruction" and not template else None  # Alpaca's second column
    if isinstance(about, str) and about.strip():
        prompt = f"{prompt}\n\n{about}"
    own_system = values.get(fields.system) if fields.system else None
    first = [{"role": "system", "content": own_system}] if own_system else []
    return [*first, {"role": "user", "content": prompt}]


def _filled(template: str, values: dict[str, Any]) -> str | None:
    """The template with the row's columns in it; None where one is missing."""
    columns = {name: _scalar(values.get(name)) for _, name, _, _ in string.Formatter().parse(template) if name}
    return None if None in columns.values() else template.format_map(columns)


def _turn(message: Any) -> tuple[dict[str, str], float]:
    """Role and content of a message, and the weight of its training in OpenAI's fine-tuning files.

    BadRow for what would silently make another conversation if it were left out: a tool's call or answer, a picture, a name.
    """
    if not isinstance(message, dict):
        raise BadRow("wrong_type")
    left = {key: value for key, value in message.items() if value not in (None, [], {})}
    weight = left.pop("weight", 1)
    if "content" not in left and left.keys() == {"from", "value"}:
        left = {"role": left["from"], "content": left["value"]}
    if "tool_calls" in left or "function_call" in left or left.get("role") in ("tool", "function"):
        raise BadRow("tool_call")
    role, content = left.pop("role", None), left.pop("content", None)
    if left:
        raise BadRow("unknown_message_field")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRow("unknown_role")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise BadRow("content_not_text")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadRow("content_not_text" if content is not None else "wrong_type")
    return {"role": _ROLES[role], "content": content}, weight


def _answers(value: Any) -> list[str]:
    """Every right answer: one, a list of them, SQuAD's {"text": […]} or TriviaQA's {"value", "aliases"}."""
    if isinstance(value, dict):
        value = value["text"] if "text" in value else [value.get("value"), *value.get("aliases", [])]
    texts = [_scalar(each) for each in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(text for text in texts if text is not None))


def _scalar(value: Any) -> str | None:
    """A text or number as text; None, blank text and what is no number (NaN) are None."""
    if isinstance(value, list | dict):
        raise BadRow("several_values")
    if not isinstance(value, str | int | float | None):
        return str(value)  # a date or a decimal of Parquet
    if value is None or not str(value).strip() or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)
