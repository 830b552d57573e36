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
from engine.rows.records import COMPLETION_KEY, SCHEMA_VERSION
from engine.rows.tables import file_metadata, read_tables
from engine.store.paths import Folder

_ANSWER = [*COMPLETION_KEY, "token_ids", "token_logprobs"]
_PLAIN = (
    "topk_ids",
    "topk_logprobs",
    "tail",
)  # the columns of codec plain, as signal_of takes them


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
    version, top_k = metadata.get("schema_version"), metadata.get("top_k", 0)
    if version != SCHEMA_VERSION or not top_k:
        wanted = f"schema version {SCHEMA_VERSION} and generate.capture.top_k > 0"
        raise InputError(
            f"{path} has schema version {version} and top_k {top_k}; give a file of completions"
            f" made with {wanted}"
        )
    (table,) = read_tables([path], [*_ANSWER, *_PLAIN, "topk_packed"])
    broken = count_unsigned(table, metadata)
    if broken:
        raise InputError(
            f"{path}: {broken} of {table.num_rows} rows have no whole signal over token ids (cut"
            " short, or texts of an API);"
            " `distill verify` tells whether the file is damaged"
        )
    answers = zip(
        table.select(COMPLETION_KEY).to_pylist(),
        arrays(table, "token_ids"),
        arrays(table, "token_logprobs"),
        signals(table, metadata),
        strict=True,
    )
    for key, token_ids, token_logprobs, signal in answers:
        if len(token_ids):
            yield AnswerSignal(
                **key, token_ids=token_ids, token_logprobs=token_logprobs, **vars(signal)
            )


def signals(table: pa.Table, metadata: Mapping[str, Any]) -> Iterator[Signal]:
    """The signal of each row of completions or examples; `metadata` of their file says the
    codec."""
    if metadata.get("codec") != "packed":
        yield from map(signal_of, *[arrays(table, name) for name in _PLAIN])
        return
    for row in table["topk_packed"]:
        ids, logprobs, tail = codec.unpack(
            row.as_buffer(),
            metadata["top_k"],
            metadata["vocab_size"],
            metadata["packed_bits"],
        )
        yield Signal(ids, logprobs, tail)


def count_unsigned(table: pa.Table, metadata: Mapping[str, Any]) -> int:
    """Rows whose signal does not have `top_k` log-probabilities for each of their tokens."""
    k = metadata.get("top_k", 0)
    tokens = _lengths(table, "token_ids")
    if metadata.get("codec") == "packed" and k:
        size = codec.token_bytes(k, metadata["vocab_size"], metadata["packed_bits"])
        packed = pc.call_function("binary_length", [table["topk_packed"]]).to_numpy()
        return int((packed != tokens * size).sum())
    ids, logprobs, tails = [_lengths(table, name) for name in _PLAIN]
    is_broken = (ids != tokens * k) | (logprobs != ids) | (tails != tokens)
    return int(is_broken.sum())


def _lengths(table: pa.Table, name: str) -> np.ndarray:
    """Items in each row of a list column. (`pc.list_value_length` exists only once pyarrow.compute
    has run, so no type checker knows it.)"""
    return pc.call_function("list_value_length", [table[name]]).to_numpy()


def arrays(table: pa.Table, name: str) -> Iterator[np.ndarray]:
    """The rows of a list column, each as a view (T,) or (T*k,) of its memory."""
    return (row.values.to_numpy() for row in table[name])


def signal_of(topk_ids: Any, topk_logprobs: Any, tail: Any) -> Signal:
    """Flat plain columns of one row -> arrays of shape (T, k); k follows from the lengths."""
    tail = np.asarray(tail, np.float32)
    ids = np.asarray(topk_ids, np.int32)
    logprobs = np.asarray(topk_logprobs, np.float32)
    tokens = len(tail)
    if tokens and (len(ids) % tokens or len(ids) != len(logprobs)):
        raise ValueError(
            f"signal cut short: {len(ids)} ids, {len(logprobs)} log-probabilities for {tokens}"
            " tokens"
        )
    k = len(ids) // tokens if tokens else 0
    return Signal(ids.reshape(tokens, k), logprobs.reshape(tokens, k), tail)
