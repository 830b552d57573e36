"""One row of a source -> one Prompt: which columns are read, and the forms of conversation that are
understood."""

from __future__ import annotations

import contextlib
import json
import math
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import Messages, Prompt
from engine.stages.prompts.readers import BadRow, Row

# in meta: numbers of the answers inside a conversation that OpenAI's files mark so
UNLEARNT = "turns_of_weight_0"
# Names of roles: ours, OpenAI's newer one for system, and ShareGPT's.
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai", "bot"), "assistant"
    ),
}


def columns_of(row: Row, text: str | None = None) -> dict[str, Any]:
    """A row's columns by name; of Arrow, numbers in the column `text` as text. BadRow, or
    ValueError where it is no JSON."""
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, pa.RecordBatch):
        values = {
            name.strip(): _python(column[0])
            for name, column in zip(row.schema.names, row.columns, strict=True)
        }
        if text in values and not isinstance(values[text], str | list | dict):
            values[text] = _scalar(values[text])
        return values
    values = json.loads(row.decode("utf-8-sig")) if isinstance(row, bytes) else row
    if not isinstance(values, dict):
        raise BadRow("wrong_type")
    return values


def _python(value: pa.Scalar) -> Any:
    """As Python has it, or as text where Python has no such value: a date beyond the year 9999,
    bytes that are no UTF-8."""
    try:
        if pa.types.is_float32(value.type) and value.is_valid:
            return float(str(np.float32(value.as_py())))  # 0.1 and not 0.10000000149011612
        return value.as_py()
    except (OverflowError, ValueError):
        with contextlib.suppress(pa.ArrowException, ValueError):
            return value.cast(pa.string()).as_py()
        if isinstance(value, pa.StringScalar | pa.LargeStringScalar):
            return (
                value.as_buffer().to_pybytes().decode(errors="surrogateescape")
            )  # where it is read it costs the row
        return f"a {value.type} that Python cannot hold"


def prompt_of(
    values: dict[str, Any], path: Path, line: int, spec: PromptsSpec, task: str, split: str
) -> Prompt:
    """The prompt of a row. BadRow with its reason where it gives none."""
    fields = spec.fields
    messages, answer, unlearnt, used = _messages(values, fields, spec)
    source_id = f"{path.name}:{line}" if fields.id is None else _scalar(values.get(fields.id))
    if source_id is None:
        raise BadRow("missing_field")
    gold = _answers(values.get(fields.reference))
    reference = gold[0] if gold else answer
    used |= {fields.id, fields.reference}
    rest = {key: value for key, value in values.items() if key not in used}
    if len(gold) > 1:
        rest[fields.reference] = gold
    if unlearnt:
        rest[UNLEARNT] = unlearnt
    meta = (
        json.dumps(rest, sort_keys=True, ensure_ascii=False, default=str)
        .encode(errors="replace")
        .decode()
    )  # nobody reads it
    f"{source_id}{reference}".encode()  # the hash does the same for the messages
    sha256 = prompt_hash(messages)
    return Prompt(
        prompt_id_of(sha256), sha256, source_id, messages, task, path.name, split, reference, meta
    )


def columns_read(spec: PromptsSpec) -> set[str]:
    """Names of the columns that stay in `meta` although a prompt reads them."""
    fields, found = spec.fields, {spec.fields.reference}  # all of several references
    if spec.template:
        found |= {name for _, name, _, _ in string.Formatter().parse(spec.template) if name}
    if fields.messages == FieldMap().messages:
        found.add("conversations")
    if fields.prompt == "instruction" and not spec.template:
        found.add("input")
    return found


def _messages(
    values: dict[str, Any], fields: FieldMap, spec: PromptsSpec
) -> tuple[Messages, str | None, list[int], set[str | None]]:
    """The conversation up to its last user turn, the assistant's answer behind that where it has
    one, the earlier answers that are not to be learnt, and the mapped columns that were read.
    """
    given, used = values.get(fields.messages), {fields.messages, fields.system}
    if given in (None, "") and fields.messages == FieldMap().messages:
        given = values.get("conversations")  # ShareGPT
    if given in (None, "") or spec.template:
        given, used = (
            _single_turn(values, fields, spec.template),
            {fields.prompt if spec.template is None else None, fields.system},
        )
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
    unlearnt = [
        number
        for number, (turn, weight) in enumerate(turns)
        if turn["role"] == "assistant" and not weight
    ]
    if not messages or messages[-1]["role"] != "user":
        raise BadRow("last_message_not_user")
    if not messages[-1]["content"].strip():
        raise BadRow("empty_prompt")
    own = _scalar(values.get(fields.system)) if fields.system else None
    if (system := own or spec.system) and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return messages, answer if answer and answer.strip() else None, unlearnt, used


def _single_turn(
    values: dict[str, Any], fields: FieldMap, template: str | None
) -> list[dict[str, Any]]:
    prompt = values.get(fields.prompt) if template is None else _filled(template, values)
    if prompt is None:
        raise BadRow("missing_field")
    about = (
        _scalar(values.get("input")) if fields.prompt == "instruction" and not template else None
    )  # Alpaca's second column
    return [{"role": "user", "content": prompt if about is None else f"{prompt}\n\n{about}"}]


def _filled(template: str, values: dict[str, Any]) -> str | None:
    """The template with the row's columns in it; None where one is missing."""
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    if any(values.get(name) is None for name in names):
        return None
    return template.format_map(
        {name: _scalar(values[name]) or "" for name in names}
    )  # an empty text is one


def _turn(message: Any) -> tuple[dict[str, str], float]:
    """Role and content of a message, and the weight of its training in OpenAI's fine-tuning files.

    BadRow for what would silently make another conversation if it were left out: a tool's call or
    answer, a picture, a name.
    """
    if not isinstance(message, dict):
        raise BadRow("wrong_type")
    left = {key: value for key, value in message.items() if value not in (None, [], {})}
    weight = float(left.pop("weight", 1))
    if "content" not in left and left.keys() == {"from", "value"}:
        left = {"role": left["from"], "content": left["value"]}
    if "tool_calls" in left or "function_call" in left or left.get("role") in ("tool", "function"):
        raise BadRow("tool_call")
    role, content = left.pop("role", None), left.pop("content", None)
    if left:
        raise BadRow("unknown_message_field")
    role = role.lower() if isinstance(role, str) else role
    if role not in _ROLES:
        raise BadRow("unknown_role")
    if isinstance(content, list):
        if not all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
        ):
            raise BadRow("content_not_text")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadRow("content_not_text" if content is not None else "wrong_type")
    return {"role": _ROLES[role], "content": content}, weight


def _answers(value: Any) -> list[str]:
    """Every right answer: one, a list of them, SQuAD's {"text": […]} or TriviaQA's {"value",
    "aliases"}. BadRow for another map."""
    if isinstance(value, list):
        if any(isinstance(each, list) for each in value):
            raise BadRow("several_values")
        return list(dict.fromkeys(text for each in value for text in _answers(each)))
    if isinstance(value, dict):
        known = [
            value[name]
            for name in ("text", "value", "answer", "answers", "aliases")
            if name in value
        ]
        if value and not known:
            raise BadRow("unknown_reference")
        return _answers(
            [item for each in known for item in (each if isinstance(each, list) else [each])]
        )
    text = _scalar(value)
    return [] if text is None else [text]


def _scalar(value: Any) -> str | None:
    """A text or number as text; None, blank text and what is no number (NaN) are None."""
    if isinstance(value, list | dict):
        raise BadRow("several_values")
    if isinstance(value, bytes):
        return _scalar(value.decode())
    if not isinstance(value, str | int | float | None):
        return str(value)  # a date or a decimal of Parquet
    if value is None or not str(value).strip() or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)
