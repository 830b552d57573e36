"""Sends one level's requests with the official OpenAI client and times their streamed answers.

Latency counts from the moment at which a request was meant to leave. An open-loop request never
waits for another one; a closed-loop slot sends its next request when its last one ended. The client
watches itself (event-loop lag and processor time), because a late client makes a server look slow;
the verdict on that is summary.py's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import openai

from engine.job.spec import LoadtestSpec
from engine.rows.records import Messages, RequestSample
from engine.stages.loadtest.arrivals import ARRIVALS, Level

# a closed-loop slot that is refused at once would otherwise send thousands of requests a second
FAILURE_PAUSE_S = 0.1
HEARTBEAT_S = 0.01


@dataclass
class Measurement:
    """One level's requests. Times are ms after the start of the measured window; warm-up requests
    lie before 0."""

    level: Level
    window_s: float
    samples: list[RequestSample] = field(default_factory=list)
    warmup: list[RequestSample] = field(default_factory=list)
    loop_lag_ms: list[float] = field(
        default_factory=list
    )  # how late the client's event loop woke up, every 10 ms
    cpu_fraction: float = 0.0  # of the window, spent computing by the client's one thread


async def measure(
    base_url: str,
    model: str,
    prompts: Sequence[Messages],
    level: Level,
    spec: LoadtestSpec,
    seed: int,
    api_key: str | None = None,
) -> Measurement:
    """Run one level against an OpenAI-compatible endpoint and wait for its last answer.

    TTFT ends at the first chunk with content, E2E at the last one; TPOT is the time between those
    two over (output tokens - 1), undefined for one token or one chunk. An answer without content
    counts to its finish. Tokens are the server's own count. `prompts` are taken in seeded order,
    warm-up and measured requests from disjoint parts.
    """
    found = Measurement(level, spec.seconds)
    rng = np.random.default_rng(seed)
    warm_prompts, timed_prompts = _split(prompts, spec, rng)
    open_loop_s = (
        ARRIVALS[spec.arrivals](rng, level.rate, spec.warmup_seconds + spec.seconds)
        if level.rate
        else None
    )
    transport = openai.DefaultAsyncHttpx2Client(
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None)
    )
    logging.getLogger("httpx2").setLevel(
        logging.WARNING
    )  # below that it logs a line per request, in the loop that is timed
    # An explicit key: without one the client would send the environment's OPENAI_API_KEY to
    # whatever the URL is.
    client = openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        max_retries=0,
        timeout=None,
        http_client=transport,
    )
    zero = time.perf_counter() + spec.warmup_seconds

    def now_ms() -> float:
        return (time.perf_counter() - zero) * 1000

    async def send(intended_ms: float) -> RequestSample:
        warm = intended_ms < 0
        messages = next(warm_prompts if warm else timed_prompts)
        sample = await _request(client, model, messages, str(level), spec, intended_ms, now_ms)
        (found.warmup if warm else found.samples).append(sample)
        return sample

    async def keep_one_in_flight() -> None:
        while (intended_ms := now_ms()) < spec.seconds * 1000:
            if (await send(intended_ms)).status != "ok":
                await asyncio.sleep(FAILURE_PAUSE_S)

    async def follow_schedule(times_s: np.ndarray) -> None:
        async with asyncio.TaskGroup() as requests:
            for at_s in times_s.tolist():
                intended_ms = (at_s - spec.warmup_seconds) * 1000
                await asyncio.sleep(max(0.0, (intended_ms - now_ms()) / 1000))
                requests.create_task(send(intended_ms))

    async with client:
        watcher = asyncio.create_task(_watch_self(found, now_ms))
        if open_loop_s is not None:
            await follow_schedule(open_loop_s)
        else:
            await asyncio.gather(*(keep_one_in_flight() for _ in range(level.concurrency)))
        await watcher
    return found


def _split(
    prompts: Sequence[Messages], spec: LoadtestSpec, rng: np.random.Generator
) -> tuple[Iterator[Messages], Iterator[Messages]]:
    """Warm-up and measured prompts, cycled in seeded order; disjoint, or a prefix cache would
    flatter the numbers."""
    order = [prompts[i] for i in rng.permutation(len(prompts))]
    share = spec.warmup_seconds / (spec.warmup_seconds + spec.seconds)
    warm = min(max(1, round(len(order) * share)), len(order) - 1) if share else 0
    return itertools.cycle(order[:warm] or order), itertools.cycle(order[warm:])


async def _request(
    client: openai.AsyncOpenAI,
    model: str,
    messages: Messages,
    level: str,
    spec: LoadtestSpec,
    intended_ms: float,
    now_ms: Callable[[], float],
) -> RequestSample:
    """One streamed answer; every way in which it can fail becomes a status, never an exception."""
    sent_ms = now_ms()
    content_ms: list[float] = []
    finished_ms = usage = error = None
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": spec.max_tokens,
        "temperature": spec.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with asyncio.timeout(spec.timeout_s):
            # Plain dicts: building the client's typed chunks takes three quarters of its time,
            # which a load test needs.
            stream = await client.post(
                "/chat/completions",
                body=body,
                cast_to=object,
                stream=True,
                stream_cls=openai.AsyncStream[Any],
            )
            async for chunk in stream:
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    if choice["delta"].get("content"):
                        content_ms.append(now_ms())
                    if choice.get("finish_reason"):
                        finished_ms = now_ms()
        status = "cut_stream" if finished_ms is None else "no_usage" if usage is None else "ok"
    except TimeoutError:
        status, error = "timeout", f"no end within {spec.timeout_s:g} s"
    except openai.APIStatusError as failure:
        status, error = f"http_{failure.status_code}", failure.message
    except openai.APIConnectionError as failure:
        status, error = (
            "cut_stream" if content_ms else "connection",
            repr(failure.__cause__ or failure),
        )
    except (
        openai.APIError,
        ValueError,
        LookupError,
        TypeError,
    ) as failure:  # an error event, or no chunk at all
        status, error = "bad_stream", str(failure)
    if status != "ok":
        return RequestSample(
            model,
            level,
            intended_ms,
            sent_ms,
            status,
            None,
            None,
            None,
            0,
            0,
            error and error[:300],
        )
    times_ms, tokens = content_ms or [finished_ms], usage["completion_tokens"]
    first, last = times_ms[0], times_ms[-1]
    tpot_ms = (last - first) / (tokens - 1) if tokens > 1 and last > first else None
    return RequestSample(
        model,
        level,
        intended_ms,
        sent_ms,
        "ok",
        first - intended_ms,
        tpot_ms,
        last - intended_ms,
        usage["prompt_tokens"],
        tokens,
    )


async def _watch_self(found: Measurement, now_ms: Callable[[], float]) -> None:
    await asyncio.sleep(-now_ms() / 1000)
    busy_s, began_ms = time.thread_time(), now_ms()
    while (before_ms := now_ms()) < found.window_s * 1000:
        await asyncio.sleep(HEARTBEAT_S)
        found.loop_lag_ms.append(now_ms() - before_ms - HEARTBEAT_S * 1000)
        found.cpu_fraction = (time.thread_time() - busy_s) / ((now_ms() - began_ms) / 1000)
