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
  | \d{{1,3}}(?:\ \d{{3}})+(?![\d/])(?:[.{DECIMAL}]\d+)?
  | \d{{1,3}}(?:\.\d{{3}})+,\d{{1,2}}(?!\d)         # 1.234,5 can only be read so
  | \d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d)              # and so does 1.234.567
  | \d+(?:[.{DECIMAL}]\d+)?
  | [.{DECIMAL}]\d+
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
_DIGIT = re.compile(r"\d")
_SEPARATED = re.compile(r"\d[.,]\d")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d+(?![\d,.]*,\d))")
_GROUPING_DOT = re.compile(rf"(?<=\d)\.(?=\d{{3}}(?:[.{DECIMAL}]\d|(?!\d)))")
_CODES = re.compile(
    r"(?<![A-Za-z])(?:Rs\.?|USD|EUR|GBP|INR|NPR|LKR|PKR|BDT|JPY|CNY|RMB|CHF|AUD|CAD|MXN|BRL|[A-Z]{1,3}(?=[$]))\s?(?=[-\d$.])"
)
# A minus with space behind it is a bullet, unless it follows one of these.
_SPACED_SIGN = re.compile(r"(?<=[=(≈])(\s*)-(\s+)(?=[\d.$])")
_SPOKEN_SIGN = re.compile(r"\b(is|was|be|to|[=:]) (?:minus|negative) (?=[\d.$])")
_PERCENT = re.compile(
    r"\s?(?:%|(?:per\s?cent|percent(?:age)?|por ?ciento|por ?cento|pour ?cents?|prozent|procent[ao]?"
    r"|processador|percento|procenta?|процент\w*|persen|yüzde|प्रतिशत|শতাংশ|சதவீதம்|శాతం|ಪ್ರತಿಶತ|ശതമാനം|ટકા"
    r"|ਪ੍ਰਤੀਸ਼ਤ|퍼센트|パーセント|phần trăm)(?![A-Za-z]))",
    re.IGNORECASE,
)
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "millions": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "k": 10**3,
    "lakh": 10**5,
    "lakhs": 10**5,
    "crore": 10**7,
    "crores": 10**7,
    "mil": 10**3,
    "mille": 10**3,
    "mila": 10**3,
    "tausend": 10**3,
    "millón": 10**6,
    "millones": 10**6,
    "milhão": 10**6,
    "milhões": 10**6,
    "millionen": 10**6,
    "milione": 10**6,
    "milioni": 10**6,
    "milliard": 10**9,
    "milliards": 10**9,
    "milliarden": 10**9,
    "miliardi": 10**9,
    "bilhões": 10**9,
    "ribu": 10**3,
    "juta": 10**6,
    "miliar": 10**9,
    "nghìn": 10**3,
    "ngàn": 10**3,
    "triệu": 10**6,
    "bin": 10**3,
    "milyon": 10**6,
    "milyar": 10**9,
    "тысяч": 10**3,
    "тысячи": 10**3,
    "миллион": 10**6,
    "миллиона": 10**6,
    "миллионов": 10**6,
    "миллиардов": 10**9,
    "ألف": 10**3,
    "مليون": 10**6,
    "हज़ार": 10**3,
    "हजार": 10**3,
    "लाख": 10**5,
    "करोड़": 10**7,
    "হাজার": 10**3,
    "লাখ": 10**5,
    "কোটি": 10**7,
    "ஆயிரம்": 10**3,
    "லட்சம்": 10**5,
    "கோடி": 10**7,
    "వేల": 10**3,
    "లక్షలు": 10**5,
    "కోట్లు": 10**7,
    "ಸಾವಿರ": 10**3,
    "ಲಕ್ಷ": 10**5,
    "ಕೋಟಿ": 10**7,
    "ആയിരം": 10**3,
    "ലക്ഷം": 10**5,
    "കോടി": 10**7,
    "ਹਜ਼ਾਰ": 10**3,
    "ਲੱਖ": 10**5,
    "ਕਰੋੜ": 10**7,
}
# They count things as much as they scale: five dozen are five, or sixty.
_COUNTS = {"dozen": 12, "dozens": 12, "pairs": 2, "pair": 2}
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
            number = replace(number, start=whole.start, written=whole.written, more=number.values[0])
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
    if spelt in _COUNTS:
        return Number(start, end, match, scale=_COUNTS[spelt], is_count=True)
    if spelt in _SCALES:
        return Number(start, word.end(), match, scale=_SCALES[spelt])
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
    digits = digits.replace(" ", "").replace("'", "")
    exact = _exact(digits)
    _, mark, behind = digits.rpartition(DECIMAL if DECIMAL in digits else GROUP)
    is_one_group = mark != "" and len(behind) == 3 and digits.count(mark) == 1
    if not is_one_group or "." in digits or digits[0] in f"0{DECIMAL}":
        return (exact,)
    as_decimal = _exact(digits.replace(mark, "."))
    as_thousands = _exact(digits.replace(mark, ""))
    return (as_thousands, as_decimal)


def _exact(digits: str) -> Fraction:
    if digits.count(".") > 1 or 0 <= digits.find(".") < digits.find(","):
        digits = digits.replace(".", "").replace(",", ".")
    digits = digits.replace(",", "").replace(GROUP, "").replace(DECIMAL, ".")
    # Decimal first: unlike int() it takes digits beyond Python's limit, which looping models write.
    return Fraction(Decimal(digits))


def _is_mixed(whole: Number, part: Number, text: str) -> bool:
    if not _is_plain(whole.written["digits"]) or whole.written["below"] or whole.scale != 1:
        return False
    above, below = part.written.group("digits", "below")
    if not below or not _is_plain(above) or not _is_plain(below) or part.written["sign"]:
        return False
    if _JOINED.fullmatch(text, whole.end, part.start) is None or whole.more or whole.is_percent:
        return False
    return part.values[0] < 1


def _is_plain(digits: str) -> bool:
    return digits.isdecimal() and len(digits) < 10


def number_of_words(text: str) -> Fraction | None:
    """The number that a text of number words alone is: twenty-one, one hundred and five, 三百五."""
    words = re.findall(r"[a-z]+", text.lower())
    if words:
        return _of_english(words)
    return _of_signs(text.strip(" .。"))


def spoken_number(text: str) -> Fraction | None:
    """The last number that a text without digits says in words or in Chinese numerals."""
    runs = _NUMERALS.findall(text)
    if runs:
        long = [run for run in runs if len(run) > 1]
        return _of_signs((long or runs)[-1])
    said = [run[0] for run in _NUMBER_WORDS.finditer(text.lower())]
    return _of_english(re.findall(r"[a-z]+", said[-1])) if said else None


_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ENGLISH_WORDS = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_NUMERALS = re.compile("[零〇一二三四五六七八九十百千万亿萬億两兩]+")
_ONE_WORD = "|".join([*_ENGLISH_WORDS, "hundred", "thousand", "million"])
_NUMBER_WORDS = re.compile(rf"\b(?:{_ONE_WORD})(?:[\s-]+(?:and\s+)?(?:{_ONE_WORD}))*\b")


def _of_english(words: list[str]) -> Fraction | None:
    total = 0
    group = 0
    known = 0
    is_negative = words[0] in ("minus", "negative")
    for word in words[is_negative:]:
        scale = _SCALES.get(word, 0)
        if word in _ENGLISH_WORDS:
            group += _ENGLISH_WORDS[word]
        elif word == "hundred":
            group = max(group, 1) * 100
        elif scale >= 1000 and known:
            total += max(group, 1) * scale
            group = 0
        elif word in ("and", "a") and known:
            continue
        elif known:
            break  # of what: dollars, apples a day
        else:
            return None
        known += 1
    if not known:
        return None
    value = Fraction(total + group)
    return -value if is_negative else value


def _of_signs(text: str) -> Fraction | None:
    """Of Chinese numerals, which multiply what stands before them."""
    total = group = digit = 0
    for sign in text:
        value = int(unicodedata.numeric(sign, -1))
        if value < 0 or sign.isascii():
            break
        if value >= 10**4:
            total = (total + group + digit) * value
            group = digit = 0
        elif value >= 10:
            group += max(digit, 1) * value
            digit = 0
        else:
            digit = value
    else:
        if text:
            return Fraction(total + group + digit)
    if total + group + digit:
        return Fraction(total + group + digit)
    return None
