"""A row's conversation, from whichever columns it stands in, and which of its answers are asked
for."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.records import Messages
from engine.rows.sources.columns import scalar
from engine.rows.sources.source_row import BadRow, Columns
from engine.rows.tools import Tool, tools_column
from engine.stages.prompts.schema_guided import is_schema_guided, messages_of
from engine.stages.prompts.tool_turns import offered_tools
from engine.stages.prompts.turns import Turn, turns_of

_SHAREGPT = "conversations"
_SCHEMA_GUIDED = "turns"
USUAL_NAMES = FieldMap()


@dataclass(frozen=True)
class Dialogue:
    """All turns of a row, its system message put before them, the tools that it offers, and the
    columns that were read."""

    turns: list[Turn]
    offered: list[Tool]
    used: set[str | None]


@dataclass(frozen=True)
class Asked:
    """A conversation up to the turn of a user or a tool, and the gold turn behind it, where there
    is one.

    `tools` is what tools add to it (engine/rows/tools.py). `number` is that of the answer among the
    dialogue's; `unlearnt` are numbers of earlier answers that are not to be learnt, in the
    conversation as it is written in the row.
    """

    messages: Messages
    tools: str | None
    gold: Turn | None
    number: int
    unlearnt: list[int]
    is_last: bool


def dialogue_of(values: Columns, spec: PromptsSpec) -> Dialogue:
    """BadRow where a turn is not understood."""
    given, used = _given_turns(values, spec)
    if not isinstance(given, list):
        raise BadRow("wrong_type")
    turns = turns_of(given)
    system = _system(values, spec)
    if system and turns and turns[0].role != "system":
        turns.insert(0, Turn({"role": "system", "content": system}, is_added=True))
    offered: list[Tool] = []
    if spec.fields.tools is not None:
        offered = offered_tools(values.get(spec.fields.tools))
    return Dialogue(turns, offered, used | {spec.fields.tools})


def tools_of(turns: list[Turn], offered: list[Tool]) -> str | None:
    """The column `tools` of these turns."""
    added = {number: turn.of_tools for number, turn in enumerate(turns) if turn.of_tools}
    return tools_column(offered, added)


def asked_last(dialogue: Dialogue) -> Asked:
    """What the last turn of a user or a tool asks; an assistant's turn behind it is gold. BadRow
    where there is none."""
    turns = dialogue.turns
    before = len(turns)
    gold = None
    if turns and turns[-1].role == "assistant":
        before -= 1
        if turns[-1].weight and not turns[-1].is_blank:
            gold = turns[-1]
    return _asked(dialogue, before, gold, is_last=True)


def asked_each(dialogue: Dialogue) -> list[Asked]:
    """What every turn that the assistant answers asks, with the gold history before it, and
    the last one also where nobody answers it. BadRow where there is none.

    A blank answer, or one that is not to be learnt, is history only.
    """
    found = []
    turns = dialogue.turns
    for at, turn in enumerate(turns[:-1]):
        if _is_answer(turns, at) and turn.weight and not turn.is_blank:
            found.append(_asked(dialogue, at, turn, is_last=False))
    try:
        found.append(asked_last(dialogue))
    except BadRow:
        if not found:
            raise
    return found


def _is_answer(turns: list[Turn], at: int) -> bool:
    return at > 0 and turns[at].role == "assistant" and turns[at - 1].is_question


def _asked(dialogue: Dialogue, before: int, gold: Turn | None, *, is_last: bool) -> Asked:
    history = dialogue.turns[:before]
    if not history or history[-1].role not in ("user", "tool"):
        raise BadRow("last_message_not_user")
    if not history[-1].is_question:
        raise BadRow("empty_prompt")
    answers = sum(turn.role == "assistant" for turn in history)
    messages = [turn.message for turn in history]
    tools = tools_of(history, dialogue.offered)
    return Asked(messages, tools, gold, answers + 1, list(_unlearnt(history)), is_last)


def _unlearnt(history: list[Turn]) -> Iterator[int]:
    written = [turn for turn in history if not turn.is_added]
    for number, turn in enumerate(written):
        if turn.role == "assistant" and not turn.weight:
            yield number


def columns_read(spec: PromptsSpec) -> set[str]:
    """Names of the columns that stay in `meta` although a prompt may read them."""
    fields = spec.fields
    names: set[str] = set()
    if spec.template:
        names |= set(_named(spec.template))
    if fields.messages == USUAL_NAMES.messages:
        names.add(_SHAREGPT)
    if fields.prompt == "instruction" and not spec.template:
        names.add("input")
    return names


def columns_of_text(spec: PromptsSpec) -> list[list[str]]:
    """The columns that a prompt is read from, those that are read together in one list."""
    if spec.template:
        return [_named(spec.template)]
    columns = [[name] for name in _columns_of_conversations(spec.fields)]
    return [*columns, [spec.fields.prompt]]


def _named(template: str) -> list[str]:
    """The columns that a template names."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _given_turns(values: Columns, spec: PromptsSpec) -> tuple[Any, set[str | None]]:
    """The row's conversation as it is written there, and the columns that it is read from."""
    fields = spec.fields
    if spec.template:
        return _from_template(spec.template, values), {fields.system}
    for column in _columns_of_conversations(fields):
        given = values.get(column)
        if given in (None, ""):
            continue
        if isinstance(given, str):  # CSV, and Parquet written from it
            given = json.loads(given)
        if is_schema_guided(given):
            return messages_of(given), {column, fields.system}
        if column != _SCHEMA_GUIDED or column == fields.messages:
            return given, {column, fields.system}
    return _single_turn(values, fields), {fields.prompt, fields.system}


def _columns_of_conversations(fields: FieldMap) -> list[str]:
    """Where a conversation may stand; public sets have columns of their own."""
    if fields.messages == USUAL_NAMES.messages:
        return [fields.messages, _SHAREGPT, _SCHEMA_GUIDED]
    return [fields.messages]


def _system(values: Columns, spec: PromptsSpec) -> str | None:
    """The row's own system message, else the job's."""
    column = spec.fields.system
    own = None
    if column:
        own = scalar(values.get(column))
    return own or spec.system


def _single_turn(values: Columns, fields: FieldMap) -> list[dict[str, Any]]:
    prompt = values.get(fields.prompt)
    if prompt is None:
        raise BadRow("missing_field")
    about = None
    if fields.prompt == "instruction":
        about = scalar(values.get("input"))  # Alpaca's second column
    if about is not None:
        prompt = f"{prompt}\n\n{about}"
    return [{"role": "user", "content": prompt}]


def _from_template(template: str, values: Columns) -> list[dict[str, Any]]:
    """The template with the row's columns in it."""
    names = _named(template)
    if any(values.get(name) is None for name in names):
        raise BadRow("missing_field")
    texts = {name: scalar(values[name]) or "" for name in names}  # an empty text is one
    return [{"role": "user", "content": template.format_map(texts)}]
