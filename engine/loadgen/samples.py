"""What a load leaves behind: one row per request, one per level."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One request. Times are ms after the start of the level's window (before 0: warm-up);
    latencies count from `intended_ms`."""

    intended_ms: float  # when it was meant to leave; later turns: end of the turn before + thinking
    sent_ms: float  # when its first byte was handed to the socket
    status: str  # ok | http_429 | http_500 | timeout | connection | cut_stream | error_event |
    # bad_stream | no_usage | not_a_stream
    first_byte_ms: float | None = None  # of the body of an answer: latency from intended_ms
    # latency to the first event with content, reasoning or a tool call's text; an answer without
    # text: to its finish
    ttft_ms: float | None = None
    last_ms: float | None = None  # latency to the last event with text
    # latency to the end of the answer ([DONE] or, where a server sends none, the body's end)
    e2e_ms: float | None = None
    events: int = 0  # with text
    prompt_tokens: int | None = None  # the server's count; None: it did not say
    output_tokens: int | None = None
    text_chars: int = 0
    finish_reason: str | None = None
    oddities: str = ""  # what the reader did not understand, "kind:count" joined by ","
    error: str | None = None  # the server's own words or the fault, <= 300 characters, keys masked
    prompt: int = 0  # index into the prompts
    session: int | None = None
    turn: int = 0
    process: int = 0


@dataclass(frozen=True)
class Watch:
    """How one generator process fared over the window."""

    process: int
    cpu_s: float  # of this process in the window
    window_s: float
    loop_lag_ms: tuple[float, ...]  # how late its event loop woke up, every 10 ms
    clock_jump_s: float  # |wall clock advance - monotonic advance| over the level
    # share of the machine's processors that other processes used in the window, 0..1 (psutil)
    others_cpu: float


@dataclass(frozen=True)
class Ceiling:
    """What this client can do here, measured against the no-op server on the spot."""

    events_per_core_s: float
    requests_per_core_s: float
    processes: int


@dataclass(frozen=True)
class Level:
    """A level as it was run."""

    kind: str  # closed | an arrival process's name | sessions | trace
    concurrency: int | None  # closed: requests in flight; sessions: users
    rate: float | None  # requests/s that were asked for (open loop)
    window_s: float
    warmup_s: float
    started_s: float  # Unix time of the window's start
    seed: int
    scheduled: int | None  # open loop: requests that the schedule has in the window
    samples: list[Sample]
    watches: list[Watch]
