"""An OpenAI-compatible server without a model, with fault knobs: what the load generator is tried
against."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered; times in seconds."""

    status: int = 200
    ttft_s: float = 0.0
    gap_s: float = 0.0
    tokens: int = 4
    tokens_per_chunk: int = 1
    cut_after: int | None = None  # chunks after which the connection drops
    hang_after: int | None = None  # chunks after which nothing comes any more
    usage: bool = True


@dataclass
class FakeServer:
    """A running server: its address and every request body that it got, in order."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def serve(behave: Callable[[int], Behaviour] = lambda index: Behaviour()) -> Iterator[FakeServer]:
    """Answer /v1/chat/completions streams on a free loopback port; request number `index` gets
    `behave(index)`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = FakeServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        server.requests.append(await request.json())
        behaviour = behave(len(server.requests) - 1)
        if behaviour.status != 200:
            return JSONResponse(
                {"error": {"message": f"fault {behaviour.status}"}}, behaviour.status
            )
        return StreamingResponse(_stream(behaviour), media_type="text/event-stream")

    live = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=live.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not live.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server
    finally:
        live.should_exit = True
        thread.join()


def _event(**fields: Any) -> str:
    return (
        "data: "
        + json.dumps(
            {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "fake", **fields}
        )
        + "\n\n"
    )


async def _stream(behaviour: Behaviour) -> AsyncIterator[str]:
    def choice(**delta: str) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": None}]

    yield _event(choices=choice(role="assistant", content=""))
    for chunk, done in enumerate(range(0, behaviour.tokens, behaviour.tokens_per_chunk)):
        if chunk == behaviour.hang_after:
            await asyncio.Event().wait()
        if chunk == behaviour.cut_after:
            raise ConnectionAbortedError("fault: cut")
        await asyncio.sleep(behaviour.gap_s if chunk else behaviour.ttft_s)
        yield _event(
            choices=choice(content="w " * min(behaviour.tokens_per_chunk, behaviour.tokens - done))
        )
    yield _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if behaviour.usage:
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": behaviour.tokens,
            "total_tokens": 7 + behaviour.tokens,
        }
        yield _event(choices=[], usage=usage)
    yield "data: [DONE]\n\n"
