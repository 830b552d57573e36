"""Third pass: the answers that stay become files of examples, in canonical order, and of every
answer the verdict is written.

Neighbours in that order share a bucket of bounded size. A bucket is one file for each source of its
answers, because a file's metadata says which teacher and tokenizer its rows have. Two steps, each
many tasks: what stays of a file of completions is spilled, a batch for each pile (a bucket of one
source); then each pile is read from all spills, sorted and written. Token ids and the teacher's
signal go from table to table inside Arrow, one file of completions or one pile at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.curation.ledger import is_left_in
from engine.rows.records import COMPLETION_KEY, COMPLETION_VERDICT, EXAMPLE
from engine.rows.tables import completed, read_tables
from engine.rows.tools import with_answer
from engine.stages.curate.groups import Group
from engine.stages.curate.judging import Source
from engine.stages.curate.making import Made, publish_bytes, publish_table
from engine.stages.curate.narrow import CANONICAL
from engine.stages.curate.prompts_by_id import Prompts, in_slices
from engine.stages.curate.redaction import UNSIGNED, Kinds, without_pii
from engine.store.paths import Folder

NO_PILE = -1  # of an answer that goes
_MADE = ("messages", "tools")  # of the prompt and the answer; all else is the answer's
_CARRIED = pa.schema([column for column in EXAMPLE if column.name not in _MADE])
_READ = pa.schema([*_CARRIED, ("text", pa.string()), ("tool_calls", pa.string())])
_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Spilling:
    """What it takes to spill any group; `kinds` of personal data are redacted."""

    prompts: Prompts
    out: Folder
    kinds: Kinds = None


@dataclass(frozen=True)
class Settled:
    """A group of files, and what was decided of its answers, row by row in their order."""

    group: Group
    decisions: pa.Table

    @property
    def name(self) -> str:
        return self.group.name


@dataclass(frozen=True)
class Pile:
    """Examples that become one file: (number of a file of completions, number of its batch)."""

    name: str
    split: str
    batches: tuple[tuple[int, int], ...]
    source: Source
    out: Folder
    sampled: pa.Table  # keys of examples whose answers are told


def piles_of(decided: pa.Table, sources: Sequence[Source], bucket_bytes: int) -> np.ndarray:
    """The pile of each answer, NO_PILE of those that go. `decided` has split, reason, bytes, file
    and is_redacted, in canonical order; `sources` are two for each file, of its answers as they
    are and redacted. Piles rise with the split, the bucket, and the source, which counts by what it
    says, not by its file."""
    spelled = [str(sorted(source.items())) for source in sources]
    _, ranks = np.unique(spelled, return_inverse=True)
    kinds = len(sources) + 1
    stays = np.flatnonzero(is_left_in(decided))
    splits = decided["split"].take(stays).to_numpy(zero_copy_only=False)
    row_bytes = decided["bytes"].to_numpy()[stays]
    source = _source_numbers(decided)[stays]
    piles = np.full(len(decided), NO_PILE, np.int64)
    first = 0
    for split in _SPLITS:
        mine = np.flatnonzero(splits == split)
        bytes_before = np.cumsum(row_bytes[mine]) - row_bytes[mine]
        buckets = first + bytes_before // bucket_bytes
        piles[stays[mine]] = buckets * kinds + ranks[source[mine]]
        first = buckets.max(initial=first - 1) + 1
    return piles


def _source_numbers(decided: pa.Table) -> np.ndarray:
    """Of each answer, its place among all sources."""
    return 2 * decided["file"].to_numpy().astype(np.int64) + decided["is_redacted"].to_numpy()


def both_sources(source: Source) -> list[Source]:
    """What a file of examples says of itself: as the teacher's file, and where they are
    redacted."""
    return [source, source | UNSIGNED]


def list_piles(
    decided: pa.Table, sources: Sequence[Source], out: Folder, sampled: np.ndarray
) -> list[Pile]:
    """The files that will be written, in order; the answers of the rows `sampled` are told."""
    piles = decided["pile"].to_numpy()
    stays = np.flatnonzero(piles != NO_PILE)
    file = decided["file"].to_numpy()[stays]
    source = _source_numbers(decided)[stays]
    # one batch of each pile in each file's spill, in the order of piles
    pairs, firsts = np.unique(np.stack([file, piles[stays]], 1), axis=0, return_index=True)
    spilled: Counter[int] = Counter()
    batches: dict[int, list[tuple[int, int]]] = {}
    first_row: dict[int, int] = {}
    for (number, pile), first in zip(pairs.tolist(), firsts.tolist(), strict=True):
        batches.setdefault(pile, []).append((number, spilled[number]))
        first_row.setdefault(pile, first)
        spilled[number] += 1
    written: Counter[str] = Counter()
    listed = []
    splits = decided["split"].take(stays)
    for pile in sorted(batches):
        row = first_row[pile]
        split = splits[row].as_py()
        name = f"{split}-{written[split]:05d}"
        written[split] += 1
        mine = sampled[piles[sampled] == pile]
        keys = decided.select(COMPLETION_KEY).take(mine)
        told = sources[source[row]]
        listed.append(Pile(name, split, tuple(batches[pile]), told, out, keys))
    return listed


def settle_group(plan: Spilling, order: Settled) -> Made:
    """Write the verdicts of a group, and spill its examples."""
    name = f"verdicts/{order.name}.parquet"
    (judged,) = read_tables([plan.out / f"work/judged/{order.name}.parquet"])
    files = {name: publish_table(_verdicts(judged, order.decisions), plan.out, name)}
    examples = 0
    pile_of_row = order.decisions["pile"].to_numpy()
    file_of_row = order.decisions["file"].to_numpy()
    for number, file in enumerate(order.group.files, order.group.first):
        mine = np.flatnonzero((file_of_row == number) & (pile_of_row != NO_PILE))
        if not len(mine):
            continue
        mine = mine[np.argsort(pile_of_row[mine], kind="stable")]
        kept = order.decisions.take(mine)
        name = _spill(number)
        data = _batches(plan, file, kept)
        files[name] = publish_bytes(data, len(mine), plan.out, name)
        examples += len(mine)
    return Made(files=files, told={"examples": examples})


def _spill(number: int) -> str:
    return f"work/spill/{number:06d}.arrow"


def _verdicts(judged: pa.Table, decisions: pa.Table) -> pa.Table:
    """What was judged of a group's answers, and then decided."""
    columns = []
    for column in COMPLETION_VERDICT:
        for table in (decisions, judged):
            if column.name in table.column_names:
                columns.append(table[column.name].cast(column.type))
                break
        else:
            columns.append(pa.nulls(len(judged), column.type))
    return pa.Table.from_arrays(columns, schema=COMPLETION_VERDICT)


def _batches(plan: Spilling, file: Folder, kept: pa.Table) -> pa.Buffer:
    """The examples of a file, a batch for each pile, in the order of `kept`."""
    (stored,) = read_tables([file], _READ.names, optional=["tool_calls"])
    answers = completed(stored.take(kept["row"]), _READ)
    is_redacted = kept["is_redacted"].to_numpy()
    built = []
    start = 0
    for some in in_slices(answers):
        examples = _build_examples(some, plan.prompts)
        told = is_redacted[start : start + len(some)]
        start += len(some)
        built.append(_redacted_where(examples, told, plan.kinds))
    examples = pa.concat_tables(built).combine_chunks()
    piles = kept["pile"].to_numpy()
    borders = [0, *(np.flatnonzero(np.diff(piles)) + 1).tolist(), len(piles)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, EXAMPLE) as spill:
        for first, end in pairwise(borders):
            (batch,) = examples.slice(first, end - first).to_batches()
            spill.write_batch(batch)
    return sink.getvalue()


def _redacted_where(examples: pa.Table, where: np.ndarray, kinds: Kinds) -> pa.Table:
    if not where.any():
        return examples
    rows = np.arange(len(examples))
    order = np.concatenate([rows[where], rows[~where]])
    redacted = without_pii(examples.take(rows[where]), kinds)
    together = pa.concat_tables([redacted, examples.take(rows[~where])])
    return together.take(np.argsort(order))


def _build_examples(answers: pa.Table, prompts: Prompts) -> pa.Table:
    conversations, tools = prompts.conversations(answers)
    texts = answers["text"].to_pylist()
    calls = answers["tool_calls"].to_pylist()
    for at, messages in enumerate(conversations):
        tools[at] = with_answer(tools[at], len(messages), calls[at])
        messages.append({"role": "assistant", "content": texts[at]})
    examples = answers.select(_CARRIED.names).cast(_CARRIED)
    for name, values in zip(_MADE, (conversations, tools), strict=True):
        column = EXAMPLE.field(name)
        examples = examples.append_column(column, pa.array(values, column.type))
    return examples.select(EXAMPLE.names).replace_schema_metadata()


def write_pile(order: Pile) -> Made:
    """Write a file of examples."""
    batches = []
    for number, batch in order.batches:
        with _opened(order.out / _spill(number)) as spill:
            batches.append(spill.get_batch(batch))
    examples = pa.Table.from_batches(batches).sort_by(CANONICAL)
    metadata = dict(sorted(order.source.items()))
    name = f"data/{order.name}.parquet"
    table = examples.combine_chunks().replace_schema_metadata(metadata)
    answers = _answers_of(order.sampled, table) if len(order.sampled) else []
    files = {name: publish_table(table, order.out, name)}
    return Made(files=files, told={"written": len(table), "answers": answers})


def _answers_of(keys: pa.Table, examples: pa.Table) -> list[str]:
    """What these examples answer."""
    rows = examples.select(COMPLETION_KEY).append_column("row", pa.array(np.arange(len(examples))))
    found = keys.join(rows, list(COMPLETION_KEY))["row"]
    wanted = examples["messages"].take(found.sort())
    return [messages[-1]["content"] for messages in wanted.to_pylist()]


@contextmanager
def _opened(path: Folder) -> Generator[pa.ipc.RecordBatchFileReader]:
    if isinstance(path, Path):
        with pa.memory_map(str(path)) as file:
            yield pa.ipc.open_file(file)
        return
    with path.open("rb") as file:
        yield pa.ipc.open_file(file)
