"""Row types and their Arrow schemas: what one stage hands to the next.

Shapes in this file: T generated tokens of one answer, k captured log-probabilities per token. Per-token arrays are flat
lists in Parquet; a signal of shape (T, k) is stored as T*k values in row order. Log-probabilities are natural
logarithms of the raw distribution at temperature 1. The module touches no cluster and no model.

Completions, schema version 1. `curate` hands the signal's columns and the metadata on as they are. `read_signal` reads both codecs.

| column | type | content |
|---|---|---|
| prompt_id, teacher, sample_index | int64, string, int32 | the key: one final row each |
| split, seed, status, finish_reason, error, attempt | | where the row belongs, how it ended (STATUSES), how often it was tried |
| text, reasoning | string | the answer, and what was written before it where that is told apart |
| prompt_token_ids, token_ids | list<int32> | (P,) and (T,); empty from an API without ids; prompt_tokens, completion_tokens count them |
| token_logprobs | list<float32> | (T,), of the generated tokens |
| topk_ids, topk_logprobs, tail | list<int32>, list<float16 or float32>, list<float32> | codec plain: (T*k,), (T*k,) and (T,) |
| topk_packed | binary | codec packed: T * codec.token_bytes(top_k, vocab_size, packed_bits) bytes (engine/codec.py) |
| topk_tokens | list<string> | (T*k,), in place of topk_ids from an API that gives texts |

| metadata key (values are JSON) | content |
|---|---|
| schema_version | version of these tables; a reader refuses any other |
| codec, packed_bits | plain or packed, and the bits of a packed value |
| top_k, vocab_size | k, 0 without a signal, and the number of ids that the teacher knows |
| tokenizer_fingerprint | `tokenizer_fingerprint` of the teacher's tokenizer: equal where ids mean the same |
| teacher, teacher_revision, engine, versions | who answered, and with what |
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import codec
from engine.errors import InputError, StageError
from engine.store.paths import Folder, parquet_place

SCHEMA_VERSION = 1  # of the tables above
Messages = list[dict[str, str]]

# Final states of a completion. `error` alone is transient: a later run may try it again.
STATUSES = ("ok", "truncated", "empty", "loop", "too_long", "refused", "error")

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_INTS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
_NO_INTS = np.zeros(0, np.int32)
_NO_FLOATS = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Prompt:
    """One conversation that wants an answer."""

    prompt_id: int  # first 63 bits of prompt_sha256
    prompt_sha256: str
    source_id: str
    messages: Messages
    task: str
    source: str
    split: str  # train | validation
    reference: str | None = None
    meta: str = "{}"


@dataclass(frozen=True)
class Completion:
    """One teacher's answer to one prompt: exactly one final row per (prompt_id, teacher, sample_index)."""

    prompt_id: int
    teacher: str
    sample_index: int
    split: str
    seed: int
    status: str
    finish_reason: str | None = None
    text: str = ""
    reasoning: str | None = None  # what the teacher wrote before its answer, where a parser or the API tells them apart
    prompt_token_ids: Any = field(default_factory=lambda: _NO_INTS)
    token_ids: Any = field(default_factory=lambda: _NO_INTS)
    prompt_tokens: int | None = 0  # None: the API did not say
    completion_tokens: int | None = 0
    error: str | None = None
    attempt: int = 1
    token_logprobs: Any = field(default_factory=lambda: _NO_FLOATS)  # (T,)
    topk_ids: Any = field(default_factory=lambda: _NO_INTS)  # (T*k,)
    topk_logprobs: Any = field(default_factory=lambda: _NO_FLOATS)  # (T*k,)
    tail: Any = field(default_factory=lambda: _NO_FLOATS)  # (T,)
    topk_packed: bytes = b""  # the three columns above in one (codec: packed); they are empty then
    topk_tokens: Any = field(default_factory=list)  # (T*k,) texts in place of topk_ids, from an API that gives no ids


@dataclass(frozen=True)
class Example:
    """A conversation that ends in the assistant's answer, with the teacher's signal where there is one."""

    prompt_id: int
    teacher: str
    sample_index: int
    split: str
    messages: Messages
    prompt_token_ids: Any = field(default_factory=lambda: _NO_INTS)
    token_ids: Any = field(default_factory=lambda: _NO_INTS)
    topk_ids: Any = field(default_factory=lambda: _NO_INTS)
    topk_logprobs: Any = field(default_factory=lambda: _NO_FLOATS)
    tail: Any = field(default_factory=lambda: _NO_FLOATS)
    topk_packed: bytes = b""


@dataclass(frozen=True)
class Answer:
    """One model's answer to one validation prompt, scored."""

    prompt_id: int
    model: str  # teacher | baseline | student
    status: str
    text: str
    reference: str | None
    scores: str  # JSON: metric -> value


@dataclass(frozen=True)
class RequestSample:
    """One request of a load test. Times are milliseconds; latencies count from the intended send time."""

    model: str
    level: str  # concurrency=4 | rate=2.5
    intended_ms: float
    sent_ms: float
    status: str  # ok | http_429 | timeout | ...
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    prompt_tokens: int
    output_tokens: int
    error: str | None = None


def _schema(row: type, **types: pa.DataType) -> pa.Schema:
    names = [f.name for f in dataclasses.fields(row)]
    plain = {"int": pa.int64(), "str": pa.string(), "float": pa.float64()}
    hints = {f.name: str(f.type).split(" | ")[0] for f in dataclasses.fields(row)}
    return pa.schema([(name, types.get(name) or plain[hints[name]]) for name in names])


PROMPT = _schema(Prompt, messages=_MESSAGES)
EXAMPLE = _schema(
    Example, messages=_MESSAGES, sample_index=pa.int32(), prompt_token_ids=_INTS, token_ids=_INTS,
    topk_ids=_INTS, topk_logprobs=_FLOATS, tail=_FLOATS, topk_packed=pa.binary(),
)
ANSWER = _schema(Answer)
REQUEST_SAMPLE = _schema(RequestSample)


def completion_schema(capture_dtype: str = "float16") -> pa.Schema:
    """Schema of completions; `capture_dtype` (float16 | float32) is the type of `topk_logprobs`."""
    values = pa.list_(pa.float16() if capture_dtype == "float16" else pa.float32())
    return _schema(
        Completion, sample_index=pa.int32(), attempt=pa.int32(), prompt_tokens=pa.int32(), completion_tokens=pa.int32(),
        prompt_token_ids=_INTS, token_ids=_INTS, token_logprobs=_FLOATS, topk_ids=_INTS, topk_logprobs=values, tail=_FLOATS,
        topk_packed=pa.binary(), topk_tokens=pa.list_(pa.string()),
    )


def to_table(rows: Sequence[Any], schema: pa.Schema, metadata: Mapping[str, Any] | None = None) -> pa.Table:
    """Rows (dataclasses of this module) as one table; `metadata` becomes JSON values in the schema's metadata."""
    def column(f: pa.Field) -> pa.Array:
        values = [getattr(row, f.name) for row in rows]
        if pa.types.is_list(f.type) and pa.types.is_float16(f.type.value_type):
            values = [np.asarray(v, np.float16) for v in values]
        return pa.array(values, type=f.type)

    encoded = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    return pa.Table.from_arrays([column(f) for f in schema], schema=schema.with_metadata(encoded))


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A Parquet file with page checksums, in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def write_parquet(table: pa.Table, path: Folder) -> None:
    """Write with page checksums; the caller decides when the file becomes visible."""
    with path.open("wb") as file:
        file.write(parquet_bytes(table))


def read_tables(paths: Iterable[Folder], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The tables of `paths` one by one, page checksums verified. StageError names a file that is damaged."""
    for path in paths:
        where, store = parquet_place(path)
        try:
            table = pq.read_table(where, columns=list(columns) if columns else None, filesystem=store, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise StageError(f"{path} is missing or damaged ({error}); `distill verify RUN` says what to do") from error
        yield table


def to_rows(table: pa.Table, row: type) -> list[Any]:
    """A table back as dataclasses; lists stay Python lists."""
    names = {f.name for f in dataclasses.fields(row)}
    return [row(**{k: v for k, v in item.items() if k in names}) for item in table.to_pylist()]


def file_metadata(path: Folder) -> dict[str, Any]:
    """The JSON metadata that `to_table` stored, of a Parquet file."""
    where, store = parquet_place(path)
    raw = pq.read_schema(where, filesystem=store).metadata or {}
    return {key.decode(): json.loads(value) for key, value in raw.items() if not key.startswith(b"ARROW:")}


@dataclass(frozen=True)
class Signal:
    """The teacher's distribution over one answer: ids and logprobs of shape (T, k), tail of shape (T,)."""

    ids: np.ndarray
    logprobs: np.ndarray
    tail: np.ndarray


@dataclass(frozen=True)
class AnswerSignal:
    """The signal of one completion, with its key and its tokens: token_ids and token_logprobs of shape (T,)."""

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

    InputError if the file has no signal, another schema, or rows whose signal does not fit their tokens.
    """
    metadata = file_metadata(path)
    if metadata.get("schema_version") != SCHEMA_VERSION or not metadata.get("top_k"):
        found = f"schema version {metadata.get('schema_version')} and top_k {metadata.get('top_k', 0)}"
        wanted = f"schema version {SCHEMA_VERSION} and generate.capture.top_k > 0"
        raise InputError(f"{path} has {found}; give a file of completions made with {wanted}")
    key = ["prompt_id", "teacher", "sample_index"]
    (table,) = read_tables([path], [*key, "token_ids", "token_logprobs", "topk_ids", "topk_logprobs", "tail", "topk_packed"])
    if broken := count_unsigned(table, metadata):
        raise InputError(
            f"{path}: {broken} of {table.num_rows} rows have no whole signal over token ids (cut short, or texts of an API);"
            " `distill verify` tells whether the file is damaged"
        )
    tokens, logprobs = arrays(table, "token_ids"), arrays(table, "token_logprobs")
    for row, ids, sampled, signal in zip(table.select(key).to_pylist(), tokens, logprobs, signals(table, metadata), strict=True):
        if len(ids):
            yield AnswerSignal(**row, token_ids=ids, token_logprobs=sampled, **vars(signal))


def signals(table: pa.Table, metadata: Mapping[str, Any]) -> Iterator[Signal]:
    """The signal of each row of completions or examples; `metadata` of their file says the codec."""
    if metadata.get("codec") == "packed":
        for row in table["topk_packed"]:
            yield Signal(*codec.unpack(row.as_buffer(), metadata["top_k"], metadata["vocab_size"], metadata["packed_bits"]))
    else:
        yield from map(signal_of, *(arrays(table, name) for name in ("topk_ids", "topk_logprobs", "tail")))


def count_unsigned(table: pa.Table, metadata: Mapping[str, Any]) -> int:
    """Rows whose signal does not have `top_k` log-probabilities for each of their tokens."""
    tokens, k = pc.list_value_length(table["token_ids"]).to_numpy(), metadata.get("top_k", 0)
    if metadata.get("codec") == "packed" and k:
        size = codec.token_bytes(k, metadata["vocab_size"], metadata["packed_bits"])
        return int((pc.binary_length(table["topk_packed"]).to_numpy() != tokens * size).sum())
    ids, logprobs, tails = (pc.list_value_length(table[name]).to_numpy() for name in ("topk_ids", "topk_logprobs", "tail"))
    return int(((ids != tokens * k) | (logprobs != ids) | (tails != tokens)).sum())


def arrays(table: pa.Table, name: str) -> Iterator[np.ndarray]:
    """The rows of a list column, each as a view (T,) or (T*k,) of its memory."""
    return (row.values.to_numpy() for row in table[name])


def signal_of(topk_ids: Any, topk_logprobs: Any, tail: Any) -> Signal:
    """Flat plain columns of one row -> arrays of shape (T, k); k follows from the lengths."""
    tail = np.asarray(tail, np.float32)
    ids, logprobs = np.asarray(topk_ids, np.int32), np.asarray(topk_logprobs, np.float32)
    if len(tail) and (len(ids) % len(tail) or len(ids) != len(logprobs)):
        raise ValueError(f"signal cut short: {len(ids)} ids, {len(logprobs)} log-probabilities for {len(tail)} tokens")
    k = len(ids) // len(tail) if len(tail) else 0
    return Signal(ids.reshape(len(tail), k), logprobs.reshape(len(tail), k), tail)


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, UTF-8 kept."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def prompt_hash(messages: Messages) -> str:
    """sha256 (hex) of the canonical messages."""
    return hashlib.sha256(canonical_json(messages).encode()).hexdigest()


def prompt_id_of(sha256_hex: str) -> int:
    """First 63 bits of the hash: fits a signed int64."""
    return int(sha256_hex[:16], 16) >> 1


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed from any JSON values, e.g. (job seed, prompt_id, teacher, sample_index)."""
    return int.from_bytes(hashlib.sha256(canonical_json(list(parts)).encode()).digest()[:4], "big") >> 1


def bare_prompt(messages: Messages) -> str:
    """What a model without a chat template is asked."""
    return "\n".join(message["content"] for message in messages)


def tokenizer_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """sha256 (hex) of the token -> id map: equal where token ids mean the same."""
    return hashlib.sha256(canonical_json(sorted(vocabulary.items())).encode()).hexdigest()
