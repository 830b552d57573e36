"""A light client for OpenAI-compatible servers, in a process of its own.

    python -m benchmarks.serving.load URL --model M --concurrency 32 | --rate 20

Where client and server share two cores, a client that works for each token measures itself. Here a
segment of an answer costs one reading of the clock and one append; the answer is parsed once, when
it is whole, and places in its bytes lead back to the times of segments. It knows streamed chat over
plain HTTP/1.1, and nothing of TLS, proxies or answers without a length.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

PAUSE_S = 0.1  # after a failure: a server that refuses at once would be flooded
MAX_TOKENS = 64
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"
_CONTENT = re.compile(rb'"(?:content|reasoning|reasoning_content)": ?"[^"]')  # one that has text
_FINISHED = re.compile(rb'"finish_reason": ?"')
_ERROR = (b'data: {"error"', b'data: {"object":"error"')


@dataclass(frozen=True)
class Reply:
    """What came back. `status` is ok, or why it failed; the times are time.perf_counter's, and
    those of the first and last event with text are 0 where it failed."""

    status: str
    ended: float
    first: float = 0.0
    last: float = 0.0
    events: int = 0  # with text
    tokens: int = 0  # as the server counts them
    words: str = ""  # of a failure
    is_reusable: bool = False


@dataclass(frozen=True)
class Answer:
    """One request. Its latency counts from `since`: when it should have been sent, or was, if a
    timer of a millisecond's grain came early."""

    since: float
    sent: float
    reply: Reply

    @property
    def is_ok(self) -> bool:
        """Whether the whole answer came."""
        return self.reply.status == "ok"


class _Body:
    """httptools: the body of a response."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.is_whole = False

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.is_whole = True


def parse(segments: Sequence[bytes], times: Sequence[float]) -> Reply | None:
    """The reply that arrived in `segments` at `times`; None where it is not whole."""
    raw, body = b"".join(segments), _Body()
    parser = httptools.HttpResponseParser(body)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserError as error:
        return Reply("bad_http", times[-1], words=str(error))
    if not body.is_whole:
        return None
    content, status = b"".join(body.parts), parser.get_status_code()
    reusable = b"\r\nconnection: close" not in raw[: raw.find(b"\r\n\r\n")].lower()
    if status != 200:
        words = content[:200].decode(errors="replace")
        return Reply(f"http_{status}", times[-1], words=words, is_reusable=reusable)
    ends = list(itertools.accumulate(map(len, segments)))
    found = [match.start() for match in _CONTENT.finditer(raw)]
    first = last = times[-1]  # an answer without text still ends
    if found:
        first = times[bisect.bisect_right(ends, found[0])]
        last = times[bisect.bisect_right(ends, found[-1])]
    status, tokens, words = _stream_status(content)
    return Reply(status, times[-1], first, last, len(found), tokens, words, reusable)


def _stream_status(content: bytes) -> tuple[str, int, str]:
    """(status, tokens, the server's words if it failed) of a whole stream of events."""
    tokens = None
    for event in content.split(b"\n\n"):
        if event.startswith(_ERROR):
            return "error_event", 0, event[:200].decode(errors="replace")
        if b'"completion_tokens":' in event:
            tokens = json.loads(event.removeprefix(b"data: "))["usage"]["completion_tokens"]
    if b"data: [DONE]" not in content or not _FINISHED.search(content):
        return "cut_stream", 0, "the stream ended without [DONE] or a finish_reason"
    if tokens is None:
        return "no_usage", 0, "the stream has no usage"
    return "ok", tokens, ""


class Stream(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._done: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is there."""
        self._transport = cast("asyncio.Transport", transport)

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        """Send a whole HTTP request."""
        self._done = asyncio.get_running_loop().create_future()
        self._segments: list[bytes] = []
        self._times: list[float] = []
        self._size = 0
        self._whole: int | None = None  # bytes of the reply; 0: it comes in chunks
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        """asyncio: a segment."""
        self._times.append(time.perf_counter())
        self._segments.append(data)
        self._size += len(data)
        if self._whole is None:
            self._whole = self._length()
        if self._whole:
            if self._size >= self._whole:
                self._settle()
        elif data.endswith(_LAST_CHUNK) or self._ends_in_pieces(data):
            self._settle()

    def _length(self) -> int | None:
        head, end, _ = b"".join(self._segments).partition(b"\r\n\r\n")
        if not end:
            return None
        length = _LENGTH.search(head)
        return len(head) + len(end) + int(length[1]) if length else 0

    def _ends_in_pieces(self, data: bytes) -> bool:
        if len(data) >= len(_LAST_CHUNK):
            return False
        return b"".join(self._segments[-len(_LAST_CHUNK) :]).endswith(_LAST_CHUNK)

    def _settle(self) -> None:
        reply = parse(self._segments, self._times)
        if reply and self._done and not self._done.done():
            self._done.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the server closed it."""
        if self._done and not self._done.done():
            status = "cut_stream" if self._segments else "connection"
            words = f"the connection closed: {exc}"
            self._done.set_result(Reply(status, time.perf_counter(), words=words))

    def abort(self) -> None:
        """Leave, so that the server sees it."""
        self._transport.abort()


class Load:
    """Sends `requests` (whole HTTP requests) to host:port in a seeded order."""

    def __init__(
        self, host: str, port: int, requests: Sequence[bytes], *, seed: int, timeout_s: float
    ) -> None:
        self._host = host
        self._port = port
        self._random = np.random.default_rng(seed)
        order = self._random.permutation(len(requests)).tolist()
        self._next = itertools.cycle([requests[place] for place in order])
        self._timeout_s = timeout_s
        self._idle: list[Stream] = []
        self.answers: list[Answer] = []
        self.begin = self.end = 0.0  # of the window that is measured
        self.cpu_s = 0.0  # of this process, in the window

    async def closed(self, concurrency: int, warmup_s: float, seconds: float) -> None:
        """`concurrency` requests in flight at any time."""
        self._open_window(warmup_s, seconds)
        slots = (self._slot() for _ in range(concurrency))
        await asyncio.gather(self._measure_itself(), *slots)

    async def poisson(self, rate_rps: float, warmup_s: float, seconds: float) -> None:
        """Requests at times of a Poisson process, drawn at once and kept however late answers
        are."""
        count = self._random.poisson(rate_rps * (warmup_s + seconds))
        times = np.sort(self._random.uniform(-warmup_s, seconds, count))
        self._open_window(warmup_s, seconds)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure_itself())
            for at in (self.begin + times).tolist():
                await _sleep_until(at)
                tasks.create_task(self._send(at))

    def _open_window(self, warmup_s: float, seconds: float) -> None:
        self.begin = time.perf_counter() + warmup_s
        self.end = self.begin + seconds

    async def _slot(self) -> None:
        while (now := time.perf_counter()) < self.end:
            if not (await self._send(now)).is_ok:
                await asyncio.sleep(PAUSE_S)

    async def _send(self, intended: float) -> Answer:
        request = next(self._next)
        sent = time.perf_counter()
        reply = await self._reply_to(request)
        answer = Answer(min(intended, sent), sent, reply)
        self.answers.append(answer)
        return answer

    async def _reply_to(self, request: bytes) -> Reply:
        stream = None
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._idle:
                    stream = self._idle.pop()
                    if not stream.is_open:
                        continue
                    reply = await stream.ask(request)
                    if reply.status != "connection":  # else it was closed since its last answer
                        return self._kept(stream, reply)
                loop = asyncio.get_running_loop()
                _, stream = await loop.create_connection(Stream, self._host, self._port)
                return self._kept(stream, await stream.ask(request))
        except TimeoutError:
            if stream:
                stream.abort()
            return Reply("timeout", time.perf_counter())
        except OSError as error:
            return Reply("connection", time.perf_counter(), words=str(error))

    def _kept(self, stream: Stream, reply: Reply) -> Reply:
        if reply.is_reusable:
            self._idle.append(stream)
        else:
            stream.abort()
        return reply

    async def _measure_itself(self) -> None:
        await _sleep_until(self.begin)
        before = time.process_time()
        await _sleep_until(self.end)
        self.cpu_s = time.process_time() - before


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.perf_counter()))


def summary(load: Load) -> dict[str, Any]:
    """What was measured, of the requests that were due in the window; the latency of one that
    failed is infinite."""
    seconds = load.end - load.begin
    timed = [each for each in load.answers if load.begin <= each.since < load.end]
    failed = [each for each in timed if not each.is_ok]
    refused = [each.reply.ended - each.since for each in failed if each.reply.status == "http_429"]
    ok = [each for each in load.answers if each.is_ok]
    shares = [_share_within(each.reply, load.begin, load.end) for each in ok]
    tokens = [each.reply.tokens for each in ok]
    words = {each.reply.status: each.reply.words for each in failed}
    return {
        "requests": len(timed),
        "failed": len(failed),
        "statuses": Counter(each.reply.status for each in timed),
        "words": words,
        "requests_s": sum(shares) / seconds,
        "tok_s": float(np.dot(shares, tokens)) / seconds,
        "ttft_ms": _percentiles([_latency(each, each.reply.first) for each in timed]),
        "e2e_ms": _percentiles([_latency(each, each.reply.ended) for each in timed]),
        "refused_ms": _percentiles(refused),
        "lag_ms": _percentiles([each.sent - each.since for each in timed]),
        "tokens_in_all": sum(tokens),  # also before and after the window
        "events_in_all": sum(each.reply.events for each in ok),
        "client_cores": round(load.cpu_s / seconds, 4),
    }


def _latency(answer: Answer, until: float) -> float:
    return until - answer.since if answer.is_ok else float("inf")


def _share_within(reply: Reply, begin: float, end: float) -> float:
    """How much of an answer came in the window, as if its tokens had come evenly between the first
    and the last: equal answers end in batches, and whole ones would jump by that many."""
    if reply.last <= reply.first:  # all at once
        return float(begin <= reply.first < end)
    within = min(reply.last, end) - max(reply.first, begin)
    return max(0.0, within) / (reply.last - reply.first)


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """In milliseconds; None without a value."""
    if not seconds:
        return None
    found = np.percentile(seconds, (50, 95, 99), method="inverted_cdf")
    p50, p95, p99 = np.round(1000 * found, 3).tolist()
    return {"p50": p50, "p95": p95, "p99": p99}


def http_requests(url: str, model: str, prompts: Path, body: dict[str, Any]) -> list[bytes]:
    """One for each line of a JSONL file with `prompt`, rendered once."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path}/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        "content-type: application/json\r\ncontent-length: "
    )
    fixed = {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    } | body
    requests = []
    for line in prompts.read_text().splitlines():
        messages = [{"role": "user", "content": json.loads(line)["prompt"]}]
        content = json.dumps({"messages": messages, **fixed}).encode()
        requests.append(f"{head}{len(content)}\r\n\r\n".encode() + content)
    return requests


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="base URL; ends in /v1")
    parser.add_argument("--model", required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--concurrency", type=int, help="requests in flight at any time")
    how.add_argument("--rate", type=float, help="requests per second, Poisson")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before the window")
    parser.add_argument("--body", type=json.loads, default={}, help="further fields, as JSON")
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL with `prompt`")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and the prompts' order")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one request")
    parser.add_argument("--json", type=Path, help="file of the summary; none: it is printed")
    return parser.parse_args()


def main() -> None:
    """Load the server, and say what was seen."""
    options = _arguments()
    address = urlsplit(options.url)
    assert address.hostname, f"{options.url} has no host"
    requests = http_requests(options.url, options.model, options.prompts, options.body)
    load = Load(
        address.hostname,
        address.port or 80,
        requests,
        seed=options.seed,
        timeout_s=options.timeout,
    )
    if options.rate:
        uvloop.run(load.poisson(options.rate, options.warmup, options.seconds))
    else:
        uvloop.run(load.closed(options.concurrency, options.warmup, options.seconds))
    text = json.dumps(summary(load), indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
