"""A local server in place of other people's: OpenAI's and Anthropic's protocols, with usage, and
with log-probabilities where they are asked for. It takes a key of its own, so that nobody's key
leaves the machine.

It says the question's own words again; a judge's question it answers with a verdict.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a key of the rehearsal"
_WORDS = 12  # of the question, in an answer
_SCORE = re.compile(r"whole number from (-?\d+) ")  # of engine/rows/judging/questions.py


@contextmanager
def answering() -> Generator[str]:
    """Its address for the length of the block, without `/v1`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The list of models, which is asked for before the first answer."""
        if self._has_key():
            self._send(200, {"object": "list", "data": [], "has_more": False})

    def do_POST(self) -> None:
        """An answer in the protocol of the path."""
        length = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(length))
        if not self._has_key():
            return
        build = _message if self.path.endswith("/messages") else _completion
        self._send(200, build(asked, _words_for(asked)))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quietly."""

    def _has_key(self) -> bool:
        given = [self.headers.get(name) for name in ("Authorization", "x-api-key", "api-key")]
        if KEY in given or f"Bearer {KEY}" in given:
            return True
        self._send(401, {"error": {"message": "this is a rehearsal, which takes its own key"}})
        return False

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _words_for(asked: dict[str, Any]) -> list[str]:
    question = _text_of(asked["messages"][-1]["content"])
    if '{"verdict": "A"}' in question:
        return ["Both", "will", "do.", '{"verdict": "tie"}']
    if score := _SCORE.search(question):
        return ["It", "will", "do.", f'{{"score": {score[1]}}}']
    return ["You", "say:", *question.split()[:_WORDS]]


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [str(block.get("text", "")) for block in content or ()]
    return " ".join(texts)


def _words_in(asked: dict[str, Any]) -> int:
    count = 0
    for message in asked["messages"]:
        text = _text_of(message["content"])
        count += len(text.split())
    return count


def _message(asked: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """In Anthropic's protocol."""
    return {
        "id": "rehearsal",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "content": [{"type": "text", "text": " ".join(words)}],
        "usage": {"input_tokens": _words_in(asked), "output_tokens": len(words)},
    }


def _completion(asked: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """In OpenAI's protocol; a word is a token."""
    message = {"role": "assistant", "content": " ".join(words), "refusal": None}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
    if asked.get("logprobs"):
        positions = [_position(asked, word) for word in words]
        choice["logprobs"] = {"content": positions}
    taken = _words_in(asked)
    usage = {"prompt_tokens": taken, "completion_tokens": len(words)}
    usage["total_tokens"] = taken + len(words)
    return {
        "id": "rehearsal",
        "object": "chat.completion",
        "created": 0,
        "model": asked["model"],
        "choices": [choice],
        "usage": usage,
    }


def _position(asked: dict[str, Any], word: str) -> dict[str, Any]:
    """A token's log-probabilities: one half, one quarter, and so on."""
    texts = [word]
    for number in range(1, asked.get("top_logprobs") or 0):
        texts.append(f"{word}{number}")
    if asked.get("return_tokens_as_token_ids"):
        texts = [f"token_id:{number}" for number in range(len(texts))]
    top = []
    for number, text in enumerate(texts, 1):
        top.append({"token": text, "logprob": -0.6931 * number, "bytes": None})
    return top[0] | {"top_logprobs": top}
