"""Where a person or a machine of theirs can be reached: e-mail, telephone, network."""

from __future__ import annotations

import ipaddress
import re

from engine.curation.privacy.spans import Spans, says

_EMAIL = re.compile(
    r"(?<![\w.+-])\w[\w.%&'+-]{0,63}@(?:[\w-]{1,63}\.)+(?:[^\W\d_]{2,24}|xn--[\w-]{2,59})"
    r"(?![\w(]|-\w)"
)
# "+" and the number of a country (ITU-T E.164: eight to fifteen digits in all), then groups.
_INTERNATIONAL = re.compile(
    r"(?<![\w+])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,5}(?:[ ./-]?\d{2,5}){1,5}(?!\w)",
    re.ASCII,
)
# The North American plan: neither area nor exchange begins with 0 or 1. With spaces alone, three
# numbers in a row look the same: those are left to `_NUMBER`.
_AMERICAN = re.compile(
    r"(?<![\w$.,+-])(?:1[ .-])?"
    r"(?:\([2-9]\d\d\) ?|[2-9]\d\d(?=[.-]|[ ]\d{3}-)[ .-])[2-9]\d\d[ .-]\d{4}(?![\w-]|[.,]\d)",
    re.ASCII,
)
# Any other number counts after a word that says so.
_NUMBER = re.compile(r"(?<![\w.,+-])\(?\d[\d ()./-]{5,22}\d(?!\w|[.,]\d)", re.ASCII)
_SAYS_PHONE = re.compile(
    r"(?:\b(?:tel|telephone|phone|cell|mobile|fax|whatsapp|call|dial|hotline|telefon|telefono"
    r"|teléfono|telefone|téléphone|portable|celular|móvil|movil|telemóvel|handy|mobil|rufnummer"
    r"|appele[rz]|ll[aá]m[ae]\w*|ligue)|फ़ोन|फ़ोन|फोन|मोबाइल|电话|手机|電話|手機)"
    r"(?:[ ]?(?:number|no|nr|num|número|numero|numéro|nummer|नंबर|号码|號碼))?"
    r"[\s\"'#.:：=(]*(?:\b(?:is|us|me|at|on|es|est|ist|é|au|al|number)\b[\s\"':]*|是|है)*$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:\d{4}([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2\d{2,4})(?!\d)")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}:[0-9a-f:]{2,35}(?![\w:])", re.I | re.A)
_SAYS_VERSION = re.compile(r"(?:\b(?:v|ver|version|release|build|section|chapter)|§)[\s.:]*$", re.I)
_LOOK_BACK_FOR_VERSION = 12  # characters
_MAC = re.compile(
    r"(?<![\w:.-])"
    r"(?:[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2})"
    r"(?![\w:-]|\.\w)",
    re.IGNORECASE | re.ASCII,
)


def emails(text: str) -> Spans:
    """Addresses of RFC 5322 without quotes, in any script."""
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


def phones(text: str) -> Spans:
    """With the number of a country; in the North American form; or seven to fifteen digits after
    "phone", "call", "tel." and their like in seven languages."""
    for match in _INTERNATIONAL.finditer(text):
        if 8 <= _digits(match[0]) <= 15:
            yield match.span()
    yield from (match.span() for match in _AMERICAN.finditer(text))
    for match in _NUMBER.finditer(text):
        if not 7 <= _digits(match[0]) <= 15 or _DATE.match(match[0]):
            continue
        if says(_SAYS_PHONE, text, match.start()):
            yield match.span()


def ip_addresses(text: str) -> Spans:
    """Public ones of version 4, and of version 6 within 2000::/3, the part that is given out. Four
    numbers after "version" or "section" are none."""
    for match in _IPV4.finditer(text):
        is_version = says(_SAYS_VERSION, text, match.start(), _LOOK_BACK_FOR_VERSION)
        if _is_public(match[0]) and not is_version:
            yield match.span()
    if "::" in text or text.count(":") >= 7:
        for match in _IPV6.finditer(text):
            address = match[0].rstrip(":")
            if _is_public(address):
                yield match.start(), match.start() + len(address)


def mac_addresses(text: str) -> Spans:
    """Six bytes in pairs with colons or hyphens, or three groups of four with dots; not those of
    nobody and of everybody."""
    for match in _MAC.finditer(text):
        if len(set(match[0].lower()) - set(":-.")) > 1:
            yield match.span()


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)
