"""A server that answers as vLLM's would, from an engine whose step is a sleep: for tests of what
stands around a model, never for a claim about one.

`engine_args` of its model: `step_s` (seconds per step of the whole batch), `start_s`,
`starts_with`: a file that it waits for, `tokens`, how many an answer has if the request does not
say, and `faulty`: it fails at all. An answer repeats the last message's words, so that each can be
told from every other; a word is a token.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.serving.replica import ModelServer, ServedModel


class FakeServer(ModelServer):
    """As many answers at a time as `max_num_seqs`; the others wait for their turn."""

    def __init__(self, served: ServedModel) -> None:
        engine = served.model.engine
        options = engine.engine_args
        self._step_s: float = options.get("step_s", 0.005)
        self._start_s: float = options.get("start_s", 0.0)
        self._starts_with: str | None = options.get("starts_with")
        self._tokens: int = options.get("tokens", 16)
        self._is_faulty: bool = options.get("faulty", False)
        self._steps = 0
        self._stepped = asyncio.Condition()
        self.batch = engine.max_num_seqs or 32
        self._turn = asyncio.Semaphore(self.batch)
        self._unfinished = 0
        self._prefilling = 0  # words of requests that have no first token
        self._most_tokens = served.max_queued_tokens
        self._most = None if served.max_queued is None else self.batch + served.max_queued
        self._numbers = itertools.count()
        names = (served.model.name, *served.adapters)
        self.cards = tuple((name, engine.max_model_len or 4096) for name in names)
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
                Route("/v1/completions", self._answer, methods=["POST"]),
                Route("/metrics", self._metrics),
            ]
        )

    async def start(self) -> None:
        """Begin to step."""
        await asyncio.sleep(self._start_s)
        while self._starts_with and not os.path.exists(self._starts_with):
            await asyncio.sleep(0.05)
        self._stepping = asyncio.create_task(self._step())

    async def _step(self) -> None:
        while True:
            await asyncio.sleep(self._step_s)
            async with self._stepped:
                self._steps += 1
                self._stepped.notify_all()

    @property
    def unfinished(self) -> int:
        """Requests that have begun or wait."""
        return self._unfinished

    @property
    def has_died(self) -> bool:
        """Whether it steps no more."""
        return self._stepping.done()

    async def check_health(self) -> None:
        """Raise if it steps no more."""
        if self.has_died:
            raise RuntimeError("the fake engine has ended")

    def shutdown(self) -> None:
        """Step no more."""
        self._stepping.cancel()

    async def _metrics(self, request: Request) -> Response:
        model = self.cards[0][0]
        return PlainTextResponse(
            "# TYPE vllm:generation_tokens counter\n"
            f'vllm:generation_tokens_total{{model_name="{model}"}} {next(self._numbers)}\n'
        )

    async def _answer(self, request: Request) -> Response:
        asked = await request.json()
        messages = asked.get("messages") or [{"content": asked.get("prompt", "")}]
        words = str(messages[-1]["content"]).split() or ["-"]
        if words[0] == "die":
            os._exit(1)
        if words[0] == "fail" or self._is_faulty:
            return _error("Traceback: engine internals", 500)
        if words[0] == "unknown":
            return _error("nobody does this", 501)
        if self._is_full:
            return _error("The engine is currently busy", 503)
        count = asked.get("max_tokens") or self._tokens
        if asked.get("stream"):
            events = self._events(asked, words, count)
            return StreamingResponse(events, media_type="text/event-stream")
        text = " ".join([word async for word in self._words(words, count)])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(
            {"object": "chat.completion", "choices": [choice], "usage": _usage(words, count)}
            | self._head(asked)
        )

    @property
    def _is_full(self) -> bool:
        """As vLLM counts."""
        has_too_many = self._most is not None and self._unfinished >= self._most
        has_too_long = self._most_tokens is not None and self._prefilling >= self._most_tokens
        return has_too_many or has_too_long

    async def _events(self, asked: dict[str, Any], words: list[str], count: int) -> Any:
        head = self._head(asked) | {"object": "chat.completion.chunk"}
        async for word in self._words(words, count):
            delta = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            yield _event(head | {"choices": [delta]})
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield _event(head | {"choices": [end]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            yield _event(head | {"choices": [], "usage": _usage(words, count)})
        yield "data: [DONE]\n\n"

    async def _words(self, words: list[str], count: int) -> Any:
        """One word per step, of a request that has its turn."""
        self._unfinished += 1
        waiting = len(words)
        self._prefilling += waiting
        try:
            async with self._turn:
                for number in range(count):
                    async with self._stepped:
                        await self._stepped.wait()
                    self._prefilling -= waiting
                    waiting = 0
                    yield words[number % len(words)]
        finally:
            self._prefilling -= waiting
            self._unfinished -= 1

    def _head(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"id": f"fake-{os.getpid()}-{next(self._numbers)}", "model": asked.get("model")}


def _usage(words: list[str], count: int) -> dict[str, int]:
    return {
        "prompt_tokens": len(words),
        "completion_tokens": count,
        "total_tokens": len(words) + count,
    }


def _error(message: str, status: int) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
