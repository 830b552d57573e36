"""One row of a source -> one Prompt: which columns are read, and the forms of conversation that are
understood."""

from __future__ import annotations

import contextlib
import json
import math
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import Messages, Prompt
from engine.stages.prompts.source_row import BadRow, Columns, Row

# in meta: numbers of the answers inside a conversation that OpenAI's files mark so
UNLEARNT = "turns_of_weight_0"
_SHAREGPT = "conversations"
_NOTHING = (None, [], {})
_ANSWER_NAMES = ("text", "value", "answer", "answers", "aliases")
# Names of roles: ours, OpenAI's newer one for system, and ShareGPT's.
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai", "bot"), "assistant"
    ),
}


def columns_of(row: Row, text: str | None = None) -> Columns:
    """A row's columns by name; of Arrow, numbers in the column `text` as text. BadRow, or
    ValueError where it is no JSON."""
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, pa.RecordBatch):
        return _columns_of_arrow(row, text)
    if not isinstance(row, bytes):
        return row
    values = json.loads(row.decode("utf-8-sig"))
    if not isinstance(values, dict):
        raise BadRow("wrong_type")
    return values


def _columns_of_arrow(row: pa.RecordBatch, text: str | None) -> Columns:
    values: Columns = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        values[name.strip()] = _python(column[0])
    if text in values and not isinstance(values[text], str | list | dict):
        values[text] = _scalar(values[text])
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
            # where it is read it costs the row
            return value.as_buffer().to_pybytes().decode(errors="surrogateescape")
        return f"a {value.type} that Python cannot hold"


def prompt_of(
    values: Columns, path: Path, line: int, spec: PromptsSpec, task: str, split: str
) -> Prompt:
    """The prompt of a row. BadRow with its reason where it gives none."""
    fields = spec.fields
    conversation = _conversation(values, spec)
    source_id: str | None = f"{path.name}:{line}"
    if fields.id is not None:
        source_id = _scalar(values.get(fields.id))
    if source_id is None:
        raise BadRow("missing_field")
    right_answers = _answers(values.get(fields.reference))
    if not right_answers and conversation.answer is not None:
        right_answers = [conversation.answer]
    references = [fields.labels.get(one.strip(), one) for one in right_answers]
    used = conversation.used | {fields.id, fields.reference}
    rest = {key: value for key, value in values.items() if key not in used}
    if conversation.unlearnt:
        rest[UNLEARNT] = conversation.unlearnt
    # a lone surrogate that nobody reads costs nothing here; in id and reference it costs the row,
    # as the hash does it for the messages
    meta = json.dumps(rest, sort_keys=True, ensure_ascii=False, default=str)
    meta = meta.encode(errors="replace").decode()
    f"{source_id}{references}".encode()
    sha256 = prompt_hash(conversation.messages)
    return Prompt(
        prompt_id_of(sha256),
        sha256,
        source_id,
        conversation.messages,
        task,
        path.name,
        split,
        next(iter(references), None),
        meta,
        references,
    )


def columns_read(spec: PromptsSpec) -> set[str]:
    """Names of the columns that stay in `meta` although a prompt reads them."""
    fields = spec.fields
    names: set[str] = set()
    if spec.template:
        names |= set(_named(spec.template))
    if fields.messages == FieldMap().messages:
        names.add(_SHAREGPT)
    if fields.prompt == "instruction" and not spec.template:
        names.add("input")
    return names


def _named(template: str) -> list[str]:
    """The columns that a template names."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


@dataclass(frozen=True)
class _Conversation:
    """A row's conversation up to its last user turn; the assistant's answer behind that, where it
    has one; which earlier answers are not to be learnt; and the mapped columns that were read."""

    messages: Messages
    answer: str | None
    unlearnt: list[int]
    used: set[str | None]


def _conversation(values: Columns, spec: PromptsSpec) -> _Conversation:
    given, used = _given_turns(values, spec)
    if not isinstance(given, list):
        raise BadRow("wrong_type")
    turns = [_turn(turn) for turn in given]
    answer = None
    if turns and turns[-1].message["role"] == "assistant":
        last = turns.pop()
        if last.weight and last.message["content"].strip():
            answer = last.message["content"]
    messages = [turn.message for turn in turns]
    if not messages or messages[-1]["role"] != "user":
        raise BadRow("last_message_not_user")
    if not messages[-1]["content"].strip():
        raise BadRow("empty_prompt")
    unlearnt = []
    for number, turn in enumerate(turns):
        if turn.message["role"] == "assistant" and not turn.weight:
            unlearnt.append(number)
    system = _system(values, spec)
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return _Conversation(messages, answer, unlearnt, used)


def _given_turns(values: Columns, spec: PromptsSpec) -> tuple[Any, set[str | None]]:
    """The row's conversation as it is written there, and the mapped columns that it is read
    from."""
    fields = spec.fields
    given = values.get(fields.messages)
    if given in (None, "") and fields.messages == FieldMap().messages:
        given = values.get(_SHAREGPT)
    if given in (None, "") or spec.template:
        if spec.template is None:
            return _single_turn(values, fields), {fields.prompt, fields.system}
        return _from_template(spec.template, values), {fields.system}
    if isinstance(given, str):  # CSV, and Parquet written from it
        given = json.loads(given)
    return given, {fields.messages, fields.system}


def _system(values: Columns, spec: PromptsSpec) -> str | None:
    """The row's own system message, else the job's."""
    column = spec.fields.system
    own = None
    if column:
        own = _scalar(values.get(column))
    return own or spec.system


def _single_turn(values: Columns, fields: FieldMap) -> list[dict[str, Any]]:
    prompt = values.get(fields.prompt)
    if prompt is None:
        raise BadRow("missing_field")
    about = None
    if fields.prompt == "instruction":
        about = _scalar(values.get("input"))  # Alpaca's second column
    if about is not None:
        prompt = f"{prompt}\n\n{about}"
    return [{"role": "user", "content": prompt}]


def _from_template(template: str, values: Columns) -> list[dict[str, Any]]:
    """The template with the row's columns in it."""
    names = _named(template)
    if any(values.get(name) is None for name in names):
        raise BadRow("missing_field")
    texts = {name: _scalar(values[name]) or "" for name in names}  # an empty text is one
    return [{"role": "user", "content": template.format_map(texts)}]


@dataclass(frozen=True)
class _Turn:
    """A message, and the weight of its training in OpenAI's fine-tuning files."""

    message: dict[str, str]
    weight: float


def _turn(message: Any) -> _Turn:
    """BadRow for what would silently make another conversation if it were left out: a tool's call
    or answer, a picture, a name.
    """
    if not isinstance(message, dict):
        raise BadRow("wrong_type")
    left = {key: value for key, value in message.items() if value not in _NOTHING}
    weight = float(left.pop("weight", 1))
    if "content" not in left and left.keys() == {"from", "value"}:
        left = {"role": left["from"], "content": left["value"]}
    if _is_of_a_tool(left):
        raise BadRow("tool_call")
    role = left.pop("role", None)
    content = left.pop("content", None)
    if left:
        raise BadRow("unknown_message_field")
    if isinstance(role, str):
        role = role.lower()
    if role not in _ROLES:
        raise BadRow("unknown_role")
    return _Turn({"role": _ROLES[role], "content": _content(content)}, weight)


def _is_of_a_tool(message: dict[str, Any]) -> bool:
    if "tool_calls" in message or "function_call" in message:
        return True
    return message.get("role") in ("tool", "function")


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


def _answers(value: Any) -> list[str]:
    """Every right answer: one, a list of them, SQuAD's {"text": […]} or TriviaQA's {"value",
    "aliases"}. BadRow for another map."""
    if isinstance(value, list):
        if any(isinstance(each, list) for each in value):
            raise BadRow("several_values")
        every: list[str] = []
        for each in value:
            every += _answers(each)
        return list(dict.fromkeys(every))
    if isinstance(value, dict):
        return _answers(_known_answers(value))
    text = _scalar(value)
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


def _scalar(value: Any) -> str | None:
    """A text or number as text; None, blank text and what is no number (NaN) are None."""
    if isinstance(value, list | dict):
        raise BadRow("several_values")
    if isinstance(value, bytes):
        return _scalar(value.decode())
    if not isinstance(value, str | int | float | None):
        return str(value)  # a date or a decimal of Parquet
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value)
    if not text.strip():
        return None
    return text
