"""Both vendors' clients against a local server that speaks their protocols and fails now and then."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.backends.answering import Sampling
from engine.backends.api_teacher import AnthropicTeacher, OpenAITeacher
from engine.errors import SpecError
from engine.spec import CaptureSpec, TeacherSpec

CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}]
OPENAI = {
    "id": "1", "object": "chat.completion", "created": 0, "model": "m",
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "#### 5"}}],
}
ANTHROPIC = {
    "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "max_tokens", "stop_sequence": None,
    "content": [{"type": "text", "text": "#### 5"}], "usage": {"input_tokens": 9, "output_tokens": 4},
}


@pytest.fixture
def server():
    """Refuses the first request with 429, then answers; remembers what it was asked."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            reply = json.dumps(OPENAI if "completions" in self.path else ANTHROPIC).encode()
            self.send_response(429 if len(seen) == 1 else 200)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", seen
    httpd.shutdown()


def ask(kind, name, url, monkeypatch):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", "k-123")
    teacher = TeacherSpec(name="api", kind=name, model="m", base_url=url, api_key_env="DISTILL_TEST_API_KEY")
    engine = kind(teacher, CaptureSpec(), device="cpu", attempts=3)
    return asyncio.run(engine.generate(engine.encode([CONVERSATION])[0], Sampling(0.7, 32, seed=5)))


def test_the_openai_protocol_is_retried_after_429_and_gives_text_and_usage(server, monkeypatch):
    url, seen = server
    answer = ask(OpenAITeacher, "openai", f"{url}/v1", monkeypatch)
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("#### 5", "stop", 9, 4)
    assert len(seen) == 2
    path, headers, body = seen[-1]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer k-123"
    assert (body["seed"], body["max_completion_tokens"], body["temperature"]) == (5, 32, 0.7)


def test_the_anthropic_protocol_gets_the_system_message_apart(server, monkeypatch):
    url, seen = server
    answer = ask(AnthropicTeacher, "anthropic", url, monkeypatch)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("#### 5", "length", 4)
    path, _, body = seen[-1]
    assert path == "/v1/messages"
    assert body["system"] == "Be brief."
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("DISTILL_TEST_API_KEY", raising=False)
    teacher = TeacherSpec(name="api", kind="openai", model="m", api_key_env="DISTILL_TEST_API_KEY")
    with pytest.raises(SpecError, match="DISTILL_TEST_API_KEY is not set"):
        OpenAITeacher(teacher, CaptureSpec(), device="cpu", attempts=1)
