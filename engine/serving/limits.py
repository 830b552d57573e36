"""How long and how large a request may be, and how many clients may be connected."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`header_timeout_s` bounds, each by itself, a request's head, its body, and how long a client
    may stop reading; `max_connections` those of clients to one front."""

    header_timeout_s: float = 20.0
    max_body_bytes: int = 8 * 2**20
    max_connections: int = 4_000
