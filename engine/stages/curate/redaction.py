"""An example without personal data: marks in place of what was found, and none of the teacher's
tokens or signal, which would teach the student the old text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from engine.curation.privacy import redacted
from engine.rows.records import EXAMPLE, Messages

Kinds = Sequence[str] | None  # of personal data; None: all
# Of a file of such examples: their tokens are the student's own, made of the text.
UNSIGNED = {"tokenizer_fingerprint": "null", "top_k": "0"}


def _is_of_tokens(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or (
        pa.types.is_list(kind) and not pa.types.is_struct(kind.value_type)
    )


_OF_TOKENS = [column for column in EXAMPLE if _is_of_tokens(column.type)]


def without_pii(examples: pa.Table, kinds: Kinds) -> pa.Table:
    """The same examples, each text redacted and all columns of tokens empty."""
    messages = [_messages(each, kinds) for each in examples["messages"].to_pylist()]
    tools = [_tools(each, kinds) for each in examples["tools"].to_pylist()]
    columns: dict[str, list[Any]] = {"messages": messages, "tools": tools}
    for column in _OF_TOKENS:
        nothing: Any = b"" if pa.types.is_binary(column.type) else []
        columns[column.name] = [nothing] * len(examples)
    for name, values in columns.items():
        at = examples.schema.get_field_index(name)
        column = EXAMPLE.field(name)
        examples = examples.set_column(at, column, pa.array(values, column.type))
    return examples


def _messages(messages: Messages, kinds: Kinds) -> Messages:
    return [message | {"content": redacted(message["content"], kinds)} for message in messages]


def _tools(tools: str | None, kinds: Kinds) -> str | None:
    if tools is None:
        return None
    told = _redacted_value(json.loads(tools), kinds)
    return json.dumps(told, ensure_ascii=False)


def _redacted_value(value: Any, kinds: Kinds) -> Any:
    """Of JSON: each text, and each number that is one, such as a telephone's."""
    if isinstance(value, str):
        return redacted(value, kinds)
    if isinstance(value, list):
        return [_redacted_value(item, kinds) for item in value]
    if isinstance(value, dict):
        return {name: _redacted_value(item, kinds) for name, item in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = redacted(str(value), kinds)
        return value if text == str(value) else text
    return value
