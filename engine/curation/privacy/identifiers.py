"""Numbers that an account or a person is known by. Where a kind has a checksum it must hold; where
it has none, or is often written as bare digits, a word before it must say what it is."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

from engine.curation.privacy.checksums import (
    is_base58check,
    is_bech32,
    is_cpf,
    is_dni,
    is_luhn,
    is_mod_97,
    is_resident_id,
    is_verhoeff,
)
from engine.curation.privacy.spans import Spans, says


def _form(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Letters are ASCII: what a script without spaces puts before a number is no part of it."""
    return re.compile(pattern, re.ASCII | flags)


# The ways in which cards are printed and typed. A search looks at every place (`(?=`), so that one
# that only looks like a card hides none behind it. A list of four-digit numbers is none.
_CARD = _form(
    r"(?<![\w.,+-])(?<!\d{4}[ -])(?="
    r"(\d{13,19}|\d{8}[ -]\d{8}|\d{4}([ .-])\d{6}\2\d{4,5}"
    r"|\d{4}([ .-])\d{4}\3\d{4}\3\d{4}(?:\3\d{3})?(?![ -]\d{4}(?!\d)))"
    r"(?!\w|[.,]\d))",
)
# First digits and lengths of the networks (ISO/IEC 7812).
_NETWORK = _form(
    r"4(?:\d{12}|\d{15}|\d{18})|3[47]\d{13}|3(?:0[0-59]|[689]\d)\d{11,16}|35\d{14,17}"
    r"|5[0-8]\d{14}|(?:5[06-8]|6\d)\d{11,17}"
    r"|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|220[0-5]\d{12,15}|8[12]\d{14}|9792\d{12}"
)
# Letters and digits of an IBAN by country (SWIFT's registry).
_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FO FI FK GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK MN",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_FORMS = "|".join(
    rf"(?:{countries.replace(' ', '|')})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
    for length, countries in _IBAN_LENGTHS.items()
)
_IBAN = _form(rf"(?<!\w)(?=[A-Z]{{2}}\d\d)(?:{_IBAN_FORMS})(?!\w)", re.IGNORECASE)
_SAYS_SSN = re.compile(r"(?:\bssn|social[ -]security)[^\d\n]{0,24}$", re.IGNORECASE)
_SSN = _form(r"(?<![\w.-])(?!000|666|9)\d{3}([ -]?)(?!00)\d\d\1(?!0000)\d{4}(?![\w-]|[.,]\d)")
_SAYS_AADHAAR = re.compile(r"(?:a+dh?aa?r|uidai|\buid\b|आधार)[^\d\n]{0,24}$", re.IGNORECASE)
_AADHAAR = _form(r"(?<![\w.,-])(?<!\d{4} )[2-9]\d{3}([ -]?)\d{4}\1\d{4}(?!\w|[ -]\d{4}|[.,]\d)")
_PAN = _form(r"(?<!\w)[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z](?!\w)")
_PAN_SMALL = _form(r"(?<!\w)[a-z]{3}[abcfghjlpt][a-z]\d{4}[a-z](?!\w)")
_SAYS_PAN = re.compile(r"\bpan\b[^\d\n]{0,24}$", re.IGNORECASE)
_CPF = _form(r"(?<![\w.,-])\d{3}([. ]?)\d{3}\1\d{3}([ -]?)\d\d(?![\w-]|[.,]\d)")
_SAYS_CPF = re.compile(r"\bcpf\b[^\d\n]{0,24}$", re.IGNORECASE)
_DNI = _form(
    r"(?<![\w.,-])(?:[XYZ]-?\d{7}|\d{8}|\d{1,2}\.\d{3}\.\d{3})[ -]?[A-HJ-NP-TV-Z](?![\w-])",
    re.IGNORECASE,
)
_SAYS_DNI = re.compile(r"\b(?:d\.?n\.?i|n\.?i\.?e|nif|identidad)\b[^\d\n]{0,24}$", re.IGNORECASE)
_RESIDENT_ID = _form(
    r"(?<![\w.,-])[1-8]\d{5}[ -]?((?:19|20)\d{6})[ -]?\d{3}[\dX](?![\w-]|[.,]\d)", re.IGNORECASE
)
_BASE58 = _form(r"(?<!\w)[13][1-9A-HJ-NP-Za-km-z]{25,34}(?!\w)")
_BECH32 = _form(r"(?<!\w)(?:bc1[02-9ac-hj-np-z]{11,71}|BC1[02-9AC-HJ-NP-Z]{11,71})(?!\w)")
_ETHEREUM = _form(r"(?<!\w)0x[0-9a-fA-F]{40}(?!\w)")
_SEPARATORS = str.maketrans("", "", " .-")


def cards(text: str) -> Spans:
    """Payment cards: 13 to 19 digits of a known network, with Luhn's sum; without the security code
    that may follow in a group of its own."""
    for match in _CARD.finditer(text):
        start = match.start()
        for written in (match[1], match[1][:19]):
            digits = written.translate(_SEPARATORS)
            if _NETWORK.fullmatch(digits) and len(set(digits)) > 1 and is_luhn(digits):
                yield start, start + len(written)
                break


def ibans(text: str) -> Spans:
    """As long as their country has them, in groups or not, with the right check digits."""
    for match in _IBAN.finditer(text):
        if is_mod_97(match[0].translate(_SEPARATORS).upper()):
            yield match.span()


def wallets(text: str) -> Spans:
    """Addresses of Bitcoin, whose checksum must hold, and of Ethereum."""
    yield from _checked(_BASE58, text, is_base58check)
    if "bc1" in text or "BC1" in text:
        yield from _checked(_BECH32, text, is_bech32)
    if "0x" in text:
        yield from (match.span() for match in _ETHEREUM.finditer(text))


def ssns(text: str) -> Spans:
    """US social security numbers that can have been issued, with hyphens, or after their name."""
    for match in _SSN.finditer(text):
        if match[1] == "-" or says(_SAYS_SSN, text, match.start()):
            yield match.span()


def aadhaars(text: str) -> Spans:
    """India's Aadhaar, with Verhoeff's check: in three groups of four, or after its name."""
    for match in _AADHAAR.finditer(text):
        is_meant = match[1] or says(_SAYS_AADHAAR, text, match.start())
        if is_meant and is_verhoeff(match[0].translate(_SEPARATORS)):
            yield match.span()


def pans(text: str) -> Spans:
    """India's PAN in capitals, or in small letters after its name; it has no public checksum, but
    its fourth letter is one of ten."""
    yield from (match.span() for match in _PAN.finditer(text))
    for match in _PAN_SMALL.finditer(text):
        if says(_SAYS_PAN, text, match.start()):
            yield match.span()


def cpfs(text: str) -> Spans:
    """Brazil's CPF with its points or hyphen, or after its name."""
    for match in _CPF.finditer(text):
        is_meant = match[1] == "." or match[2] == "-" or says(_SAYS_CPF, text, match.start())
        if is_meant and is_cpf(match[0].translate(_SEPARATORS)):
            yield match.span()


def dnis(text: str) -> Spans:
    """Spain's DNI and NIE in capitals, or in small letters after their name."""
    for match in _DNI.finditer(text):
        letters = match[0].translate(_SEPARATORS)
        is_plain = letters.isupper() and " " not in match[0]
        is_meant = is_plain or says(_SAYS_DNI, text, match.start())
        if is_meant and is_dni(letters.upper()):
            yield match.span()


def resident_ids(text: str) -> Spans:
    """China's resident identity number: a region, a date that exists, and its check."""
    for match in _RESIDENT_ID.finditer(text):
        if _is_date(match[1]) and is_resident_id(match[0].translate(_SEPARATORS).upper()):
            yield match.span()


def _checked(pattern: re.Pattern[str], text: str, is_right: Callable[[str], bool]) -> Spans:
    for match in pattern.finditer(text):
        if is_right(match[0]):
            yield match.span()


def _is_date(digits: str) -> bool:
    try:
        datetime.datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return False
    return True
