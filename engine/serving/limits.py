"""How long and how large a request may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`header_timeout_s` bounds, each by itself, a request's head, its body, and how long a client
    may stop reading."""

    header_timeout_s: float = 20.0
    max_body_bytes: int = 8 * 2**20
