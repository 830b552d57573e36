"""Numbers in words: words of scale behind digits, English numbers, and Chinese numerals.

Other languages' number words are not known here: teachers write digits.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from engine.rows.answers.lexicon import words

SCALES = {
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
COUNTS = {"dozen": 12, "dozens": 12, "pairs": 2, "pair": 2}


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


_SMALL = words("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
""")
_TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
_ENGLISH_WORDS = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_PARTS = {
    word: number
    for number, word in enumerate(
        words("""
            half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
            fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
        """),
        2,
    )
}
_PARTS |= {"quarter": 4, "hundredth": 100, "thousandth": 1000, "halve": 2}
_NUMERALS = re.compile("[零〇一二三四五六七八九十百千万亿萬億两兩]+")
_ONE_WORD = "|".join([*_ENGLISH_WORDS, "hundred", "thousand", "million"])
_WHOLE = rf"(?:{_ONE_WORD})(?:[\s-]+(?:and\s+)?(?:{_ONE_WORD}))*"
_PART = "|".join([*_PARTS, *(f"{part}s" for part in _PARTS)])
_NUMBER_WORDS = re.compile(rf"\b{_WHOLE}(?:[\s-]+(?:and\s+an?\s+)?(?:{_PART}))?\b")


def _of_english(words: list[str]) -> Fraction | None:
    total = 0
    group = 0
    known = 0
    is_negative = words[0] in ("minus", "negative")
    told = words[is_negative:]
    for at, word in enumerate(told):
        scale = SCALES.get(word, 0)
        if word in _ENGLISH_WORDS:
            group += _ENGLISH_WORDS[word]
        elif word == "hundred":
            group = max(group, 1) * 100
        elif scale >= 1000 and known:
            total += max(group, 1) * scale
            group = 0
        elif word in ("and", "a") and known:
            continue
        elif known and (part := _PARTS.get(word.removesuffix("s"))):
            value = _with_part(total + group, part, is_more=told[at - 1] in ("a", "an"))
            return -value if is_negative else value
        elif known:
            break  # of what: dollars, apples a day
        else:
            return None
        known += 1
    if not known:
        return None
    value = Fraction(total + group)
    return -value if is_negative else value


def _with_part(whole: int, part: int, *, is_more: bool) -> Fraction:
    """Three quarters, or three and a quarter."""
    return whole + Fraction(1, part) if is_more else Fraction(whole, part)


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
