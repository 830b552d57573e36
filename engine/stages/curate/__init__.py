"""Stage 3, completions -> examples: keep, or drop with a reason.

Reads one file of completions at a time. Token ids and the teacher's signal go from table to table inside Arrow. Validation
answers pass through uncurated: they measure the training loss on what the teacher says, good or bad.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.progress import Context
from engine.records import EXAMPLE, Completion, Prompt, completion_schema, read_tables, to_rows, write_parquet
from engine.rundir import Counts, stage_files
from engine.spec import CurateSpec
from engine.stages.curate.filters import FILTERS, Drop, Verdict

logger = logging.getLogger(__name__)

_LIGHT = [field.name for field in completion_schema() if not pa.types.is_list(field.type)]
_CARRIED = [name for name in EXAMPLE.names if name != "messages"]
_SHARD_BYTES = 128 << 20


def run(spec: CurateSpec, inputs: dict[str, Path], out: Path, ctx: Context) -> Counts:
    """Judge every training completion. StageError if a completion belongs to no prompt."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    prompts = PromptIndex(inputs["prompts"])
    filters = _build_filters(spec)
    shards = Shards(out / "data")
    lost: dict[str, Counter[str]] = {name: Counter() for name in filters}
    unusable: Counter[str] = Counter()
    rows_in = 0
    for table in read_tables(stage_files(inputs["generate"], "data/"), columns=list(dict.fromkeys([*_LIGHT, *_CARRIED]))):
        answers = to_rows(table.select(_LIGHT), Completion)
        asked = prompts.of(table["prompt_id"].to_numpy())
        kept: dict[str, list[int]] = {"train": [], "validation": []}
        for row, (answer, prompt) in enumerate(zip(answers, asked, strict=True)):
            if answer.split == "validation":
                if answer.status == "ok":
                    kept["validation"].append(row)
                else:
                    unusable[answer.status] += 1
                continue
            rows_in += 1
            if verdict := _first_drop(answer, prompt, filters):
                lost[verdict[0]][verdict[1]] += 1
            else:
                kept["train"].append(row)
        for split, rows in kept.items():
            if rows:
                shards.add(split, _examples(table.take(rows), [asked[row] for row in rows]))
        ctx.progress.update(done=rows_in)
    files = shards.close()
    dropped = dict(sum(lost.values(), Counter()))
    if not shards.rows["train"]:
        logger.warning("curate: none of %d answers is left, dropped: %s; look at them, or relax curate", rows_in, dropped)
    info = {
        "funnel": _funnel(rows_in, lost),
        "validation_examples": shards.rows["validation"],
        "validation_unusable": dict(unusable),
    }
    return Counts(rows_in, shards.rows["train"], files, dropped, info)


class PromptIndex:
    """All prompts as one Arrow table, found by id."""

    def __init__(self, folder: Path) -> None:
        files = [file for split in ("train", "validation") for file in stage_files(folder, f"data/{split}-")]
        # Never empty: no training prompt is an error of prompts. One chunk, because `take` would join the chunks each time.
        self._table = pa.concat_tables(read_tables(files)).combine_chunks()
        ids = self._table["prompt_id"].to_numpy()
        self._order = np.argsort(ids)
        self._sorted = ids[self._order]

    def of(self, prompt_ids: np.ndarray) -> list[Prompt]:
        """Prompts of shape (n,) ids, in their order."""
        at = np.searchsorted(self._sorted, prompt_ids).clip(max=len(self._sorted) - 1)
        unknown = prompt_ids[self._sorted[at] != prompt_ids]
        if len(unknown):
            raise StageError(f"curate: {len(unknown)} completions belong to no prompt, e.g. id {unknown[0]}; make generate again")
        return to_rows(self._table.take(self._order[at]), Prompt)


class Shards:
    """Examples on their way to disk: files of about 128 MiB, one kind of file metadata in each."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._waiting: dict[tuple[str, tuple], list[pa.Table]] = {}
        self._files: dict[str, int] = {}
        self.rows = {"train": 0, "validation": 0}

    def add(self, split: str, table: pa.Table) -> None:
        self.rows[split] += len(table)
        # Teachers differ in top_k, vocabulary and tokenizer: what a file's metadata says must hold for all of its rows.
        key = (split, tuple(sorted((table.schema.metadata or {}).items())))
        tables = self._waiting.setdefault(key, [])
        tables.append(table)
        if sum(waiting.nbytes for waiting in tables) >= _SHARD_BYTES:
            self._write(split, self._waiting.pop(key))

    def close(self) -> dict[str, int]:
        """Files written, relative to the stage's folder, with their rows."""
        for (split, _), tables in self._waiting.items():
            self._write(split, tables)
        self._waiting = {}
        return self._files

    def _write(self, split: str, tables: list[pa.Table]) -> None:
        name = f"{split}-{sum(file.startswith(f'data/{split}-') for file in self._files):05d}.parquet"
        write_parquet(pa.concat_tables(tables), self._data / name)
        self._files[f"data/{name}"] = sum(map(len, tables))


Filters = dict[str, Callable[[Completion, Prompt], Verdict]]


def _build_filters(spec: CurateSpec) -> Filters:
    settings = {name: settings_of(spec) for name, (_, settings_of) in FILTERS.items()}
    return {name: functools.partial(FILTERS[name][0], **wanted) for name, wanted in settings.items() if wanted is not None}


def _first_drop(answer: Completion, prompt: Prompt, filters: Filters) -> tuple[str, str] | None:
    """(filter, reason) of the first filter that drops the answer."""
    for name, judge in filters.items():
        if isinstance(verdict := judge(answer, prompt), Drop):
            return name, verdict.reason
    return None


def _examples(table: pa.Table, prompts: list[Prompt]) -> pa.Table:
    texts = table["text"].to_pylist()
    messages = [[*p.messages, {"role": "assistant", "content": text}] for p, text in zip(prompts, texts, strict=True)]
    columns = {name: table[name].cast(EXAMPLE.field(name).type) for name in _CARRIED}
    columns["messages"] = pa.array(messages, EXAMPLE.field("messages").type)
    return pa.table([columns[name] for name in EXAMPLE.names], schema=EXAMPLE.with_metadata(table.schema.metadata))


def _funnel(rows_in: int, lost: dict[str, Counter[str]]) -> list[list[str | int]]:
    """[step, rows left] from all completions down to the examples."""
    funnel: list[list[str | int]] = [["completions", rows_in]]
    for name, reasons in lost.items():
        funnel.append([name, funnel[-1][1] - sum(reasons.values())])
    return funnel
