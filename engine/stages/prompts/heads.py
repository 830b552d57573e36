"""What the first rows of the source files tell before anything runs: which are usable, which
columns nothing reads, whether tools are offered. head_lines.py says it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engine.errors import InputError
from engine.job.spec import PromptsSpec
from engine.rows.records import Prompt
from engine.rows.slots import SLOTS
from engine.rows.sources.columns import columns_of
from engine.rows.sources.readers import read_rows, require_one_schema
from engine.rows.sources.source_row import BadRow
from engine.rows.tools import Conversation
from engine.stages.prompts.dialogue import USUAL_NAMES, columns_read
from engine.stages.prompts.ledger import Ledger, entry_of
from engine.stages.prompts.reading import (
    SPLITS,
    files_of,
    read_prompts,
    split_problem,
    texts_of_files,
    value_of,
)
from engine.stages.prompts.rows import DIALOGUE, UNLEARNT

HEAD_FILES = 8  # per split: a folder may hold thousands
HEAD_ROWS = 200


@dataclass(frozen=True)
class Head:
    """What the first rows of a source file give, each with its line, and the columns that no prompt
    reads."""

    path: Path
    good: list[tuple[int, Prompt]]
    bad: list[tuple[int, str]]  # reasons
    unread: list[str]


def heads(spec: PromptsSpec, split: str) -> list[Head]:
    """The head of each file of a split. InputError where the files of a source cannot be read
    together."""
    files = files_of(spec, split, [])[:HEAD_FILES]
    require_one_schema(files)
    rows_read = min(HEAD_ROWS, spec.limit or HEAD_ROWS)
    of_head = spec.model_copy(update={"limit": rows_read})
    return [_head(path, of_head, split) for path in files]


def _head(path: Path, spec: PromptsSpec, split: str) -> Head:
    good: list[tuple[int, Prompt]] = []
    bad: list[tuple[int, str]] = []
    unread: dict[str, None] = {}  # in their order
    for line, prompt in read_prompts(path, spec, "", split):
        if isinstance(prompt, BadRow):
            bad.append((line, str(prompt)))
        else:
            good.append((line, prompt))
            unread |= dict.fromkeys(json.loads(prompt.meta))
    for name in columns_read(spec) | {UNLEARNT, DIALOGUE, *SLOTS, spec.split_column}:
        unread.pop(name, None)
    return Head(path, good, bad, list(unread))


def head_problems(spec: PromptsSpec) -> list[str]:
    """What is wrong with the sources, as far as their first rows tell; each message has place and
    remedy."""
    problems: list[str] = []
    prompts: list[Prompt] = []
    ledger = Ledger(spec)
    for split in SPLITS:
        try:
            for head in heads(spec, split):
                for line, prompt in head.good:
                    ledger.reason_to_drop(entry_of(prompt, line), head.path)
                    prompts.append(prompt)
                if not head.good:
                    problems.append(_nothing_usable(head, spec))
        except InputError as error:
            problems.append(str(error))
    problems += _named_problems(spec, prompts)
    if not problems and _lacks_mapped_reference(prompts, spec):
        problems.append(
            f"prompts.fields.reference: no row has a {spec.fields.reference!r}; correct the name"
            " of the column"
        )
    return problems


def _named_problems(spec: PromptsSpec, prompts: list[Prompt]) -> Iterator[str]:
    """What is wrong with files of test data, and with the column of `split_by`."""
    try:
        texts_of_files(spec, HEAD_ROWS)
    except InputError as error:
        yield str(error)
    if spec.split_column is not None:
        values = [value_of(prompt, spec.split_column) for prompt in prompts]
        problem = split_problem(spec, values.count(None), len(values), "of the first")
        if problem:
            yield problem


def _nothing_usable(head: Head, spec: PromptsSpec) -> str:
    line, reason = 1, "no rows"
    if head.bad:
        line, reason = head.bad[0]
    return (
        f"{head.path}:{line}: {reason}, and none of the first {HEAD_ROWS} rows can"
        " be used; correct the file, or map"
        f" its columns in prompts.fields (now {spec.fields.prompt!r} or"
        f" {spec.fields.messages!r}){_found_columns(head.path, spec)}"
    )


def _lacks_mapped_reference(prompts: list[Prompt], spec: PromptsSpec) -> bool:
    """No row has what the job names; that the usual name is missing is no fault."""
    if spec.fields.reference == USUAL_NAMES.reference:
        return False
    return all(prompt.reference is None for prompt in prompts)


def holds_unlearnt(spec: PromptsSpec) -> bool:
    """Whether the first rows hold answers inside a conversation that are marked as not to be
    learnt; what cannot be read holds none."""
    with suppress(InputError):
        for split in SPLITS:
            for head in heads(spec, split):
                if any(UNLEARNT in prompt.meta for _, prompt in head.good):
                    return True
    return False


def first_with_tools(spec: PromptsSpec) -> Conversation | None:
    """The first conversation that has to do with tools, as far as the first rows tell."""
    with suppress(InputError):
        for split in SPLITS:
            for head in heads(spec, split):
                for _, prompt in head.good:
                    if prompt.tools is not None:
                        return prompt.conversation
    return None


def _found_columns(path: Path, spec: PromptsSpec) -> str:
    """The columns of a file's first row that can be read, as the end of a sentence."""
    for _, row in islice(read_rows(path), HEAD_ROWS):
        try:
            columns = columns_of(row)
            return f"; columns found: {', '.join(map(repr, columns))}"
        except (BadRow, ValueError, RecursionError):
            continue
    return ""
