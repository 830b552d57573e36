"""Personal data and secrets in a text, by their form and, where they have one, their checksum.

Names and addresses of people have no form and are not looked for. A kind is one function and one
row of KINDS. No kind asks a network or a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Pii(NamedTuple):
    """One find: `text[start:end]` is of this kind (a key of KINDS)."""

    kind: str
    start: int
    end: int


# In the order in which they win where two kinds overlap.
KINDS = (
    "secret",
    "email",
    "iban",
    "wallet",
    "card",
    "resident_id",
    "aadhaar",
    "cpf",
    "ssn",
    "phone",
    "mac_address",
    "ip_address",
    "pan",
    "dni",
)


def pii_in(text: str | None, kinds: Sequence[str] | None = None) -> list[Pii]:
    """What is found, in order and without overlaps; of all kinds, or of those named."""
    raise NotImplementedError


def redacted(text: str, kinds: Sequence[str] | None = None) -> str:
    """The text with `[EMAIL]` and the like in place of what is found. In the result nothing is
    found any more, so to redact twice is to redact once."""
    raise NotImplementedError
