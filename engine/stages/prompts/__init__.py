"""Stage 1, source files -> prompts: normalised, with stable ids, de-duplicated, split and sharded.

Every good line is kept, every other one counted by reason. The stage writes prompts only; it asks
no model anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa

from engine.errors import InputError
from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.final_answer import USUAL, Rules, is_compared, is_readable
from engine.rows.ids import derive_seed
from engine.rows.records import PROMPT, Prompt
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import PromptsInfo
from engine.run.manifests import Counts, Finished
from engine.stages.prompts.ledger import Ledger
from engine.stages.prompts.readers import read_rows, require_one_schema, source_files
from engine.stages.prompts.rows import UNLEARNT, columns_of, columns_read, prompt_of
from engine.stages.prompts.source_row import BadRow

# in the order of reading: a prompt that is in both stays in validation
_SPLITS = ("validation", "train")
_HEAD_FILES = 8  # per split: a folder may hold thousands
_HEAD_ROWS = 200
_SHOWN_FILES = 5
_SHOWN_CHARACTERS = 40
_QUARANTINE = "data/quarantine.parquet"
# What to do about references that a task cannot read.
_REMEDIES = {
    "math": "give a number, an expression or a solution that ends in one",
    "nli": "name what the labels mean in prompts.fields.labels",
    "qa": "longer than six words; set curate.verify.qa, or it is not checked",
}


def run(spec: PromptsSpec, inputs: Mapping[str, Finished], out: Path, ctx: Context) -> Counts:
    """Read all sources once. InputError: nothing usable, contradictory rows, or (`ctx.strict`) any
    bad line."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    skipped: list[Path] = []
    sources = {split: source_files(spec, split, skipped) for split in _SPLITS}
    for paths in sources.values():
        require_one_schema(paths)
    intake = _Intake(spec, ctx, out)
    for split, paths in sources.items():
        for path in paths:
            for line, prompt in read_prompts(path, spec, ctx.task, split):
                intake.add(prompt, path, line)
    intake.write_rest()
    kept = {split: _rows_of(intake.files, split) for split in ("train", "validation")}
    warnings = []
    if intake.quarantine:
        warnings.append(_quarantine(intake, out, ctx))
    warnings += _doubts(intake, spec) + _empty_splits(kept, intake, spec)
    info = PromptsInfo(
        train=kept["train"],
        validation=kept["validation"],
        labels=spec.fields.labels,
        warnings=warnings,
    )
    if skipped:
        info = info.model_copy(update={"skipped_files": sorted(set(map(str, skipped)))})
    return Counts(intake.rows_in, sum(kept.values()), intake.files, intake.dropped, info)


class _Intake:
    """What became of the rows read so far. A shard is written as soon as it is full."""

    def __init__(self, spec: PromptsSpec, ctx: Context, out: Path) -> None:
        self._spec = spec
        self._ctx = ctx
        self._out = out
        self._ledger = Ledger(spec)
        self._waiting: dict[str, list[Prompt]] = {"train": [], "validation": []}
        self.files: dict[str, int] = {}
        self.quarantine: list[dict[str, str | int]] = []  # places and reasons, never the content
        self.dropped: Counter[str] = Counter()
        self.rows_in = 0
        self.several = 0  # rows of several right answers
        self.unlearnt = 0  # rows with answers that are not to be learnt

    def add(self, prompt: Prompt | BadRow, path: Path, line: int) -> None:
        """One row, or what is wrong with it."""
        self.rows_in += 1
        if self.rows_in % 1000 == 0:
            self._ctx.progress.update(done=self.rows_in)
        if isinstance(prompt, BadRow):
            self.quarantine.append({"file": str(path), "line": line, "reason": str(prompt)})
        elif reason := self._ledger.reason_to_drop(prompt, path, line):
            self.dropped[reason] += 1
        else:
            self._keep(prompt)

    def _keep(self, prompt: Prompt) -> None:
        self.several += len(prompt.references) > 1
        self.unlearnt += UNLEARNT in prompt.meta
        split = _split_of(prompt, self._spec, self._ctx.seed)
        prompts = self._waiting[split]
        prompts.append(replace(prompt, split=split))
        if len(prompts) == self._spec.shard_rows:
            self._write_shard(split)

    def write_rest(self) -> None:
        """Write the shards that are not full."""
        for split, prompts in self._waiting.items():
            if prompts:
                self._write_shard(split)

    def _write_shard(self, split: str) -> None:
        prompts = self._waiting[split]
        number = sum(split in name for name in self.files)
        name = f"data/{split}-{number:05d}.parquet"
        write_parquet(to_table(prompts, PROMPT), self._out / name)
        self.files[name] = len(prompts)
        prompts.clear()


def _rows_of(files: dict[str, int], split: str) -> int:
    return sum(rows for name, rows in files.items() if split in name)


def _quarantine(intake: _Intake, out: Path, ctx: Context) -> str:
    """Write the lines that give no prompt, and warn of them. InputError in a strict run."""
    rows = intake.quarantine
    path = out / _QUARANTINE
    write_parquet(pa.Table.from_pylist(rows), path)
    intake.files[_QUARANTINE] = len(rows)
    reasons = Counter(str(row["reason"]) for row in rows)
    intake.dropped += reasons
    message = (
        f"{len(rows)} of {intake.rows_in} lines went to quarantine ({_listed(reasons)}): {path}"
    )
    if ctx.strict:
        first = "{file}:{line}: {reason}".format(**rows[0])
        raise InputError(
            f"prompts: {message}; correct them (first {first}), or run without --strict to"
            " leave them out"
        )
    return f"{message}; --strict makes this an error"


def _doubts(intake: _Intake, spec: PromptsSpec) -> list[str]:
    """What is usable, but may not be meant."""
    warnings = []
    if intake.several:
        warnings.append(
            f"{intake.several:,} rows have several right answers in {spec.fields.reference!r}; each"
            " of them counts"
        )
    if intake.unlearnt:
        warnings.append(
            f"{intake.unlearnt:,} conversations hold answers of weight 0, which only"
            " train.learn_turns: all would learn; leave it at `last`"
        )
    return warnings


def _empty_splits(kept: dict[str, int], intake: _Intake, spec: PromptsSpec) -> list[str]:
    """Warnings of a split without a prompt. InputError where the job needs it or names its
    files."""
    warnings = []
    dropped = _listed(intake.dropped)
    for split, rows in kept.items():
        if rows:
            continue
        message = f"none of {intake.rows_in} rows is a {split} prompt (dropped: {dropped})"
        if split == "train" or spec.validation:
            raise InputError(
                f"prompts.{split}: {message}; correct the files, or map their columns in"
                " prompts.fields"
            )
        warnings.append(
            f"{message}, so evaluate has nothing to score; raise prompts.validation_fraction"
        )
    return warnings


@dataclass(frozen=True)
class Head:
    """What the first rows of a source file give, each with its line, and the columns that no prompt
    reads."""

    path: Path
    good: list[tuple[int, Prompt]]
    bad: list[tuple[int, str]]  # reasons
    unread: list[str]

    def line(self, task: str, rules: Rules = USUAL, *, used: Collection[str] = ()) -> str:
        """What becomes of the rows in one sentence; columns that something else than the prompt
        uses are `used`."""
        rows = len(self.good) + len(self.bad)
        made = f"{len(self.good)} of its first {rows} rows become prompts"
        if self.bad:
            reasons = Counter(reason for _, reason in self.bad)
            made += f" ({_listed(reasons)})"
        told = [made, self._references(task, rules)]
        unread = [name for name in self.unread if name not in used]
        if unread:
            told.append(f"not used: {', '.join(unread)}")
        return f"{self.path}: {'; '.join(told)}"

    def _references(self, task: str, rules: Rules) -> str:
        """How many there are, and how many the task can compare; where it cannot, the first and
        what to do."""
        given = [(line, prompt.right_answers) for line, prompt in self.good if prompt.right_answers]
        unreadable = []
        for line, answers in given:
            if is_compared(task) and not any(is_readable(task, one, rules) for one in answers):
                unreadable.append((line, answers[0]))
        readable = len(given) - len(unreadable)
        sentence = f"{len(given)} have a reference, of which task {task} can read {readable}"
        if unreadable:
            line, first = unreadable[0]
            shown = first if len(first) <= _SHOWN_CHARACTERS else f"{first[:_SHOWN_CHARACTERS]}…"
            sentence += f" (not line {line}: {shown!r}; {_REMEDIES[task]})"
        return sentence


def heads(spec: PromptsSpec, split: str) -> list[Head]:
    """The head of each file of a split. InputError where the files of a source cannot be read
    together."""
    files = source_files(spec, split, [])[:_HEAD_FILES]
    require_one_schema(files)
    rows_read = min(_HEAD_ROWS, spec.limit or _HEAD_ROWS)
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
    for name in columns_read(spec) | {UNLEARNT}:
        unread.pop(name, None)
    return Head(path, good, bad, list(unread))


def head_problems(spec: PromptsSpec) -> list[str]:
    """What is wrong with the sources, as far as their first rows tell; each message has place and
    remedy."""
    problems: list[str] = []
    prompts: list[Prompt] = []
    ledger = Ledger(spec)
    for split in _SPLITS:
        try:
            for head in heads(spec, split):
                for line, prompt in head.good:
                    ledger.reason_to_drop(prompt, head.path, line)
                    prompts.append(prompt)
                if not head.good:
                    problems.append(_nothing_usable(head, spec))
        except InputError as error:
            problems.append(str(error))
    if not problems and _lacks_mapped_reference(prompts, spec):
        problems.append(
            f"prompts.fields.reference: no row has a {spec.fields.reference!r}; correct the name"
            " of the column"
        )
    return problems


def _nothing_usable(head: Head, spec: PromptsSpec) -> str:
    line, reason = 1, "no rows"
    if head.bad:
        line, reason = head.bad[0]
    return (
        f"{head.path}:{line}: {reason}, and none of the first {_HEAD_ROWS} rows can"
        " be used; correct the file, or map"
        f" its columns in prompts.fields (now {spec.fields.prompt!r} or"
        f" {spec.fields.messages!r}){_found_columns(head.path, spec)}"
    )


def _lacks_mapped_reference(prompts: list[Prompt], spec: PromptsSpec) -> bool:
    """No row has what the job names; that the usual name is missing is no fault."""
    if spec.fields.reference == FieldMap().reference:
        return False
    return all(prompt.reference is None for prompt in prompts)


def holds_unlearnt(spec: PromptsSpec) -> bool:
    """Whether the first rows hold answers inside a conversation that are marked as not to be
    learnt; what cannot be read holds none."""
    with suppress(InputError):
        for split in _SPLITS:
            for head in heads(spec, split):
                if any(UNLEARNT in prompt.meta for _, prompt in head.good):
                    return True
    return False


def head_lines(
    spec: PromptsSpec, task: str, used: Collection[str], rules: Rules = USUAL
) -> list[str]:
    """A sentence per source file: what its first rows become, which references the task can read,
    and which columns nothing reads."""
    lines = []
    skipped: list[Path] = []
    more = 0
    for split in _SPLITS:
        for head in heads(spec, split):
            lines.append(head.line(task, rules, used=used))
        files = source_files(spec, split, skipped)
        more += max(0, len(files) - _HEAD_FILES)
    if more:
        lines.append(f"{more:,} more files were not looked at")
    if skipped:
        shown = ", ".join(map(str, skipped[:_SHOWN_FILES]))
        if len(skipped) > _SHOWN_FILES:
            shown += ", …"
        lines.append(f"{len(skipped):,} other files in these folders are not read: {shown}")
    return lines


def read_prompts(
    path: Path, spec: PromptsSpec, task: str, split: str
) -> Iterator[tuple[int, Prompt | BadRow]]:
    """The prompts of one file with their lines (rows of Parquet count from 1), and a BadRow for
    every line that gives none."""
    for line, row in islice(read_rows(path), spec.limit):
        try:
            columns = columns_of(row, spec.fields.prompt)
            prompt = prompt_of(columns, path, line, spec, task, split)
        except BadRow as bad:
            yield line, bad
        except UnicodeError:
            # also a lone surrogate: `\ud800` in JSON, or a byte of a CSV file that is not UTF-8
            yield line, BadRow("invalid_utf8")
        except (ValueError, RecursionError):  # not JSON, or a number too long for Python
            yield line, BadRow("broken_json")
        else:
            yield line, prompt


def _found_columns(path: Path, spec: PromptsSpec) -> str:
    """The columns of a file's first row that can be read, as the end of a sentence."""
    for _, row in islice(read_rows(path), _HEAD_ROWS):
        try:
            columns = columns_of(row)
            return f"; columns found: {', '.join(map(repr, columns))}"
        except (BadRow, ValueError, RecursionError):
            continue
    return ""


def _split_of(prompt: Prompt, spec: PromptsSpec, seed: int) -> str:
    """Without validation files the prompt alone decides, so that neither order nor number of rows
    moves it."""
    if spec.validation:
        return prompt.split
    drawn = derive_seed(seed, "validation", prompt.prompt_id)
    if drawn < spec.validation_fraction * 2**31:
        return "validation"
    return "train"


def _listed(counts: Counter[str]) -> str:
    ordered = sorted(counts.items())
    return ", ".join(f"{reason} {count}" for reason, count in ordered) or "none"
