"""Row types and their Arrow schemas: what one stage hands to the next.

Shapes in this file: T generated tokens of one answer, k captured log-probabilities per token.
Per-token arrays are flat lists in Parquet; a signal of shape (T, k) is stored as T*k values in row
order. Log-probabilities are natural logarithms of the raw distribution at temperature 1. The module
touches no cluster and no model.

Verdicts, what curate says of each completion: CompletionVerdict.

Completions, schema version 1. `curate` hands the signal's columns and the metadata on as they are.
`read_signal` reads both codecs.

| column | type | content |
|---|---|---|
| prompt_id, teacher, sample_index | int64, string, int32 | the key: one final row each |
| split, seed, attempt | string, int64, int32 | where the row belongs, how often it was tried |
| status, finish_reason, error | string | how it ended (STATUSES) |
| text, reasoning | string | the answer, and what was written before it where that is told apart |
| prompt_token_ids, token_ids | list<int32> | (P,) and (T,); empty from an API without ids |
| prompt_tokens, completion_tokens | int32 | how many they are; null where an API did not say |
| token_logprobs | list<float32> | (T,), of the generated tokens |
| topk_ids, tail | list<int32>, list<float32> | codec plain: (T*k,) and (T,) |
| topk_logprobs | list<float16 or float32> | codec plain: (T*k,) |
| topk_packed | binary | codec packed: T * token_bytes(...) bytes (engine/rows/codec.py) |
| topk_tokens | list<string> | (T*k,), in place of topk_ids from an API that gives texts |
| tool_calls | string | JSON [{"name", "arguments"}], null where nothing is called (tools.py) |

| metadata key (values are JSON) | content |
|---|---|
| schema_version | version of these tables; a reader refuses any other |
| codec, packed_bits | plain or packed, and the bits of a packed value |
| top_k, vocab_size | k, 0 without a signal, and the number of ids that the teacher knows |
| tokenizer_fingerprint | of the teacher's tokenizer (ids.py): equal where ids mean the same |
| teacher, teacher_revision, engine, versions | who answered, and with what |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.rows.tools import Conversation, conversation_of, spelled

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA_VERSION = 1  # of the tables above
COMPLETION_KEY = ("prompt_id", "teacher", "sample_index")  # Completion.key, as columns
Messages = list[dict[str, str]]
# Final states of a completion. `error` alone is transient: a later run may try it again.
STATUSES = ("ok", "truncated", "empty", "loop", "too_long", "refused", "error")
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_MESSAGES = pa.list_(_MESSAGE)
_INTS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
_DOUBLES = pa.list_(pa.float64())
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
    references: list[str] = field(default_factory=list)  # all that are right; `reference` leads
    tools: str | None = None  # JSON (tools.py): offered, and what messages call and answer
    reference_calls: str | None = None  # JSON: what the gold answer calls

    @property
    def conversation(self) -> Conversation:
        """The messages with all that tools add to them."""
        return conversation_of(self.messages, self.tools)

    @property
    def right_answers(self) -> list[str]:
        """Every gold answer; none where the prompt has no reference."""
        if self.references:
            return self.references
        return [] if self.reference is None else [self.reference]

    @property
    def characters(self) -> int:
        """Of all its messages."""
        return sum(len(str(message["content"])) for message in self.messages)


@dataclass(frozen=True)
class Completion:
    """One teacher's answer to one prompt: exactly one final row per (prompt_id, teacher,
    sample_index)."""

    prompt_id: int
    teacher: str
    sample_index: int
    split: str
    seed: int
    status: str
    finish_reason: str | None = None
    text: str = ""
    # What the teacher wrote before its answer, where a parser or the API tells them apart.
    reasoning: str | None = None
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
    # (T*k,) texts in place of topk_ids, from an API that gives no ids
    topk_tokens: Any = field(default_factory=list)
    tool_calls: str | None = None  # JSON (tools.py); `text` is what was said beside them

    @property
    def key(self) -> tuple[int, str, int]:
        """What no other completion has."""
        return self.prompt_id, self.teacher, self.sample_index

    @property
    def said(self) -> str:
        """Text and calls in words, for those who compare or read texts."""
        return spelled(self.text, self.tool_calls)

    @property
    def written(self) -> str:
        """The same after what the teacher thought: all that its tokens would teach a student."""
        return "\n".join(filter(None, [self.reasoning, self.said]))


@dataclass(frozen=True)
class Example:
    """A conversation that ends in the assistant's answer, with the teacher's signal where there is
    one."""

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
    tools: str | None = None  # JSON (tools.py), the calls of the answer among it


@dataclass(frozen=True)
class CompletionVerdict:
    """What curate found of one completion and decided: `reason` is null where it became an example.
    What no filter of the job looks for is null."""

    prompt_id: int
    teacher: str
    sample_index: int
    split: str
    filter: str | None  # that dropped it
    reason: str | None
    answer: str | None = None  # final answer, in one spelling
    correct: bool | None = None  # null also: no reference, or nobody could tell
    checked_by: str | None = None  # rule | math_verify | none: only algebra could have told
    score: float | None = None  # of a judge
    votes: int | None = None  # answers of its group that state the same, itself among them
    agreement: float | None = None  # their share of the group
    difficulty: float | None = None  # share of right answers of its group
    language: str | None = None  # ISO 639-1; null also: too short to tell
    repetition: float | None = None  # share of its words
    refusal: bool | None = None
    pii: list[str] | None = None  # kinds of personal data
    contaminated_by: str | None = None  # set and number of the test item that it has most of
    coverage: float | None = None  # of that item's rare runs of words
    cluster: int | None = None  # equal for near duplicates of each other (J >= 0.5)
    twin_prompt_id: int | None = None  # the example that stays for a near duplicate
    twin_teacher: str | None = None
    twin_sample_index: int | None = None
    jaccard: float | None = None  # of both
    error: str | None = None  # what a filter raised


@dataclass(frozen=True)
class Answer:
    """One model's answer to one validation prompt, scored."""

    prompt_id: int
    model: str  # teacher | baseline | student
    status: str
    text: str  # calls of tools stand behind what is said
    reference: str | None
    scores: str  # JSON: metric -> value
    verdict: str | None = None  # right | wrong | no_answer | ambiguous | unverified


@dataclass(frozen=True)
class Judgement:
    """What a judge replied about one answer, or about a pair of them in one order."""

    prompt_id: int
    model: str  # whose answer
    against: str | None  # of a pair, whose other answer; null: a grade of one
    order: int  # 0: the model's answer stood first; 1: the other one
    verdict: str | None  # first | second | tie, by place; null also: none could be read
    grade: float | None  # of one answer
    status: str  # of the reply, as a completion's
    text: str
    cost_usd: float | None  # null: no price, or the API did not count its tokens


@dataclass(frozen=True)
class ServerReading:
    """One number of a server's own metrics at one moment of a level. Gauges as they were, counts
    (seconds, tokens, requests) as they grew since the level's first reading."""

    model: str
    level: str  # as in RequestSample
    at_ms: float  # after the start of the measured window
    name: str  # of engine/loadgen/server_page.py
    value: float


@dataclass(frozen=True)
class TimeSlice:
    """A slice of a level on one time axis: what the client did and saw, and what the server said.
    Null: nothing was seen, or the server did not say."""

    model: str
    level: str
    at_s: float  # its middle, after the start of the measured window; before 0: warm-up
    in_flight: float  # requests, on average
    sent_rps: float
    served_rps: float  # answers that ended well
    failed_rps: float  # by when they were over
    output_tokens_per_second: float
    ttft_p50_ms: float | None  # of requests that were due in the slice; null also: infinite
    ttft_p95_ms: float | None
    replicas: float | None = None
    queued: float | None = None  # at the front and in the engines
    running: float | None = None  # in the engines
    kv_usage: float | None = None  # 0..1, of the fullest engine


@dataclass(frozen=True)
class RequestSample:
    """One request of a load test. Times are milliseconds; latencies count from the intended send
    time. The answer of a request that failed never came: its latencies, where there are any, say
    when it broke."""

    model: str
    level: str  # concurrency=4 | rate=2.5 | ... (LoadLevel.level)
    warm: bool  # of the warm-up: it loads the server and is not measured
    intended_ms: float  # after the start of the measured window; before 0: warm-up
    sent_ms: float
    status: str  # ok | http_429 | timeout | ...
    first_byte_ms: float | None = None  # of the answer's body
    ttft_ms: float | None = None  # the first text, reasoning or call of a tool
    tpot_ms: float | None = None  # between the first text and the last, per token after the first
    last_ms: float | None = None  # the last text
    e2e_ms: float | None = None  # the end of the answer
    events: int = 0  # with text
    prompt_tokens: int | None = None  # the server's counts; null: it did not say
    output_tokens: int | None = None
    text_chars: int = 0
    finish_reason: str | None = None
    oddities: str = ""  # what the reader did not understand: "kind:count,..."
    error: str | None = None
    prompt: int = 0  # which of the prompts
    session: int | None = None
    turn: int = 0
    process: int = 0  # of the client: LoadLevel.watches


@dataclass(frozen=True)
class LoadLevel:
    """One level of a load test on one model, and how the client itself fared meanwhile: the key is
    (model, level)."""

    model: str
    level: str  # as in RequestSample
    kind: str  # closed | an arrival process | sessions | trace
    concurrency: int | None  # closed: requests in flight; sessions: users
    rate: float | None  # requests per second that were asked for
    started_s: float  # Unix time at which the measured window starts
    window_s: float  # its length
    warmup_s: float
    seed: int
    scheduled: int | None  # requests that an open load's schedule has in the window
    watches: list[dict[str, Any]]  # one of each client process, as engine/loadgen's Watch
    # What one core of this client does against a server that answers at once; null: not measured.
    ceiling_events_per_core_s: float | None
    ceiling_requests_per_core_s: float | None
    ceiling_processes: int | None


def _schema(row: type[DataclassInstance], **types: pa.DataType) -> pa.Schema:
    """The fields of `row` in order; `types` names those that no annotation tells."""
    plain = {"int": pa.int64(), "str": pa.string(), "float": pa.float64()}
    columns = []
    for column in dataclasses.fields(row):
        hint = str(column.type).partition(" | ")[0]
        columns.append((column.name, types.get(column.name) or plain[hint]))
    return pa.schema(columns)


PROMPT = _schema(Prompt, messages=_MESSAGES, references=pa.list_(pa.string()))
EXAMPLE = _schema(
    Example,
    messages=_MESSAGES,
    sample_index=pa.int32(),
    prompt_token_ids=_INTS,
    token_ids=_INTS,
    topk_ids=_INTS,
    topk_logprobs=_FLOATS,
    tail=_FLOATS,
    topk_packed=pa.binary(),
)
COMPLETION_VERDICT = _schema(
    CompletionVerdict,
    sample_index=pa.int32(),
    correct=pa.bool_(),
    refusal=pa.bool_(),
    votes=pa.int32(),
    pii=pa.list_(pa.string()),
    twin_sample_index=pa.int32(),
)
ANSWER = _schema(Answer)
JUDGEMENT = _schema(Judgement)
SERVER_READING = _schema(ServerReading)
TIME_SLICE = _schema(TimeSlice)
REQUEST_SAMPLE = _schema(RequestSample, warm=pa.bool_())
_WATCH = pa.struct(
    [
        ("process", pa.int64()),
        ("cpu_s", pa.float64()),  # of the process, within the window
        ("window_s", pa.float64()),
        ("loop_lag_ms", _DOUBLES),  # how late its event loop woke up, every 10 ms
        ("clock_jump_s", pa.float64()),  # by how much its wall clock left the monotonic one
        ("others_cpu", pa.float64()),  # share of the machine's processors that others used
    ]
)
LOAD_LEVEL = _schema(LoadLevel, watches=pa.list_(_WATCH))


def completion_schema(capture_dtype: str = "float16") -> pa.Schema:
    """Schema of completions; `capture_dtype` (float16 | float32) is the type of `topk_logprobs`."""
    value_type = pa.float16() if capture_dtype == "float16" else pa.float32()
    return _schema(
        Completion,
        sample_index=pa.int32(),
        attempt=pa.int32(),
        prompt_tokens=pa.int32(),
        completion_tokens=pa.int32(),
        prompt_token_ids=_INTS,
        token_ids=_INTS,
        token_logprobs=_FLOATS,
        topk_ids=_INTS,
        topk_logprobs=pa.list_(value_type),
        tail=_FLOATS,
        topk_packed=pa.binary(),
        topk_tokens=pa.list_(pa.string()),
    )
