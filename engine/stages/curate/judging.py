"""First pass: every answer is judged by its light columns, in canonical order.

Canonical order is that of (prompt_id, teacher, sample_index), a key that each answer has for
itself. So a filter that remembers what it saw does not depend on how answers lie in files. Texts
may outgrow memory, hence the piles: each holds the answers to neighbouring prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from engine.job.spec import CurateSpec
from engine.rows import codec
from engine.rows.records import Completion, Prompt, completion_schema
from engine.rows.tables import completed, read_tables, to_rows
from engine.run.progress import Progress
from engine.stages.curate.filters import FILTERS, Drop, Verdict
from engine.stages.curate.piles import Piles
from engine.stages.curate.prompts_by_id import Prompts, text_bytes
from engine.stages.curate.referee import Referee
from engine.store.paths import Folder

CANONICAL = [
    ("prompt_id", "ascending"),
    ("teacher", "ascending"),
    ("sample_index", "ascending"),
]
PILE_PROMPTS = 1024  # a pile is read whole: 64 long answers to each prompt are a few hundred MB
_JUDGED_ROWS = 1024  # at a time: as Python's objects they take several times the room
_KEPT = pa.schema(
    [
        ("split", pa.string()),
        ("file", pa.int64()),
        ("row", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
# of an example in memory
_FIXED_BYTES = 128
_ID_BYTES = 4
_LOGPROB_BYTES = 4

Rule = Callable[[Completion, Prompt], Verdict]
Source = dict[bytes, bytes]  # a file's metadata as it is stored; one teacher answered all its rows


def _is_heavy(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_binary(kind)


_LIGHT = pa.schema([column for column in completion_schema() if not _is_heavy(column.type)])
_NEWER = ("tool_calls",)  # which files of an older version lack


@dataclass
class Judge:
    """Says which answers stay, and counts: training answers, those lost by filter and reason, and
    validation answers that nobody can use by status."""

    filters: Mapping[str, Rule]
    referee: Referee
    usable: Sequence[str]
    lost: dict[str, Counter[str]] = field(default_factory=dict)
    unusable: Counter[str] = field(default_factory=Counter)
    rows_in: int = 0

    def __post_init__(self) -> None:
        for name in self.filters:
            self.lost[name] = Counter()

    def study(self, answers: Sequence[Completion], prompts: Sequence[Prompt]) -> None:
        """Look at a slice of answers together before each is judged."""
        pairs = []
        for answer, prompt in zip(answers, prompts, strict=True):
            if answer.split == "train" and answer.status in self.usable:
                pairs.append((answer, prompt))
        if pairs and "reference" in self.filters:
            self.referee.study(*zip(*pairs, strict=True))

    def keeps(self, answer: Completion, prompt: Prompt) -> bool:
        """The filters judge training answers only."""
        if answer.split != "train":
            return self._is_usable(answer)
        self.rows_in += 1
        for name, rule in self.filters.items():
            verdict = rule(answer, prompt)
            if isinstance(verdict, Drop):
                self.lost[name][verdict.reason] += 1
                return False
        return True

    def _is_usable(self, answer: Completion) -> bool:
        if answer.status in self.usable:
            return True
        self.unusable[answer.status] += 1
        return False


def build_judge(spec: CurateSpec, referee: Referee) -> Judge:
    """A judge with the filters that the spec asks for."""
    filters: dict[str, Rule] = {}
    for name, (rule, settings_of) in FILTERS.items():
        settings = settings_of(spec, referee)
        if settings is not None:
            filters[name] = partial(rule, **settings)
    usable = ["ok"]
    if spec.keep_truncated:
        usable.append("truncated")
    return Judge(filters, referee, usable)


@dataclass(frozen=True)
class Kept:
    """The answers that stay, in canonical order: split, number of the file, row in it, and bytes of
    the example in memory. `sources` has the metadata of each file."""

    rows: pa.Table
    sources: list[Source]


def judge_answers(
    files: Iterable[Folder], prompts: Prompts, judge: Judge, piles: Piles, progress: Progress
) -> Kept:
    """Judge every answer once."""
    sources = _lay_out(files, prompts, piles)
    kept = [_KEPT.empty_table()]
    for answers in _in_canonical_order(piles):
        rows = to_rows(answers, Completion)
        asked = prompts.of(answers)
        judge.study(rows, asked)
        stays = list(map(judge.keeps, rows, asked))
        stay = answers.filter(pa.array(stays))
        kept.append(stay.select(_KEPT.names))
        progress.update(done=judge.rows_in)
    return Kept(pa.concat_tables(kept).combine_chunks(), sources)


def _lay_out(files: Iterable[Folder], prompts: Prompts, piles: Piles) -> list[Source]:
    """Lay all answers on piles by prompt; gives the metadata of each file."""
    sources = []
    for number, stored in enumerate(read_tables(files, _LIGHT.names, optional=_NEWER)):
        source: Source = stored.schema.metadata or {}
        sources.append(source)
        answers = completed(stored, _LIGHT)
        places = prompts.places(answers)
        columns = {
            "file": np.full(len(answers), number),
            "row": np.arange(len(answers)),
            "bytes": _example_bytes(answers, prompts.message_bytes[places], source),
        }
        placed = answers.replace_schema_metadata()  # it differs from teacher to teacher
        for name, values in columns.items():
            placed = placed.append_column(name, pa.array(values))
        piles.add(placed, places // PILE_PROMPTS)
    return sources


def _in_canonical_order(piles: Piles) -> Iterator[pa.Table]:
    for number in piles.numbers():
        pile = piles.take(number).sort_by(CANONICAL)
        for start in range(0, len(pile), _JUDGED_ROWS):
            yield pile.slice(start, _JUDGED_ROWS)


def _example_bytes(answers: pa.Table, message_bytes: np.ndarray, source: Source) -> np.ndarray:
    """About what the example of each answer takes in memory. An API that counts no tokens gives no
    ids and no signal either."""
    tokens_in = _counts(answers["prompt_tokens"])
    tokens_out = _counts(answers["completion_tokens"])
    said_bytes = text_bytes(answers["text"]) + text_bytes(answers["tool_calls"])
    conversation_bytes = message_bytes + said_bytes
    id_bytes = _ID_BYTES * (tokens_in + tokens_out)
    signal_bytes = _signal_bytes(source) * tokens_out
    return _FIXED_BYTES + conversation_bytes + id_bytes + signal_bytes


def _counts(tokens: pa.ChunkedArray) -> np.ndarray:
    return tokens.fill_null(0).to_numpy().astype(np.int64)


def _signal_bytes(source: Source) -> int:
    """What one token of an answer has in an example beside its id."""
    metadata = {key.decode(): json.loads(value) for key, value in source.items()}
    top_k = metadata.get("top_k", 0)
    if not top_k:
        return 0
    if metadata.get("codec") == "packed":
        return codec.token_bytes(top_k, metadata["vocab_size"], metadata["packed_bits"])
    tail_bytes = _LOGPROB_BYTES
    return top_k * (_ID_BYTES + _LOGPROB_BYTES) + tail_bytes
