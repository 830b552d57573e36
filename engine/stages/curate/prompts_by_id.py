"""The prompts of a run, to be looked up by id: ids are in memory, conversations only those of the
files that were asked for last."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import StageError
from engine.rows.records import PROMPT, Messages, Prompt
from engine.rows.tables import completed, read_tables, to_rows
from engine.run.manifests import Finished
from engine.store.paths import Folder

_HELD_FILES = 16  # of prompts, in memory; answers that lie together are to neighbouring prompts
_LOOKED_UP = 4096  # answers whose prompts are gathered at a time


@dataclass(frozen=True)
class Prompts:
    """The files of all prompts. A value: whoever is handed one finds the same in them."""

    files: tuple[Folder, ...]

    def of(self, answers: pa.Table) -> list[Prompt]:
        """The prompt of each answer. StageError for an answer without one."""
        return to_rows(self.asked(answers), Prompt)

    def conversations(self, answers: pa.Table) -> tuple[list[Messages], list[str | None]]:
        """What each answer is the answer to: messages, and what tools add to them."""
        asked = self.asked(answers)
        return asked["messages"].to_pylist(), asked["tools"].to_pylist()

    def asked(self, answers: pa.Table) -> pa.Table:
        """The prompts of at most a few thousand answers, in their order. StageError for an answer
        without one."""
        index = _index(self.files)
        places = index.places(answers["prompt_id"].to_numpy())
        file_of_row = index.file[places]
        numbers = np.unique(file_of_row)
        tables = []
        row_in_joined = np.zeros(len(places), np.int64)
        joined_rows = 0
        for number in numbers:
            mine = np.flatnonzero(file_of_row == number)
            table = _prompts_in(self.files[number]).take(index.row[places[mine]])
            tables.append(table)
            row_in_joined[mine] = joined_rows + np.arange(len(mine))
            joined_rows += len(mine)
        if not tables:
            return PROMPT.empty_table()
        if len(tables) == 1:
            return tables[0]
        return pa.concat_tables(tables).take(row_in_joined)


def prompts_of(stage: Finished) -> Prompts:
    """The prompts of a finished stage."""
    return Prompts(tuple(stage.files("train") + stage.files("validation")))


def forget() -> None:
    """Let go of what was looked up in this process."""
    _index.cache_clear()
    _prompts_in.cache_clear()


def in_slices(table: pa.Table) -> list[pa.Table]:
    """A table of answers, so many at a time as prompts are looked up for."""
    starts = range(0, len(table), _LOOKED_UP)
    return [table.slice(start, _LOOKED_UP) for start in starts]


@dataclass(frozen=True)
class _Index:
    """Of every prompt, sorted by id: the number of its file and its row there."""

    ids: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """Where each id stands. StageError for one that nobody asked."""
        if not len(self.ids):
            places = np.zeros(len(wanted), np.int64)
            unknown = wanted
        else:
            places = np.searchsorted(self.ids, wanted).clip(max=len(self.ids) - 1)
            unknown = wanted[self.ids[places] != wanted]
        if len(unknown):
            raise StageError(
                f"curate: {len(unknown)} completions belong to no prompt, e.g. id {unknown[0]};"
                " make generate again"
            )
        return places


@functools.lru_cache(maxsize=1)
def _index(files: Sequence[Folder]) -> _Index:
    """Read once by each process: 20 bytes a prompt."""
    ids = [np.zeros(0, np.int64)]
    counts = []
    for table in read_tables(files, ["prompt_id"]):
        ids.append(table["prompt_id"].to_numpy())
        counts.append(len(table))
    joined = np.concatenate(ids)
    order = np.argsort(joined, kind="stable")
    numbers = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    rows = np.arange(len(joined)) - np.repeat(starts, counts)
    return _Index(joined[order], numbers[order], rows[order].astype(np.int64))


@functools.lru_cache(maxsize=_HELD_FILES)
def _prompts_in(file: Folder) -> pa.Table:
    (table,) = read_tables([file])
    return completed(table, PROMPT).combine_chunks()


def message_bytes(asked: pa.Table) -> np.ndarray:
    """Bytes (n,) of the conversation and the tools of each prompt."""
    messages = asked["messages"].combine_chunks()
    contents = messages.flatten().field("content")
    content_ends = np.cumsum(text_bytes(contents))
    borders = np.concatenate([[0], content_ends])
    offsets = messages.offsets.to_numpy()
    return np.diff(borders[offsets - offsets[0]]) + text_bytes(asked["tools"])


def text_bytes(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Bytes of each text in UTF-8, none of a null."""
    lengths = pc.call_function("binary_length", [texts])
    return lengths.fill_null(0).to_numpy()
