"""A local API of both protocols that misbehaves at known rates, and its own history of what it was
asked and when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from doubles.live import served

KEY = "sk-canary-of-the-key"
Answer = Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Faults:
    """Fractions of calls that go wrong, drawn in the order of arrival from `seed`; the remaining
    ones are answered."""

    busy: float = 0.0  # 429 with Retry-After
    error: float = 0.0  # 500
    hang: float = 0.0  # no answer while the client waits
    cut: float = 0.0  # half a JSON: every other time the connection drops as well
    retry_after: str = "0.05"
    capacity: int | None = None  # 429 as well for whoever comes while that many are being answered
    latency_s: float = 0.0  # of an answer
    seed: int = 0
    models_status: int = 200  # of the free route


@dataclass
class Call:
    """One request: time of arrival (time.monotonic), what was asked, and how it went."""

    arrived: float
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    status: int = 0
    answered: float = 0.0


@dataclass
class Api:
    """A running server. `calls` are the paid ones, in the order of arrival."""

    url: str
    faults: Faults
    calls: list[Call] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0

    def statuses(self, status: int) -> list[Call]:
        """The calls that got `status`."""
        return [call for call in self.calls if call.status == status]

    def early_calls(self, grace_s: float) -> list[Call]:
        """Calls that arrived before the Retry-After of an earlier refusal had passed; `grace_s` is
        for what was on its way."""
        pause = float(self.faults.retry_after)
        return [
            call
            for call in self.calls
            if any(
                refusal.answered + grace_s < call.arrived < refusal.answered + pause
                for refusal in self.statuses(429)
            )
        ]


def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The last turn again, in the protocol of the path; 9 tokens in, 4 out."""
    text = "echo: " + body["messages"][-1]["content"]
    if path.endswith("/messages"):
        return 200, {
            "id": "1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "content": [{"type": "text", "text": text}],
            "usage": {"input_tokens": 9, "output_tokens": 4},
        }
    return 200, completion(body["model"], {"role": "assistant", "content": text})


def completion(model: str, message: dict[str, Any]) -> dict[str, Any]:
    """An answer in OpenAI's protocol; 9 tokens in, 4 out."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }


@contextlib.contextmanager
def serve(faults: Faults = Faults(), answer: Answer = answer) -> Iterator[Api]:
    """An API on a free loopback port: `url` for Claude and Azure clients, `url`/v1 for OpenAI
    clients; the key is KEY."""
    listener = socket.create_server(("127.0.0.1", 0))
    api, draw, closing = (
        Api(f"http://127.0.0.1:{listener.getsockname()[1]}", faults),
        random.Random(faults.seed),
        asyncio.Event(),
    )

    def allowed(request: Request) -> bool:
        given = request.headers
        return KEY in (
            given.get("authorization", "").removeprefix("Bearer "),
            given.get("x-api-key"),
            given.get("api-key"),
        )

    async def models(request: Request) -> Response:
        if not allowed(request):
            return JSONResponse(
                {"error": {"message": f"Incorrect API key provided: {dict(request.headers)}"}}, 401
            )
        return JSONResponse({"object": "list", "data": [], "has_more": False}, faults.models_status)

    async def ask(request: Request) -> Response:
        call = Call(time.monotonic(), request.url.path, await request.json(), dict(request.headers))
        api.calls.append(call)
        api.open_now += 1
        api.most_open = max(api.most_open, api.open_now)
        try:
            response = await reply(request, call)
        finally:
            api.open_now -= 1
        call.status, call.answered = call.status or response.status_code, time.monotonic()
        return response

    async def reply(request: Request, call: Call) -> Response:
        if not allowed(request):
            return JSONResponse(
                {"error": {"message": f"Incorrect API key provided: {call.headers}"}}, 401
            )
        rates = {"busy": faults.busy, "error": faults.error, "hang": faults.hang, "cut": faults.cut}
        (fault,) = draw.choices([*rates, "none"], [*rates.values(), 1 - sum(rates.values())])
        if fault == "busy" or (faults.capacity and api.open_now > faults.capacity):
            return JSONResponse(
                {"error": {"message": "slow down"}}, 429, {"Retry-After": faults.retry_after}
            )
        if fault == "error":
            return JSONResponse({"error": {"message": f"crashed on {json.dumps(call.body)}"}}, 500)
        if fault == "hang":
            call.status = -1
            while not closing.is_set() and not await request.is_disconnected():
                await asyncio.sleep(0.02)
            return Response()
        await asyncio.sleep(faults.latency_s)
        status, content = answer(call.path, call.body)
        if fault == "cut":
            call.status = -2
            whole = json.dumps(content).encode()
            if len(api.statuses(-2)) % 2:
                return Response(whole[: len(whole) // 2], media_type="application/json")
            return StreamingResponse(
                _dropped(whole),
                media_type="application/json",
                headers={"Content-Length": str(len(whole))},
            )
        return Response(
            json.dumps(content), status, media_type="application/json"
        )  # escaped: half a surrogate pair may pass

    paths = ("/v1/chat/completions", "/v1/messages", "/openai/deployments/{name}/chat/completions")
    routes = [Route(path, ask, methods=["POST"]) for path in paths] + [
        Route(path, models) for path in ("/v1/models", "/openai/models")
    ]
    with served(Starlette(routes=routes), listener):
        try:
            yield api
        finally:
            closing.set()


async def _dropped(whole: bytes) -> AsyncIterator[bytes]:
    yield whole[: len(whole) // 2]
    raise ConnectionAbortedError("fault: cut")
