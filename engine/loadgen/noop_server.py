"""A server that does nothing but stream: what a client can do against it is the client's ceiling.

    python -m engine.loadgen.noop_server [--step-ms 5]      prints its port on 127.0.0.1

Each request gets `max_tokens` events, as large as vLLM's own, each in a write of its own: the first
at once, and one more at each step to every stream, as an engine's batch gives them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import uvloop

from engine.errors import StageError

HOST = "127.0.0.1"
MODEL = "noop"
STEP_MS = 5.0
BACKLOG = 4096
_ROOT = Path(__file__).parents[2]
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(**fields: Any) -> bytes:
    common = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
    }
    return _chunk(b"data: " + json.dumps(common | fields, separators=(",", ":")).encode() + b"\n\n")


def _choice(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _event(choices=[choice])


ROLE = _choice({"role": "assistant", "content": ""})
TOKEN = _choice({"content": " token"})
LAST = _choice({"content": " end"}, "length")


def usage(tokens: int) -> bytes:
    """The event with the counts of an answer."""
    counts = {"prompt_tokens": 24, "completion_tokens": tokens, "total_tokens": 24 + tokens}
    return _event(choices=[], usage=counts)


def tail(tokens: int) -> bytes:
    """What follows the last token of an answer: its counts, and its end."""
    return usage(tokens) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def body_of(request: bytes) -> bytes | None:
    """A request's body, or None while some of it has not come."""
    head, end, body = request.partition(b"\r\n\r\n")
    _, _, rest = head.lower().partition(b"content-length:")
    if not end or len(body) < int(rest.partition(b"\r\n")[0] or 0):
        return None
    return body


class NoopStream(asyncio.Protocol):
    """One client's connection."""

    _transport: asyncio.Transport

    def __init__(self, streams: set[NoopStream]) -> None:
        self._streams = streams  # those with an answer under way
        self._buffer = b""
        self._tokens = 0
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of a request."""
        self._buffer += data
        body = body_of(self._buffer)
        if body is None:
            return
        self._buffer = b""
        asked = json.loads(body or b"{}")
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or 1
        self._tokens = self._left = limit
        self._transport.write(HEAD + ROLE)
        self._streams.add(self)
        self.step()

    def step(self) -> None:
        """One event more, and after the last one the end."""
        self._left -= 1
        if self._left:
            self._transport.write(TOKEN)
            return
        self._transport.write(LAST + tail(self._tokens))
        self._streams.discard(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it left."""
        self._streams.discard(self)


async def serve(step_ms: float) -> None:
    """Stream until it is ended."""
    streams: set[NoopStream] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: NoopStream(streams), HOST, 0, backlog=BACKLOG
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - its port, to who started it
    while True:
        await asyncio.sleep(step_ms / 1000)
        for stream in list(streams):
            stream.step()


@contextmanager
def noop_server(step_ms: float = STEP_MS) -> Generator[tuple[str, int]]:
    """(base URL, process id) of one in a process of its own, for the length of the block.
    StageError if it does not come."""
    command = [sys.executable, "-m", "engine.loadgen.noop_server", "--step-ms", str(step_ms)]
    paths = [str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        said = process.stdout.readline()
        if not said:
            raise StageError(
                f"loadtest: the server that only streams ended with status {process.wait()}"
            )
        yield f"http://{HOST}:{int(said)}/v1", process.pid
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Stream until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-ms", type=float, default=STEP_MS, help="between two tokens")
    options = parser.parse_args()
    uvloop.run(serve(options.step_ms))


if __name__ == "__main__":
    main()
