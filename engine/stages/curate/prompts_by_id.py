"""The prompts of a run, to be looked up by id. All of them are in memory; answers never are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import StageError
from engine.rows.records import PROMPT, Messages, Prompt
from engine.rows.tables import completed, read_tables, to_rows
from engine.run.manifests import Finished


def _large(kind: pa.DataType) -> pa.DataType:
    """The same type with 64-bit offsets."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.large_list(_large(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(child.name, _large(child.type)) for child in kind])
    return kind


# together they may be more than the 2 GB of text that 32-bit offsets reach
_LARGE_PROMPT = pa.schema([(column.name, _large(column.type)) for column in PROMPT])


@dataclass(frozen=True)
class Prompts:
    """All prompts, sorted by id, and the bytes of each one's conversation and tools."""

    table: pa.Table
    ids: np.ndarray
    message_bytes: np.ndarray

    def places(self, answers: pa.Table) -> np.ndarray:
        """Where in `table` the prompt of each answer is. StageError for an answer without one."""
        wanted = answers["prompt_id"].to_numpy()
        last = len(self.ids) - 1
        places = np.searchsorted(self.ids, wanted).clip(max=last)
        unknown = wanted[self.ids[places] != wanted]
        if len(unknown):
            raise StageError(
                f"curate: {len(unknown)} completions belong to no prompt, e.g. id {unknown[0]};"
                " make generate again"
            )
        return places

    def of(self, answers: pa.Table) -> list[Prompt]:
        """The prompt of each answer."""
        asked = self.table.take(self.places(answers))
        return to_rows(asked, Prompt)

    def conversations(self, answers: pa.Table) -> tuple[list[Messages], list[str | None]]:
        """What each answer is the answer to: messages, and what tools add to them."""
        places = self.places(answers)
        asked = self.table.select(["messages", "tools"]).take(places)
        return asked["messages"].to_pylist(), asked["tools"].to_pylist()


def load_prompts(stage: Finished) -> Prompts:
    """All prompts of a finished stage, in one chunk, because `take` would join several each
    time."""
    files = stage.files("train") + stage.files("validation")
    tables = [completed(table, PROMPT).cast(_LARGE_PROMPT) for table in read_tables(files)]
    by_id = pa.concat_tables(tables).sort_by("prompt_id").combine_chunks()
    ids = by_id["prompt_id"].to_numpy()
    messages = by_id["messages"].combine_chunks()
    message_bytes = _message_bytes(messages) + text_bytes(by_id["tools"])
    return Prompts(by_id, ids, message_bytes)


def _message_bytes(messages: pa.LargeListArray) -> np.ndarray:
    contents = messages.flatten().field("content")
    content_ends = np.cumsum(text_bytes(contents))
    borders = np.concatenate([[0], content_ends])
    offsets = messages.offsets.to_numpy()
    return np.diff(borders[offsets - offsets[0]])


def text_bytes(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Bytes of each text in UTF-8, none of a null."""
    lengths = pc.call_function("binary_length", [texts])
    return lengths.fill_null(0).to_numpy()
