"""First pass: each answer is judged by itself, by its light columns, one group of files at a time.

What is written of an answer is narrow: its key, what the filters found, its reason if it goes, and
where it lies. The second pass (deciding.py) sees nothing else. No answer knows of another here, so
neither groups nor workers change a verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from engine.backends.math_verifier import OpenAlgebra
from engine.curation.contamination import Index
from engine.errors import EngineError, StageError
from engine.job.spec import CurateSpec
from engine.rows import codec
from engine.rows.final_answer import USUAL, Rules
from engine.rows.ids import bare_prompt
from engine.rows.records import COMPLETION_KEY, Completion, Prompt, completion_schema
from engine.rows.stated_answer import stated
from engine.rows.tables import completed, read_tables, to_rows
from engine.stages.curate.filters import FILTERS, Drop, Experts, Verdict
from engine.stages.curate.groups import Group
from engine.stages.curate.leaks import Leaks
from engine.stages.curate.making import Made, publish_table
from engine.stages.curate.narrow import JUDGED, META
from engine.stages.curate.prompts_by_id import Prompts, message_bytes, text_bytes
from engine.stages.curate.referee import Referee, referee_for
from engine.stages.curate.twins import KeysOf
from engine.store.paths import Folder

FAILED = "filter_failed"
_JUDGED_ROWS = 1024  # at a time: as Python's objects they take several times the room
_LONGEST_ERROR = 200  # characters
# of an example in memory
_FIXED_BYTES = 128
_ID_BYTES = 4
_LOGPROB_BYTES = 4

Rule = Callable[[Completion, Prompt], Verdict]
Source = dict[str, str]  # a file's metadata, values in JSON; one teacher answered all its rows


def _is_heavy(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_binary(kind)


_COLUMNS = frozenset(JUDGED.names)
_LIGHT = pa.schema([column for column in completion_schema() if not _is_heavy(column.type)])
_NEWER = ("tool_calls",)  # which files of an older version lack


@dataclass(frozen=True)
class Judging:
    """What the judgement of any group needs."""

    spec: CurateSpec
    prompts: Prompts
    labels: Mapping[str, str]
    out: Folder
    open_algebra: OpenAlgebra
    held_out: Index | None = None


@dataclass
class Judge:
    """Says of an answer which filter drops it and why, and what the filters found."""

    filters: Mapping[str, Rule]
    experts: Experts
    usable: Sequence[str]
    found: dict[str, Any] = field(default_factory=dict)  # of the answer judged last

    def study(self, answers: Sequence[Completion], prompts: Sequence[Prompt]) -> None:
        """Look at a slice of answers together before each is judged."""
        pairs = []
        for answer, prompt in zip(answers, prompts, strict=True):
            if answer.split == "train" and answer.status in self.usable:
                pairs.append((answer, prompt))
        if not pairs:
            return
        studied = list(zip(*pairs, strict=True))
        for name, expert in (
            ("reference", self.experts.referee),
            ("contaminated", self.experts.leaks),
        ):
            if expert is None or name not in self.filters:
                continue
            try:
                expert.study(*studied)
            except EngineError:
                raise
            except Exception:  # noqa: BLE001 - one answer of the slice: each is studied by itself then, and that one gets its reason
                continue

    def verdict(self, answer: Completion, prompt: Prompt) -> tuple[str, str] | None:
        """The filter that drops an answer and its reason; None of one that stays. Validation
        answers are not curated: those that nobody can use go under their status."""
        self.found = {}
        if answer.split != "train":
            return None if answer.status in self.usable else ("status", answer.status)
        for name, rule in self.filters.items():
            try:
                verdict = rule(answer, prompt)
            except EngineError:
                raise
            except Exception as error:  # noqa: BLE001 - counted and shown: the row's reason, not the stage's end
                words = f"{type(error).__name__}: {error}"
                self.found["error"] = words[:_LONGEST_ERROR]
                return name, FAILED
            self.found |= verdict.found
            if isinstance(verdict, Drop):
                return name, verdict.reason
        return None


def filters_for(spec: CurateSpec, experts: Experts) -> dict[str, Rule]:
    """The filters that the spec asks for, in order."""
    filters: dict[str, Rule] = {}
    for name, (rule, settings_of) in FILTERS.items():
        settings = settings_of(spec, experts)
        if settings is not None:
            filters[name] = partial(rule, **settings)
    return filters


def filters_of(spec: CurateSpec) -> list[str]:
    """Their names."""
    return list(filters_for(spec, Experts(Referee(USUAL))))


def build_judge(spec: CurateSpec, experts: Experts) -> Judge:
    """A judge with these filters."""
    usable = ["ok"]
    if spec.keep_truncated:
        usable.append("truncated")
    return Judge(filters_for(spec, experts), experts, usable)


def judge_group(plan: Judging, group: Group) -> Made:
    """Judge the answers of a group of files. StageError if one belongs to no prompt."""
    leaks = None
    if plan.held_out is not None and plan.spec.decontaminate is not None:
        leaks = Leaks(plan.held_out, plan.spec.decontaminate.coverage)
    sources: list[Source] = []
    judged = [JUDGED.empty_table()]
    keys = KeysOf(plan.spec.near_duplicates)
    with referee_for(plan.spec.verify, plan.labels, plan.open_algebra) as referee:
        judge = build_judge(plan.spec, Experts(referee, leaks))
        tables = read_tables(group.files, _LIGHT.names, optional=_NEWER)
        for number, stored in enumerate(tables, group.first):
            source = _source_of(stored)
            sources.append(source)
            for answers in _slices(completed(stored, _LIGHT)):
                rows = _judged_slice(plan, judge, answers, number, source, keys)
                judged.append(rows)
    table = pa.concat_tables(judged)
    name = f"work/judged/{group.name}.parquet"
    files = {name: publish_table(table, plan.out, name)}
    if keys.wanted:
        name = f"work/keys/{group.name}.parquet"
        files[name] = publish_table(keys.table(), plan.out, name)
    return Made(files=files, told={"sources": sources, "rows": len(table)})


def _slices(answers: pa.Table) -> Iterator[pa.Table]:
    rows = np.arange(len(answers))
    numbered = answers.append_column("row", pa.array(rows))
    for start in range(0, len(answers), _JUDGED_ROWS):
        yield numbered.slice(start, _JUDGED_ROWS)


def _source_of(table: pa.Table) -> Source:
    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _judged_slice(
    plan: Judging, judge: Judge, answers: pa.Table, number: int, source: Source, keys: KeysOf
) -> pa.Table:
    """The narrow rows of some answers of file `number`."""
    rows = to_rows(answers, Completion)
    asked = plan.prompts.asked(answers)
    prompts = to_rows(asked, Prompt)
    judge.study(rows, prompts)
    found: dict[str, list[Any]] = defaultdict(list)
    dropped = []
    for answer, prompt in zip(rows, prompts, strict=True):
        gone = judge.verdict(answer, prompt)
        dropped.append(gone is not None)
        told = _facts(plan.spec, prompt, judge.experts.referee.rules) | judge.found
        if gone is None:
            told["said"] = _hash_of(answer.said)
        else:
            told["filter"], told["reason"] = gone
        _require_columns(told)
        for column in JUDGED.names:
            found[column].append(told.get(column))
    keys.add(rows, prompts, dropped)
    columns: dict[str, Any] = {
        **found,
        "file": np.full(len(answers), number),
        "row": answers["row"],
        "bytes": _example_bytes(answers, message_bytes(asked), source),
    }
    for name in (*COMPLETION_KEY, "split", "completion_tokens"):
        columns[name] = answers[name]
    arrays = []
    for column in JUDGED:
        values = columns[column.name]
        if isinstance(values, pa.ChunkedArray):
            arrays.append(values.combine_chunks().cast(column.type))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=JUDGED)


def _require_columns(told: Mapping[str, Any]) -> None:
    """What a filter finds would be lost without a column."""
    unknown = sorted(told.keys() - _COLUMNS)
    if unknown:
        raise StageError(
            f"curate: a filter found {', '.join(unknown)}, which no column takes; add it to _FOUND"
            " in engine/stages/curate/narrow.py and to CompletionVerdict in engine/rows/records.py"
        )


def _facts(spec: CurateSpec, prompt: Prompt, rules: Rules) -> dict[str, Any]:
    """What rules over tables read of an answer's prompt, and what is counted by."""
    facts: dict[str, Any] = {
        "task": prompt.task,
        "source": prompt.source,
    }
    if spec.balance is not None and spec.balance.by.startswith(META):
        value = json.loads(prompt.meta).get(spec.balance.by.removeprefix(META))
        facts["group"] = None if value is None else str(value)
    if prompt.task == "nli":
        asked = bare_prompt(prompt.messages)
        for gold in prompt.right_answers[:1]:
            facts["label"] = stated(prompt.task, gold, rules, prompt=asked)
    return facts


def _hash_of(text: str) -> int:
    """64 bits: of the few answers to one prompt no two are taken for the same."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _example_bytes(answers: pa.Table, asked_bytes: np.ndarray, source: Source) -> np.ndarray:
    """About what the example of each answer takes in memory. An API that counts no tokens gives no
    ids and no signal either."""
    tokens_in = _counts(answers["prompt_tokens"])
    tokens_out = _counts(answers["completion_tokens"])
    said_bytes = text_bytes(answers["text"]) + text_bytes(answers["tool_calls"])
    conversation_bytes = asked_bytes + said_bytes
    id_bytes = _ID_BYTES * (tokens_in + tokens_out)
    signal_bytes = _signal_bytes(source) * tokens_out
    return _FIXED_BYTES + conversation_bytes + id_bytes + signal_bytes


def _counts(tokens: pa.ChunkedArray) -> np.ndarray:
    return tokens.fill_null(0).to_numpy().astype(np.int64)


def _signal_bytes(source: Source) -> int:
    """What one token of an answer has in an example beside its id."""
    metadata = {key: json.loads(value) for key, value in source.items()}
    top_k = metadata.get("top_k", 0)
    if not top_k:
        return 0
    if metadata.get("codec") == "packed":
        return codec.token_bytes(top_k, metadata["vocab_size"], metadata["packed_bits"])
    tail_bytes = _LOGPROB_BYTES
    return top_k * (_ID_BYTES + _LOGPROB_BYTES) + tail_bytes
