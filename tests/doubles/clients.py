"""Clients of an endpoint of fake engines, that see what becomes of each request."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

KEY = {"Authorization": "Bearer right"}


class Load:
    """`clients` ask one after the other until the block ends; each answer must carry its request's
    mark. Statuses are HTTP's, `cut` for a broken answer, `not let in` where none began; one that
    failed is asked `retries` times more, after a breath as the openai client does: for some
    milliseconds the kernel takes connections for a killed process whose socket it has not closed
    yet. `verify` is httpx's."""

    def __init__(
        self,
        url: str,
        clients: int = 4,
        tokens: int = 20,
        retries: int = 0,
        stream: bool = False,
        verify: Any = True,
    ) -> None:
        self.statuses: Counter[Any] = Counter()
        self.wrong = 0
        self._url = url
        self._tokens = tokens
        self._retries = retries
        self._stream = stream
        self._verify = verify
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, number: int) -> None:
        options = {"headers": KEY, "timeout": 60, "verify": self._verify}
        with httpx.Client(base_url=self._url, **options) as client:
            for turn in range(1_000_000):
                if self._done.is_set():
                    return
                mark = f"mark-{number}-{turn}"
                body = {"model": "m", "max_tokens": self._tokens, "stream": self._stream}
                body["messages"] = [{"role": "user", "content": mark}]
                for attempt in range(1 + self._retries):
                    if attempt:
                        time.sleep(0.5)
                    status, text = self._answer(client, body)
                    if status == 200:
                        break
                self.statuses[status] += 1
                if status == 200:
                    self.wrong += text.split() != [mark] * self._tokens

    def _answer(self, client: httpx.Client, body: dict[str, Any]) -> tuple[Any, str]:
        begun = False
        try:
            with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                begun = True
                reply.read()
        except httpx.TransportError:
            return "cut" if begun else "not let in", ""
        if reply.status_code != 200:
            return reply.status_code, ""
        if not self._stream:
            return 200, reply.json()["choices"][0]["message"]["content"]
        events = re.findall(r"data: (\{.*\})", reply.text)
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
        return 200, "".join(delta.get("content", "") for delta in deltas)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until it holds; fail where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
