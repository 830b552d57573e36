"""Where requests go, and what each asks for."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from engine.errors import SpecError
from engine.loadgen.distributions import Distribution

PATH = "/chat/completions"
MASK = "***"
_KEY_LIKE = re.compile(r"(?i)\b(sk-|bearer\s+|api[-_]?key[\"':=\s]+)[\w.~+/-]{6,}")
_VISIBLE = re.compile(r"[\x20-\x7e\x80-\xff]*")  # what a header may hold


@dataclass(frozen=True)
class Address:
    """Of a server, and the path of its chat completions with their query."""

    host: str
    port: int
    path: str
    is_tls: bool
    name: str  # what the Host header says


@dataclass(frozen=True)
class Target:
    """One model behind an OpenAI-compatible address. SpecError for an address that is none."""

    url: str  # the base, usually .../v1: /chat/completions is added to its path, a query stays
    model: str
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify_tls: bool = True
    ca_file: str | None = None  # certificates to trust beside the system's

    def __post_init__(self) -> None:
        self.address()  # an error now, not when a level has begun
        for name, value in self.all_headers().items():
            if not _VISIBLE.fullmatch(f"{name}{value}"):
                raise SpecError(
                    f"the header {name!r} holds a character that HTTP cannot send; is there a line"
                    " break in a key?"
                )

    def address(self) -> Address:
        """The address in its parts."""
        try:
            parts = urlsplit(self.url.strip())
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise SpecError(f"url '{self.url}': {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(
                f"url '{self.url}' is no address of a server; give http://HOST:PORT/v1 or"
                " https://HOST/v1"
            )
        is_tls = parts.scheme == "https"
        path = parts.path.rstrip("/")
        path = path.removesuffix(PATH) + PATH
        if parts.query:
            path += f"?{parts.query}"
        if not re.fullmatch(r"[\x21-\x7e]+", path):
            raise SpecError(f"url '{self.url}': write spaces and such as %20")
        _, _, name = parts.netloc.rpartition("@")
        host = parts.hostname
        return Address(host, port or (443 if is_tls else 80), path, is_tls, name)

    def all_headers(self) -> dict[str, str]:
        """Those of each request, but for its length."""
        headers = {
            "host": self.address().name,
            "user-agent": "distill-loadgen",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
        }
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return headers | {name.lower(): value for name, value in self.headers.items()}

    def tls(self) -> ssl.SSLContext | None:
        """How to trust the server; None: it speaks plainly."""
        if not self.address().is_tls:
            return None
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        if self.ca_file:
            context.load_verify_locations(self.ca_file)
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def masked(self, words: str) -> str:
        """Words of a server without the key, which some repeat, and without what looks like one."""
        if self.api_key:
            words = words.replace(self.api_key, MASK)
        for value in self.headers.values():
            if len(value) >= 8:
                words = words.replace(value, MASK)
        return _KEY_LIKE.sub(lambda found: f"{found[1]}{MASK}", words)


@dataclass(frozen=True)
class Shape:
    """What each request asks for. Fields of `body` are added to the others' or replace them; None
    takes one away."""

    max_tokens: int | None = 128
    temperature: float | None = 0.0
    body: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 120.0  # of one request, from when it was sent
    output_tokens: Distribution | None = None  # of `max_tokens`, drawn for each request
    input_words: Distribution | None = None  # of the last message: its words, cut or repeated
    limit_field: str = "max_tokens"  # some models want max_completion_tokens
