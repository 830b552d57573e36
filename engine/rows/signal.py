"""The teacher's distribution over its answers, read back from rows. Shapes: T tokens, k stored
log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import InputError
from engine.rows import codec
from engine.rows.records import SCHEMA_VERSION
from engine.rows.tables import file_metadata, read_tables
from engine.store.paths import Folder


@dataclass(frozen=True)
class Signal:
    """The teacher's distribution over one answer: ids and logprobs of shape (T, k), tail of shape
    (T,)."""

    ids: np.ndarray
    logprobs: np.ndarray
    tail: np.ndarray


@dataclass(frozen=True)
class AnswerSignal:
    """The signal of one completion, with its key and its tokens: token_ids and token_logprobs of
    shape (T,)."""

    prompt_id: int
    teacher: str
    sample_index: int
    token_ids: np.ndarray
    token_logprobs: np.ndarray
    ids: np.ndarray
    logprobs: np.ndarray
    tail: np.ndarray


def read_signal(path: Folder) -> Iterator[AnswerSignal]:
    """The signal of each completion that has tokens, in file order, whichever the codec.

    InputError if the file has no signal, another schema, or rows whose signal does not fit their
    tokens.
    """
    metadata = file_metadata(path)
    if metadata.get("schema_version") != SCHEMA_VERSION or not metadata.get("top_k"):
        found = (
            f"schema version {metadata.get('schema_version')} and top_k {metadata.get('top_k', 0)}"
        )
        wanted = f"schema version {SCHEMA_VERSION} and generate.capture.top_k > 0"
        raise InputError(f"{path} has {found}; give a file of completions made with {wanted}")
    key = ["prompt_id", "teacher", "sample_index"]
    (table,) = read_tables(
        [path],
        [*key, "token_ids", "token_logprobs", "topk_ids", "topk_logprobs", "tail", "topk_packed"],
    )
    if broken := count_unsigned(table, metadata):
        raise InputError(
            f"{path}: {broken} of {table.num_rows} rows have no whole signal over token ids (cut"
            " short, or texts of an API);"
            " `distill verify` tells whether the file is damaged"
        )
    tokens, logprobs = arrays(table, "token_ids"), arrays(table, "token_logprobs")
    for row, ids, sampled, signal in zip(
        table.select(key).to_pylist(), tokens, logprobs, signals(table, metadata), strict=True
    ):
        if len(ids):
            yield AnswerSignal(**row, token_ids=ids, token_logprobs=sampled, **vars(signal))


def signals(table: pa.Table, metadata: Mapping[str, Any]) -> Iterator[Signal]:
    """The signal of each row of completions or examples; `metadata` of their file says the
    codec."""
    if metadata.get("codec") == "packed":
        for row in table["topk_packed"]:
            yield Signal(
                *codec.unpack(
                    row.as_buffer(),
                    metadata["top_k"],
                    metadata["vocab_size"],
                    metadata["packed_bits"],
                )
            )
    else:
        yield from map(
            signal_of, *(arrays(table, name) for name in ("topk_ids", "topk_logprobs", "tail"))
        )


def count_unsigned(table: pa.Table, metadata: Mapping[str, Any]) -> int:
    """Rows whose signal does not have `top_k` log-probabilities for each of their tokens."""
    tokens, k = pc.list_value_length(table["token_ids"]).to_numpy(), metadata.get("top_k", 0)
    if metadata.get("codec") == "packed" and k:
        size = codec.token_bytes(k, metadata["vocab_size"], metadata["packed_bits"])
        return int((pc.binary_length(table["topk_packed"]).to_numpy() != tokens * size).sum())
    ids, logprobs, tails = (
        pc.list_value_length(table[name]).to_numpy()
        for name in ("topk_ids", "topk_logprobs", "tail")
    )
    return int(((ids != tokens * k) | (logprobs != ids) | (tails != tokens)).sum())


def arrays(table: pa.Table, name: str) -> Iterator[np.ndarray]:
    """The rows of a list column, each as a view (T,) or (T*k,) of its memory."""
    return (row.values.to_numpy() for row in table[name])


def signal_of(topk_ids: Any, topk_logprobs: Any, tail: Any) -> Signal:
    """Flat plain columns of one row -> arrays of shape (T, k); k follows from the lengths."""
    tail = np.asarray(tail, np.float32)
    ids, logprobs = np.asarray(topk_ids, np.int32), np.asarray(topk_logprobs, np.float32)
    if len(tail) and (len(ids) % len(tail) or len(ids) != len(logprobs)):
        raise ValueError(
            f"signal cut short: {len(ids)} ids, {len(logprobs)} log-probabilities for {len(tail)}"
            " tokens"
        )
    k = len(ids) // len(tail) if len(tail) else 0
    return Signal(ids.reshape(len(tail), k), logprobs.reshape(len(tail), k), tail)
