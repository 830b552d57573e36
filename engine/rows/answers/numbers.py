"""Numbers as texts write them, with their exact values: grouped in threes or the Indian way, as
fractions, mixed numbers, powers of ten and percentages, with words of scale.

It reads what `spelt` and `untexed` leave. Which of the numbers is the answer is decided elsewhere.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction

from engine.rows.answers.number_words import COUNTS, SCALES
from engine.rows.answers.spelling import MARKS
from engine.rows.answers.vocabulary import is_european

MOST_DIGITS = 10_000  # what is longer is no number: a model that loops
_MOST_POWER = 400
CURRENCY = "$€£¥₹₩₽₺₫฿₱₦₪₴₡₲₵₸₿¢₨"
# In a language that groups by dots and has a decimal comma, `as_english` puts these in their place.
DECIMAL = "\ue000"  # of nobody's script
GROUP = "\ue001"
_DIGITS = rf"""
    \d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)(?:\.\d+)?       # 1,23,45,678
  | \d{{1,3}}(?:[,'{GROUP}]\d{{3}})+(?!\d)(?:[.{DECIMAL}]\d+)?
  | \d{{1,3}}(?:\ \d{{3}})+,\d{{1,2}}(?!\d)          # 1 234,5
  | \d{{1,3}}(?:\ \d{{3}})+(?![\d/])(?:[.{DECIMAL}]\d+)?
  | \d{{1,3}}(?:\.\d{{3}})+,\d{{1,2}}(?!\d)         # 1.234,5 can only be read so
  | \d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d)              # and so does 1.234.567
  | \d+(?:[.{DECIMAL}]\d+)?
  | (?<![\w{MARKS}])[.{DECIMAL}]\d+                # not the dot of an abbreviation
"""
_NUMBER = r"""
    (?:(?<![A-Za-zÀ-ɏ\d])|(?=[%(currency)s]))       # H2O and GPT4 are names
    (?P<sign>(?<![\w)\]}-])[-+](?=[\d.%(currency)s]))?
    (?:[%(currency)s]\ ?)?
    (?P<inner>(?<=[%(currency)s])[-+])?
    (?P<digits>%(digits)s)
    (?:[eE](?P<e>[-+]?\d{1,4})(?![\w.])
      |\ ?[×x*·]\ ?10\ ?(?:\^|\*\*)\ ?\{?\ ?(?P<ten>[-+]?\d{1,4})\ ?\}?)?
    (?:\ ?/\ ?[%(currency)s]?(?P<below>%(digits)s)(?![\d/]))?
"""
_PATTERN = re.compile(_NUMBER % {"digits": _DIGITS, "currency": CURRENCY}, re.VERBOSE)
_SPACED_COMMA = re.compile(r"\d{1,3}(?: \d{3})+,\d{1,2}")
_DIGIT = re.compile(r"\d")
_SEPARATED = re.compile(r"\d[.,]\d")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d+(?![\d,.]*,\d))")
_GROUPING_DOT = re.compile(rf"(?<=\d)\.(?=\d{{3}}(?:[.{DECIMAL}]\d|(?!\d)))")
_CODES = re.compile(
    r"(?<![A-Za-z])(?:Rs\.?|USD|EUR|GBP|INR|NPR|LKR|PKR|BDT|JPY|CNY|RMB|CHF|AUD|CAD|MXN|BRL|IDR|Rp|KES|Ksh"
    r"|[A-Z]{1,3}(?=[$]))\s?(?=[-\d$.])"
)
# A minus with space behind it is a bullet, unless it follows one of these.
_SPACED_SIGN = re.compile(r"(?<=[=(≈])(\s*)-(\s+)(?=[\d.$])")
_SPOKEN_SIGN = re.compile(r"\b(is|was|be|to|[=:]) (?:minus|negative) (?=[\d.$])")
_PERCENT = re.compile(
    r"\s?(?:%|(?:per\s?cent|percent(?:age)?|por ?ciento|por ?cento|pour ?cents?|prozent"
    r"|procent[ao]?|percento|procenta?|процент\w*|persen|yüzde|प्रतिशत|শতাংশ|சதவீதம்|శాతం|ಪ್ರತಿಶತ|ശതമാനം"
    r"|ટકા|ਪ੍ਰਤੀਸ਼ਤ|퍼센트|パーセント|phần trăm)(?![A-Za-z]))",
    re.IGNORECASE,
)
_SCALE_WORD = re.compile(r"\s?[-]?([^\s\d.,;:!?()%/$*\"'`{}\\-]+)")
_JOINED = re.compile(r"\s+(?:and\s+|&\s*)?|-")
_AND_A_HALF = re.compile(r"\s+and\s+a\s+half\b")
Readings = tuple[Fraction, ...]


@dataclass(frozen=True)
class Number:
    """A number in a text, and what it may mean, the likeliest first: 1.234 is a thousand more in
    some languages, 5 million may be counted in millions."""

    start: int
    end: int
    written: re.Match[str] = field(repr=False)
    is_percent: bool = False
    scale: int = 1
    is_count: bool = False  # of dozens: as it is, or scaled
    more: Fraction | None = None  # of a mixed number

    @functools.cached_property
    def values(self) -> Readings:
        """Empty where nobody can say: a division by nothing, or too many digits."""
        exact = _values(self.written)
        if self.more is not None:
            exact = tuple(_further(value, self.more) for value in exact)
        if self.scale == 1:
            return exact
        scaled = tuple(value * self.scale for value in exact[:1])
        return exact + scaled if self.is_count else scaled + exact


def _further(whole: Fraction, part: Fraction) -> Fraction:
    return whole - part if whole < 0 else whole + part


def as_english(text: str) -> str:
    """The text with marks in its numbers that say what dots and commas mean in its language."""
    if not _SEPARATED.search(text) or not is_european(text):
        return text
    text = _DECIMAL_COMMA.sub(DECIMAL, text)
    return _GROUPING_DOT.sub(GROUP, text)


def as_written(text: str) -> str:
    """The way back from `as_english`."""
    return text.replace(DECIMAL, ",").replace(GROUP, ".")


def numbers_in(text: str) -> list[Number]:
    """The numbers in their order."""
    if not _DIGIT.search(text):
        return []
    text = _CODES.sub(_blank, text)
    text = _SPACED_SIGN.sub(r"\1\2-", text)
    text = _SPOKEN_SIGN.sub(lambda sign: sign[1].ljust(len(sign[0]) - 1) + "-", text)
    found: list[Number] = []
    for match in _PATTERN.finditer(text):
        if not _has_value(match):
            continue
        number = _number(match, text)
        if found and _is_mixed(found[-1], number, text):
            whole = found.pop()
            number = replace(
                number, start=whole.start, written=whole.written, more=number.values[0]
            )
        found.append(number)
    return found


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])  # places stay


def _has_value(match: re.Match[str]) -> bool:
    if match.end() - match.start() > MOST_DIGITS:
        return False
    if match["below"] and not match["below"].strip("0.,"):
        return False
    return abs(_power(match)) <= _MOST_POWER


def _power(match: re.Match[str]) -> int:
    return int(match["e"] or match["ten"] or 0)


def _number(match: re.Match[str], text: str) -> Number:
    start, end = match.span()
    percent = _PERCENT.match(text, end)
    if percent:
        return Number(start, percent.end(), match, is_percent=True)
    half = _AND_A_HALF.match(text, end)
    if half:
        return Number(start, half.end(), match, more=Fraction(1, 2))
    word = _SCALE_WORD.match(text, end)
    if word is None:
        return Number(start, end, match)
    spelt = word[1].lower()
    if spelt in COUNTS:
        return Number(start, end, match, scale=COUNTS[spelt], is_count=True)
    if spelt in SCALES:
        return Number(start, word.end(), match, scale=SCALES[spelt])
    sign = word[1][0]
    if not sign.isascii() and unicodedata.numeric(sign, 0) >= 100:  # 百 千 万 億
        return Number(start, word.start(1) + 1, match, scale=int(unicodedata.numeric(sign)))
    return Number(start, end, match)


def _values(match: re.Match[str]) -> Readings:
    values = _readings(match["digits"])
    sign = -1 if "-" in (match["sign"], match["inner"]) else 1
    factor = Fraction(sign)
    if match["below"]:
        factor /= _readings(match["below"])[0]
    if power := _power(match):
        factor *= Fraction(10) ** power
    if factor == 1:
        return values
    return tuple(value * factor for value in values)


def _readings(digits: str) -> Readings:
    """What a written number may be."""
    if digits.isdecimal():
        return (Fraction(Decimal(digits)),)
    exact = _exact(digits)
    _, mark, behind = digits.rpartition(DECIMAL if DECIMAL in digits else GROUP)
    is_one_group = mark != "" and len(behind) == 3 and digits.count(mark) == 1
    if not is_one_group or "." in digits or digits[0] in f"0{DECIMAL}":
        return (exact,)
    as_decimal = _exact(digits.replace(mark, "."))
    as_thousands = _exact(digits.replace(mark, ""))
    return (as_thousands, as_decimal)


def _exact(digits: str) -> Fraction:
    mixed = 0 <= digits.find(".") < digits.find(",")
    if mixed or digits.count(".") > 1 or _SPACED_COMMA.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    digits = digits.replace(" ", "").replace("'", "")
    digits = digits.replace(",", "").replace(GROUP, "").replace(DECIMAL, ".")
    # Decimal first: unlike int() it takes digits beyond Python's limit, which looping models write.
    return Fraction(Decimal(digits))


def _is_mixed(whole: Number, part: Number, text: str) -> bool:
    grouped = whole.written["digits"].replace(",", "")
    if not _is_plain(grouped) or whole.written["below"] or whole.scale != 1:
        return False
    above, below = part.written.group("digits", "below")
    if not below or not _is_plain(above) or not _is_plain(below) or part.written["sign"]:
        return False
    if _JOINED.fullmatch(text, whole.end, part.start) is None or whole.more or whole.is_percent:
        return False
    return part.values[0] < 1


def _is_plain(digits: str) -> bool:
    return digits.isdecimal() and len(digits) < 10
