"""Sends one level's requests with the official OpenAI client and times their streamed answers.

Latency counts from the moment at which a request was meant to leave. An open-loop request never
waits for another one; a closed-loop slot sends its next request when its last one ended. The client
watches itself (event-loop lag and processor time), because a late client makes a server look slow;
the verdict on that is verdict.py's.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import openai
import psutil

from engine.job.spec import LoadtestSpec
from engine.loadgen.arrivals import ARRIVALS
from engine.loadgen.samples import Level, Sample, Watch
from engine.rows.records import Messages
from engine.stages.loadtest.arrivals import Load

# a closed-loop slot that is refused at once would otherwise send thousands of requests a second
FAILURE_PAUSE_S = 0.1
HEARTBEAT_S = 0.01
MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class _Load:
    """One level while it runs. Times are ms after the start of the measured window; warm-up
    requests lie before 0."""

    client: openai.AsyncOpenAI
    model: str
    spec: LoadtestSpec
    warm_prompts: Iterator[Messages]
    timed_prompts: Iterator[Messages]
    zero_s: float  # of time.perf_counter(): the measured window starts
    samples: list[Sample] = field(default_factory=list)

    def now_ms(self) -> float:
        return (time.perf_counter() - self.zero_s) * 1000


@dataclass
class _Stream:
    """What a streamed answer has said so far."""

    content_ms: list[float] = field(default_factory=list)
    finished_ms: float | None = None
    usage: dict[str, int] | None = None


@dataclass(frozen=True)
class _Answer:
    """A whole answer: when its content began and ended, and the server's count of its tokens."""

    first_ms: float
    last_ms: float
    events: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class _Fault:
    """Why there is no whole answer."""

    status: str
    error: str | None = None


async def measure(
    base_url: str,
    model: str,
    prompts: Sequence[Messages],
    level: Load,
    spec: LoadtestSpec,
    seed: int,
    api_key: str | None = None,
) -> Level:
    """Run one level against an OpenAI-compatible endpoint and wait for its last answer.

    TTFT ends at the first chunk with content, E2E at the last one; TPOT is the time between those
    two over (output tokens - 1), undefined for one token or one chunk. An answer without content
    counts to its finish. Tokens are the server's own count. `prompts` are taken in seeded order,
    warm-up and measured requests from disjoint parts.
    """
    rng = np.random.default_rng(seed)
    warm_prompts, timed_prompts = _split(prompts, spec, rng)
    times_s = None
    if level.rate:
        times_s = ARRIVALS[spec.arrivals](rng, level.rate, spec.warmup_seconds + spec.seconds)
    client = _connect(base_url, api_key)
    # The clock starts last: what was prepared above must not make the first requests late.
    started_s = time.time() + spec.warmup_seconds
    zero_s = time.perf_counter() + spec.warmup_seconds
    load = _Load(client, model, spec, warm_prompts, timed_prompts, zero_s)
    async with client:
        watcher = asyncio.create_task(_watch_self(load))
        if times_s is not None:
            await _follow_schedule(load, times_s)
        elif level.concurrency:
            await _keep_in_flight(load, level.concurrency)
        watch = await watcher
    scheduled = None
    if times_s is not None:
        scheduled = int((times_s >= spec.warmup_seconds).sum())
    return Level(
        kind=spec.arrivals if level.rate else "closed",
        concurrency=level.concurrency,
        rate=level.rate,
        window_s=spec.seconds,
        warmup_s=spec.warmup_seconds,
        started_s=started_s,
        seed=seed,
        scheduled=scheduled,
        samples=load.samples,
        watches=[watch],
    )


def _split(
    prompts: Sequence[Messages], spec: LoadtestSpec, rng: np.random.Generator
) -> tuple[Iterator[Messages], Iterator[Messages]]:
    """Warm-up and measured prompts, cycled in seeded order; disjoint, or a prefix cache would
    flatter the numbers."""
    order = [prompts[i] for i in rng.permutation(len(prompts))]
    share = spec.warmup_seconds / (spec.warmup_seconds + spec.seconds)
    warm = 0
    if share:
        warm = min(max(1, round(len(order) * share)), len(order) - 1)
    return itertools.cycle(order[:warm] or order), itertools.cycle(order[warm:])


def _connect(base_url: str, api_key: str | None) -> openai.AsyncOpenAI:
    """A client that neither retries, nor gives up, nor keeps one request waiting for another."""
    transport = openai.DefaultAsyncHttpx2Client(
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None)
    )
    # below that it logs a line per request, in the loop that is timed
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # An explicit key: without one the client would send the environment's OPENAI_API_KEY to
    # whatever the URL is.
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        max_retries=0,
        timeout=None,
        http_client=transport,
    )


async def _keep_in_flight(load: _Load, concurrency: int) -> None:
    slots = [_keep_one_in_flight(load) for _ in range(concurrency)]
    await asyncio.gather(*slots)


async def _keep_one_in_flight(load: _Load) -> None:
    while (intended_ms := load.now_ms()) < load.spec.seconds * 1000:
        sample = await _send(load, intended_ms)
        if sample.status != "ok":
            await asyncio.sleep(FAILURE_PAUSE_S)


async def _follow_schedule(load: _Load, times_s: np.ndarray) -> None:
    async with asyncio.TaskGroup() as requests:
        for at_s in times_s.tolist():
            intended_ms = (at_s - load.spec.warmup_seconds) * 1000
            await asyncio.sleep(max(0.0, (intended_ms - load.now_ms()) / 1000))
            requests.create_task(_send(load, intended_ms))


async def _send(load: _Load, intended_ms: float) -> Sample:
    """One request and its row, which is kept; what goes wrong is in the row."""
    warm = intended_ms < 0
    prompts = load.warm_prompts if warm else load.timed_prompts
    messages = next(prompts)
    sample_of = functools.partial(Sample, intended_ms=intended_ms, sent_ms=load.now_ms())
    outcome = await _ask(load, messages)
    if isinstance(outcome, _Fault):
        sample = sample_of(
            status=outcome.status,
            e2e_ms=load.now_ms() - intended_ms,
            error=outcome.error and outcome.error[:MAX_ERROR_CHARACTERS],
        )
    else:
        sample = sample_of(
            status="ok",
            ttft_ms=outcome.first_ms - intended_ms,
            last_ms=outcome.last_ms - intended_ms,
            e2e_ms=outcome.last_ms - intended_ms,
            events=outcome.events,
            prompt_tokens=outcome.prompt_tokens,
            output_tokens=outcome.output_tokens,
        )
    load.samples.append(sample)
    return sample


async def _ask(load: _Load, messages: Messages) -> _Answer | _Fault:
    """One streamed answer; every way in which it can fail becomes a status, never an exception."""
    stream = _Stream()
    try:
        async with asyncio.timeout(load.spec.timeout_s):
            await _read(load, messages, stream)
    except TimeoutError:
        return _Fault("timeout", f"no end within {load.spec.timeout_s:g} s")
    except openai.APIStatusError as failure:
        return _Fault(f"http_{failure.status_code}", failure.message)
    except openai.APIConnectionError as failure:
        status = "cut_stream" if stream.content_ms else "connection"
        return _Fault(status, repr(failure.__cause__ or failure))
    except (openai.APIError, ValueError, LookupError, TypeError) as failure:
        # an error event, or no chunk at all
        return _Fault("bad_stream", str(failure))
    if stream.finished_ms is None:
        return _Fault("cut_stream")
    if stream.usage is None:
        return _Fault("no_usage")
    prompt_tokens = stream.usage.get("prompt_tokens")
    output_tokens = stream.usage.get("completion_tokens")
    if prompt_tokens is None or output_tokens is None:
        return _Fault("no_usage", f"usage without a count: {stream.usage}")
    times_ms = stream.content_ms or [stream.finished_ms]
    return _Answer(
        first_ms=times_ms[0],
        last_ms=times_ms[-1],
        events=len(stream.content_ms),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


async def _read(load: _Load, messages: Messages, stream: _Stream) -> None:
    """Ask, and note in `stream` what every chunk says; it lives on where the deadline strikes."""
    body = {
        "model": load.model,
        "messages": messages,
        "max_tokens": load.spec.max_tokens,
        "temperature": load.spec.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Plain dicts: building the client's typed chunks takes three quarters of its time, which a
    # load test needs.
    chunks = await load.client.post(
        "/chat/completions",
        body=body,
        cast_to=object,
        stream=True,
        stream_cls=openai.AsyncStream[Any],
    )
    async for chunk in chunks:
        stream.usage = chunk.get("usage") or stream.usage
        for choice in chunk["choices"]:
            if choice["delta"].get("content"):
                stream.content_ms.append(load.now_ms())
            if choice.get("finish_reason"):
                stream.finished_ms = load.now_ms()


async def _watch_self(load: _Load) -> Watch:
    """This process over the measured window."""
    await asyncio.sleep(-load.now_ms() / 1000)
    busy_s = time.thread_time()
    jump_s = time.time() - time.monotonic()
    began_ms = load.now_ms()
    psutil.cpu_percent()
    lag_ms: list[float] = []
    while (before_ms := load.now_ms()) < load.spec.seconds * 1000:
        await asyncio.sleep(HEARTBEAT_S)
        lag_ms.append(load.now_ms() - before_ms - HEARTBEAT_S * 1000)
    window_s = (load.now_ms() - began_ms) / 1000
    cpu_s = time.thread_time() - busy_s
    in_all = psutil.cpu_percent() / 100
    own = cpu_s / window_s / (psutil.cpu_count() or 1)
    return Watch(
        process=0,
        cpu_s=cpu_s,
        window_s=window_s,
        loop_lag_ms=tuple(lag_ms),
        clock_jump_s=abs(time.time() - time.monotonic() - jump_s),
        others_cpu=max(0.0, in_all - own),
    )
