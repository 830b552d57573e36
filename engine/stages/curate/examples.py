"""Second pass: the answers that stay become files of examples, in canonical order.

Neighbours in that order share a bucket of bounded size. A bucket is one file for each source of its
answers, because a file's metadata says which teacher and tokenizer its rows have. Token ids and the
teacher's signal go from table to table inside Arrow, one file of completions or one bucket at a
time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from engine.rows.records import EXAMPLE
from engine.rows.tables import completed, read_tables, write_parquet
from engine.rows.tools import with_answer
from engine.run.progress import Progress
from engine.stages.curate.judging import CANONICAL, Kept, Source
from engine.stages.curate.piles import Piles, stretches
from engine.stages.curate.prompts_by_id import Prompts
from engine.store.paths import Folder

_MADE = ("messages", "tools")  # of the prompt and the answer; all else is the answer's
_CARRIED = pa.schema([column for column in EXAMPLE if column.name not in _MADE])
_READ = pa.schema([*_CARRIED, ("text", pa.string()), ("tool_calls", pa.string())])
_SPLITS = ("train", "validation")


def write_examples(
    files: Sequence[Folder],
    kept: Kept,
    prompts: Prompts,
    out: Folder,
    *,
    piles: Piles,
    bucket_bytes: int,
    progress: Progress,
) -> dict[str, int]:
    """Rows of each file written, by its name in `out`. No file has much more than `bucket_bytes` in
    memory."""
    carried = 0
    for examples, pile_of_row in _examples(files, kept, prompts, bucket_bytes):
        piles.add(examples, pile_of_row)
        carried += len(examples)
        progress.update(carried=carried)
    rows: dict[str, int] = {}
    written: Counter[str] = Counter()
    for pile in piles.numbers():
        examples = piles.take(pile).sort_by(CANONICAL)
        split = examples["split"][0].as_py()
        name = f"data/{split}-{written[split]:05d}.parquet"
        write_parquet(examples, out / name)
        written[split] += 1
        rows[name] = len(examples)
        progress.update(written=sum(rows.values()))
    return rows


def _examples(
    files: Sequence[Folder], kept: Kept, prompts: Prompts, bucket_bytes: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The examples of each file of completions, and the number of each one's pile: by bucket, and
    in a bucket by source."""
    file_of_row = kept.rows["file"].to_numpy()
    row_in_file = kept.rows["row"].to_numpy()
    buckets = _buckets(kept.rows, bucket_bytes)
    source_rank = _source_ranks(kept.sources)[file_of_row]
    piles = buckets * len(files) + source_rank
    by_file = np.argsort(file_of_row, kind="stable")
    rows_of_file = {}
    for file, start, end in stretches(file_of_row[by_file]):
        rows_of_file[file] = by_file[start:end]
    wanted = [files[file] for file in rows_of_file]
    tables = read_tables(wanted, _READ.names, optional=["tool_calls"])
    for (file, rows), table in zip(rows_of_file.items(), tables, strict=True):
        answers = completed(table.take(row_in_file[rows]), _READ)
        examples = _build_examples(answers, prompts, kept.sources[file])
        yield examples, piles[rows]


def _source_ranks(sources: Sequence[Source]) -> np.ndarray:
    """The place of each file's source among all of them: equal for equal metadata, and the same
    whatever the order of the files."""
    spelled = [str(sorted(source.items())) for source in sources]
    _, ranks = np.unique(spelled, return_inverse=True)
    return ranks


def _buckets(kept: pa.Table, bucket_bytes: int) -> np.ndarray:
    """The bucket of each row: neighbours of one split that fit together, all of train before
    validation."""
    splits = kept["split"].to_numpy()
    row_bytes = kept["bytes"].to_numpy()
    buckets = np.zeros(len(kept), np.int64)
    first = 0
    for split in _SPLITS:
        rows = np.flatnonzero(splits == split)
        bytes_before = np.cumsum(row_bytes[rows]) - row_bytes[rows]
        buckets[rows] = first + bytes_before // bucket_bytes
        first = buckets.max(initial=-1) + 1
    return buckets


def _build_examples(answers: pa.Table, prompts: Prompts, source: Source) -> pa.Table:
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
    examples = examples.select(EXAMPLE.names)
    metadata = dict(sorted(source.items()))
    return examples.replace_schema_metadata(metadata)
