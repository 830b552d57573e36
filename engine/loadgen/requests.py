"""Whole HTTP requests, rendered before they are due: sending one costs a write."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from engine.loadgen.target import Shape, Target
from engine.rows.records import Messages


class Requests:
    """Renders the requests of one target; prompts that are sent as they are, are rendered once."""

    def __init__(self, target: Target, shape: Shape, prompts: Sequence[Messages]) -> None:
        lines = [f"POST {target.address().path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in target.all_headers().items()]
        head = "\r\n".join(lines) + "\r\ncontent-length: "
        self._head = head.encode("latin-1")
        self._prompts = prompts
        self._rendered: dict[int, bytes] = {}
        self._limit_field = json.dumps(shape.limit_field).encode()
        self._limit: Any = shape.max_tokens
        fields: dict[str, Any] = {
            "model": target.model,
            "temperature": shape.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | dict(shape.body)
        if shape.limit_field in fields:  # in `body`
            self._limit = fields.pop(shape.limit_field)
        kept = {name: value for name, value in fields.items() if value is not None}
        kept.pop("messages", None)
        self._fields = json.dumps(kept).encode()[1:]

    def render(self, prompt: int, limit: int | None = None, words: int | None = None) -> bytes:
        """The request of a prompt, with `limit` tokens at most (None: the shape's), its last
        message cut or repeated to so many `words`."""
        if words is not None:
            messages = _encoded(self.messages(prompt, words))
        elif prompt in self._rendered:
            messages = self._rendered[prompt]
        else:
            messages = self._rendered[prompt] = _encoded(self._prompts[prompt])
        return self._request(messages, limit)

    def messages(self, prompt: int, words: int | None = None) -> Messages:
        """Those of a prompt, as they are or of so many words."""
        if words is None:
            return self._prompts[prompt]
        return resized(self._prompts[prompt], words)

    def render_messages(self, messages: Messages, limit: int | None = None) -> bytes:
        """The request of a conversation."""
        return self._request(_encoded(messages), limit)

    def _request(self, messages: bytes, drawn: int | None) -> bytes:
        limit = self._limit if drawn is None else drawn
        bound = b""
        if limit is not None:
            bound = b"%b: %b, " % (self._limit_field, json.dumps(limit).encode())
        body = b'{"messages": %b, %b%b' % (messages, bound, self._fields)
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


def _encoded(messages: Messages) -> bytes:
    return json.dumps(messages).encode()


def resized(messages: Messages, words: int) -> Messages:
    """The messages with the last one's text cut, or repeated, to so many words."""
    *before, last = messages
    known = last["content"].split() or ["word"]
    taken = itertools.islice(itertools.cycle(known), words)
    return [*before, last | {"content": " ".join(taken)}]
