"""A local server of both vendors' batch APIs, whose batches go as a test wants: slow, partial,
expired, failed, cancelled; and what it was asked, batch by batch."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doubles import misbehaving_api
from doubles.live import served
from doubles.misbehaving_api import KEY

OK = "ok"
# Of a request, beside OK and an error's status as text: "400".
EXPIRED, CANCELLED, LOST = "expired", "cancelled", "lost"
Fate = Callable[["Held", str], str]  # batch, prompt -> what becomes of the request


@dataclass
class Held:
    """A batch: its requests by custom id, as they were asked."""

    number: int
    id: str
    requests: dict[str, dict[str, Any]]
    metadata: dict[str, str] | None = None
    made: float = field(default_factory=time.time)
    is_cancelled: bool = False
    looks: int = 0

    def prompts(self) -> list[str]:
        return [prompt_of(body) for body in self.requests.values()]


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


@dataclass
class Plan:
    """How the server behaves; `fails` gives the errors of a batch that is not begun (OpenAI's),
    `on_make` a status in place of a batch's id: negative where it is made all the same."""

    slow_s: float = 0.0  # from a batch's making to its end
    fate: Fate = lambda held, prompt: OK
    fails: Callable[[Held], list[dict[str, Any]]] = lambda held: []
    on_make: Callable[[int], int] = lambda number: 200
    words: str = "no such thing"


@dataclass
class BatchApi:
    url: str
    plan: Plan
    batches: list[Held] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    makes: int = 0  # requests to make one

    def asked(self) -> Counter[str]:
        """How often each prompt was answered, and so charged."""
        charged: Counter[str] = Counter()
        for held in self.batches:
            if self.plan.fails(held):
                continue
            for prompt in held.prompts():
                if self.plan.fate(held, prompt) in (OK, LOST):
                    charged[prompt] += 1
        return charged

    def has_ended(self, held: Held) -> bool:
        return held.is_cancelled or time.time() >= held.made + self.plan.slow_s

    def fate(self, held: Held, body: dict[str, Any]) -> str:
        return self.plan.fate(held, prompt_of(body))


def _error(words: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": words}}


# OpenAI


def _openai_state(api: BatchApi, held: Held) -> dict[str, Any]:
    errors = api.plan.fails(held)
    fates = [api.fate(held, body) for body in held.requests.values()]
    status = "validating" if held.looks < 2 else "in_progress"
    state: dict[str, Any] = {}
    if errors:
        status = "failed"
        state["errors"] = {"object": "list", "data": errors}
    elif api.has_ended(held):
        status = "cancelled" if held.is_cancelled else "completed"
        status = "expired" if EXPIRED in fates else status
        state |= {"output_file_id": f"out-{held.id}", "error_file_id": f"err-{held.id}"}
    done = len(fates) if api.has_ended(held) else 0
    counts = {"total": len(fates), "completed": done, "failed": 0}
    return state | {
        "id": held.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "created_at": int(held.made),
        "input_file_id": "file",
        "status": status,
        "metadata": held.metadata,
        "request_counts": counts,
    }


def _openai_lines(api: BatchApi, held: Held, of_errors: bool) -> Iterator[dict[str, Any]]:
    for custom_id, body in reversed(held.requests.items()):
        fate = api.fate(held, body)
        line = {"id": "r", "custom_id": custom_id, "response": None, "error": None}
        if fate in (EXPIRED, CANCELLED):
            line["error"] = {"code": f"batch_{fate}", "message": "it was not executed"}
        elif fate == OK:
            _, said = misbehaving_api.answer("/v1/chat/completions", body)
            line["response"] = {"status_code": 200, "request_id": "r", "body": said}
        elif fate.isdigit():
            line["response"] = {"status_code": int(fate), "body": _error(api.plan.words)}
        if fate != LOST and (fate != OK) == of_errors:
            yield line


def _openai_routes(api: BatchApi) -> list[Route]:
    async def upload(request: Request) -> Response:
        async with request.form() as form:
            content = await form["file"].read()
        name = f"file-{len(api.files)}"
        api.files[name] = content
        return JSONResponse({"id": name, "object": "file", "bytes": len(content)})

    async def make(request: Request) -> Response:
        asked = await request.json()
        requests = {}
        for line in api.files[asked["input_file_id"]].splitlines():
            told = json.loads(line)
            assert (told["method"], told["url"]) == ("POST", asked["endpoint"])
            requests[told["custom_id"]] = told["body"]
        return _made(api, requests, asked["metadata"], _openai_state)

    async def content(request: Request) -> Response:
        kind, _, batch = request.path_params["id"].partition("-")
        lines = _openai_lines(api, _held(api, batch), kind == "err")
        return Response("".join(json.dumps(line) + "\n" for line in lines))

    return [
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files/{id}/content", content),
        *_shared(api, "/v1/batches", make, _openai_state),
    ]


# Anthropic


def _anthropic_state(api: BatchApi, held: Held) -> dict[str, Any]:
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    has_ended = api.has_ended(held)
    counts["succeeded" if has_ended else "processing"] = len(held.requests)
    return {
        "id": held.id,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "in_progress",
        "request_counts": counts,
        "created_at": datetime.fromtimestamp(held.made, UTC).isoformat(),
        "expires_at": datetime.fromtimestamp(held.made + 86_400, UTC).isoformat(),
        "results_url": f"{api.url}/v1/messages/batches/{held.id}/results" if has_ended else None,
    }


def _anthropic_lines(api: BatchApi, held: Held) -> Iterator[dict[str, Any]]:
    for custom_id, body in reversed(held.requests.items()):
        fate = api.fate(held, body)
        result: dict[str, Any] = {"type": "canceled" if fate == CANCELLED else fate}
        if fate == OK:
            _, said = misbehaving_api.answer("/v1/messages", body)
            result = {"type": "succeeded", "message": said}
        elif fate.isdigit():
            kind = "api_error" if int(fate) >= 500 else "invalid_request_error"
            result = {"type": "errored", "error": _error(api.plan.words, kind)}
        if fate != LOST:
            yield {"custom_id": custom_id, "result": result}


def _anthropic_routes(api: BatchApi) -> list[Route]:
    async def make(request: Request) -> Response:
        asked = await request.json()
        requests = {one["custom_id"]: one["params"] for one in asked["requests"]}
        assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in requests)
        return _made(api, requests, None, _anthropic_state)

    async def results(request: Request) -> Response:
        lines = _anthropic_lines(api, _held(api, request.path_params["id"]))
        return Response("".join(json.dumps(line) + "\n" for line in lines))

    return [
        Route("/v1/messages/batches/{id}/results", results),
        *_shared(api, "/v1/messages/batches", make, _anthropic_state),
    ]


# Both


def _held(api: BatchApi, name: str) -> Held:
    (held,) = [one for one in api.batches if one.id == name]
    return held


def _made(api: BatchApi, requests: dict, metadata: dict | None, state_of: Any) -> Response:
    assert requests
    api.makes += 1
    status = api.plan.on_make(api.makes)
    held = Held(len(api.batches) + 1, f"batch_{len(api.batches) + 1}", requests, metadata)
    if status == 200 or status < 0:
        api.batches.append(held)
    if status != 200:
        return JSONResponse(_error(api.plan.words), abs(status))
    return JSONResponse(state_of(api, held))


def _shared(api: BatchApi, path: str, make: Any, state_of: Any) -> list[Route]:
    async def listed(request: Request) -> Response:
        data = [state_of(api, held) for held in reversed(api.batches)]
        return JSONResponse({"object": "list", "data": data, "has_more": False})

    async def look(request: Request) -> Response:
        held = _held(api, request.path_params["id"])
        held.looks += 1
        return JSONResponse(state_of(api, held))

    async def cancel(request: Request) -> Response:
        held = _held(api, request.path_params["id"])
        held.is_cancelled = True
        return JSONResponse(state_of(api, held))

    return [
        Route(path, make, methods=["POST"]),
        Route(path, listed),
        Route(path + "/{id}", look),
        Route(path + "/{id}/cancel", cancel, methods=["POST"]),
    ]


@contextlib.contextmanager
def serve(plan: Plan | None = None) -> Iterator[BatchApi]:
    """Both APIs on a free loopback port: `url` for Claude's client, `url`/v1 for OpenAI's; the key
    is KEY."""
    listener = socket.create_server(("127.0.0.1", 0))
    api = BatchApi(f"http://127.0.0.1:{listener.getsockname()[1]}", plan or Plan())

    async def models(request: Request) -> Response:
        given = request.headers
        if KEY not in (given.get("x-api-key"), given.get("authorization", "")[len("Bearer ") :]):
            return JSONResponse(_error("Incorrect API key provided"), 401)
        return JSONResponse({"object": "list", "data": [], "has_more": False})

    routes = [Route("/v1/models", models), *_openai_routes(api), *_anthropic_routes(api)]
    with served(Starlette(routes=routes), listener):
        yield api
