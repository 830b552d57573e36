"""One row of a source -> its prompts: one, or one for each answer of a dialogue."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from engine.job.spec import PromptsSpec
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import Prompt
from engine.rows.slots import SLOTS, named_slots
from engine.rows.sources.columns import scalar
from engine.rows.sources.source_row import BadRow, Columns
from engine.rows.tools import Call, calls_column, spelled
from engine.stages.prompts.dialogue import (
    Asked,
    Dialogue,
    asked_each,
    asked_last,
    dialogue_of,
    tools_of,
)
from engine.stages.prompts.gold_answers import gold_answers
from engine.stages.prompts.tool_turns import gold_calls

# in meta: numbers of the answers inside a conversation that OpenAI's files mark so
UNLEARNT = "turns_of_weight_0"
DIALOGUE = "dialogue_id"  # in meta: what the prompts of one dialogue share


@dataclass(frozen=True)
class _Source:
    """Where a row stands, and what it is read for."""

    values: Columns
    path: Path
    line: int
    spec: PromptsSpec
    task: str
    split: str

    def own_id(self) -> str:
        """BadRow where the job names a column of ids that is empty here."""
        column = self.spec.fields.id
        if column is None:
            return f"{self.path.name}:{self.line}"
        own = scalar(self.values.get(column))
        if own is None:
            raise BadRow("missing_field")
        return own


def prompts_of(
    values: Columns, path: Path, line: int, spec: PromptsSpec, task: str, split: str
) -> list[Prompt]:
    """The prompts of a row, in the order of its turns. BadRow with its reason where it gives
    none."""
    source = _Source(values, path, line, spec, task, split)
    dialogue = dialogue_of(values, spec)
    if spec.turns == "last":
        asked = asked_last(dialogue)
        return [_prompt(asked, source, source.own_id(), dialogue.used, {})]
    shared = {DIALOGUE: _dialogue_id(dialogue, source)}
    prompts = []
    for asked in asked_each(dialogue):
        of_turn = replace(source, values=_columns_of_turn(asked, source))
        name = f"{source.own_id()}#{asked.number}"
        prompts.append(_prompt(asked, of_turn, name, dialogue.used, shared))
    return prompts


def _dialogue_id(dialogue: Dialogue, source: _Source) -> str:
    """The row's own, else one of its content, which no order of rows moves."""
    own = scalar(source.values.get(DIALOGUE))
    if own is None and source.spec.fields.id is not None:
        own = source.own_id()
    if own is None:
        messages = [turn.message for turn in dialogue.turns]
        own = prompt_hash(messages, tools_of(dialogue.turns, dialogue.offered))[:16]
    return own


def _columns_of_turn(asked: Asked, source: _Source) -> Columns:
    """The row's columns as far as they are about this turn: a reference is about the last one, and
    a dialogue's slot values about the turns that name them."""
    columns = dict(source.values)
    if not asked.is_last:
        columns.pop(source.spec.fields.reference, None)
    for name in SLOTS:
        if name in columns and asked.gold is not None:
            columns[name] = named_slots(asked.gold.message["content"], columns[name])
    return columns


def _prompt(
    asked: Asked,
    source: _Source,
    source_id: str,
    used: set[str | None],
    more: Columns,
) -> Prompt:
    """The prompt of one turn; `more` goes to `meta` too."""
    fields = source.spec.fields
    gold = _gold(asked, source)
    references = [fields.labels.get(one.strip(), one) for one in gold.texts]
    left_out = used | {fields.id, fields.reference}
    rest = {key: value for key, value in source.values.items() if key not in left_out}
    rest |= more
    if asked.unlearnt:
        rest[UNLEARNT] = asked.unlearnt
    if asked.gold is not None and asked.gold.slots is not None:
        rest["slots"] = asked.gold.slots
    # a lone surrogate that nobody reads costs nothing here; in id and reference it costs the row,
    # as the hash does it for the messages
    meta = json.dumps(rest, sort_keys=True, ensure_ascii=False, default=str)
    meta = meta.encode(errors="replace").decode()
    f"{source_id}{references}".encode()
    sha256 = prompt_hash(asked.messages, asked.tools)
    return Prompt(
        prompt_id_of(sha256),
        sha256,
        source_id,
        asked.messages,
        source.task,
        source.path.name,
        source.split,
        next(iter(references), None),
        meta,
        references,
        asked.tools,
        gold.calls,
    )


class _Gold(NamedTuple):
    """Right answers in words, and what they call."""

    texts: list[str]
    calls: str | None = None


def _gold(asked: Asked, source: _Source) -> _Gold:
    """What the row's column says, which may be calls where tools are offered, else the gold
    turn."""
    given = source.values.get(source.spec.fields.reference)
    calls: list[Call] = []
    if asked.tools is not None:
        calls = gold_calls(given)
    if not calls:
        texts = gold_answers(given)
        if texts or asked.gold is None:
            return _Gold(texts)
        calls = asked.gold.calls
    text = ""
    if asked.gold is not None:
        text = asked.gold.message["content"]
    column = calls_column(calls)
    return _Gold([spelled(text, column)], column)
