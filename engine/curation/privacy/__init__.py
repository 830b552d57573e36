"""Personal data and secrets in a text, by their form and, where they have one, their checksum.

Names and addresses of people have no form and are not looked for. No kind asks a network or a
model. Digits of any script, wide letters, and hyphens and spaces of all sorts count as the plain
ones. Every search takes a time that grows as the text does, whatever the text.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.curation.privacy.contacts import emails, ip_addresses, mac_addresses, phones
from engine.curation.privacy.credentials import secrets
from engine.curation.privacy.identifiers import (
    aadhaars,
    cards,
    cpfs,
    dnis,
    ibans,
    pans,
    resident_ids,
    ssns,
    wallets,
)
from engine.curation.privacy.spans import Spans
from engine.errors import SpecError
from engine.rows.words import plain_digits

# A function gives the spans of its kind in a text of plain characters. Where two kinds overlap, the
# one that stands first here names the find.
KINDS: dict[str, Callable[[str], Spans]] = {
    "secret": secrets,
    "email": emails,
    "iban": ibans,
    "wallet": wallets,
    "card": cards,
    "resident_id": resident_ids,
    "aadhaar": aadhaars,
    "cpf": cpfs,
    "ssn": ssns,
    "phone": phones,
    "mac_address": mac_addresses,
    "ip_address": ip_addresses,
    "pan": pans,
    "dni": dnis,
}


class Pii(NamedTuple):
    """One find: `text[start:end]` is of this kind (a key of KINDS)."""

    kind: str
    start: int
    end: int


def pii_in(text: str | None, kinds: Sequence[str] | None = None) -> list[Pii]:
    """What is found, in order and without overlaps; of all kinds, or of those named."""
    if not text:
        return []
    plain = _plain(text)
    found = []
    for rank, kind in enumerate(_wanted(kinds)):
        for start, end in KINDS[kind](plain):
            found.append((start, end, rank, kind))
    return _without_overlaps(found)


def redacted(text: str, kinds: Sequence[str] | None = None) -> str:
    """The text with `[EMAIL]` and the like in place of what is found. In the result nothing is
    found any more, so to redact twice is to redact once."""
    # A mark may make its neighbour plain to see: a second look. Each look takes characters of the
    # text away and gives none, so there is a last one.
    while found := pii_in(text, kinds):
        parts = []
        last = 0
        for pii in found:
            parts += [text[last : pii.start], f"[{pii.kind.upper()}]"]
            last = pii.end
        text = "".join([*parts, text[last:]])
    return text


def _wanted(kinds: Sequence[str] | None) -> list[str]:
    """These kinds in the order of the table."""
    if kinds is None:
        return list(KINDS)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise SpecError(f"no kind of personal data is called {unknown}; there are {list(KINDS)}")
    return [kind for kind in KINDS if kind in kinds]


def _without_overlaps(found: list[tuple[int, int, int, str]]) -> list[Pii]:
    """Finds that overlap are one, from the first's start to the last's end: nothing of any of them
    may be left over."""
    merged: list[Pii] = []
    best = 0
    for start, end, rank, kind in sorted(found):
        if not merged or start >= merged[-1].end:
            merged.append(Pii(kind, start, end))
            best = rank
            continue
        last = merged[-1]
        if rank < best:
            last = last._replace(kind=kind)
            best = rank
        merged[-1] = last._replace(end=max(last.end, end))
    return merged


def _plain(text: str) -> str:
    """The text with plain digits, letters, hyphens and spaces; character for character."""
    if text.isascii():
        return text
    return plain_digits(text).translate(_plain_forms())


@functools.cache
def _plain_forms() -> dict[int, str]:
    forms = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # wide ASCII
    for code in range(128, sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category == "Pd" and code not in forms:
            forms[code] = "-"
        elif category == "Zs":
            forms[code] = " "
    forms[0x2212] = "-"  # the minus sign
    return forms
