"""An endpoint whose model is a rule: it says the number after the one that it was asked about, and
likes a token the less the larger its id is. So every score of a test is worked out by hand."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a-key-for-tests"
LENGTH = 128  # tokens that it reads


def logprob_of(token: int) -> float:
    """Of any text that comes before it."""
    return -token / 1000


def rank_of(token: int) -> int:
    """Tokens below 100 are what it would say."""
    return 1 if token < 100 else 2


@dataclass
class Endpoint:
    """Its address (/v1), what it was asked, and the statuses that it answers first."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)


def _scored(ids: list[int]) -> list[dict[str, Any] | None]:
    told: list[dict[str, Any] | None] = [None]
    for token in ids[1:]:
        told.append({str(token): {"logprob": logprob_of(token), "rank": rank_of(token)}})
    return told


def _answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if path.endswith("/chat/completions"):
        asked = body["messages"][-1]["content"]
        number = int(re.findall(r"\d+", asked)[0])
        said = f"The answer is {number + 1}.\n\nWhat else?"
        return {"choices": [{"message": {"content": said}}]}
    choice: dict[str, Any] = {"text": " and so on"}
    if "prompt_logprobs" in body:
        choice["prompt_logprobs"] = _scored(body["prompt"])
    return {"choices": [choice]}


@contextlib.contextmanager
def serve(*, knows_logprobs: bool = True) -> Iterator[Endpoint]:
    """On a free port of this machine; the key is KEY."""
    endpoint = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quietly."""

        def _reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status in (429, 503):
                self.send_header("Retry-After", "0.01")
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self._reply(401, {"error": {"message": "missing or wrong API key"}})
            else:
                self._reply(200, {"data": [{"id": "student", "max_model_len": LENGTH}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if endpoint.refusals:
                status = endpoint.refusals.pop()
                self._reply(status, {"error": {"message": f"refused with {status}"}})
                return
            endpoint.bodies.append(body)
            answer = _answer(self.path, body)
            if not knows_logprobs:
                answer["choices"][0].pop("prompt_logprobs", None)
            self._reply(200, answer)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
