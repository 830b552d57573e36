r"""The value in a sentence: what it begins with, or what it comes to in the end.

`first_value` reads what follows "the answer is", `last_value` a sentence that only leads to its
answer. Times, dates, steps and powers are no numbers here.
"""

from __future__ import annotations

import re
from dataclasses import replace

from engine.rows.answers.circumstances import (
    is_at,
    is_total,
    may_be_about,
    names_in,
    nearly,
    restated,
    without_circumstances,
)
from engine.rows.answers.latex import untexed
from engine.rows.answers.numbers import Number, numbers_in
from engine.rows.answers.spelling import LETTER
from engine.rows.answers.values import Value, value_at, value_of
from engine.rows.answers.vocabulary import ASIDES, NEAR, WHY, WHY_ELSEWHERE, is_european

# Where an aside begins: a bracket of words, a dash, a clause.
_CLAUSE_END = re.compile(
    r"\s\((?=[^()]*(?:[^\W\d_][^\W\d_.]|[^\W\d_]\.|\d\s*[-+×*/=]\s*\d))|[,;:]\s+(?=[^\W\d_\\]{2})|\s[-—]\s|\n|,\s*$|\.\s|…\s|\s—"
)
_FORMULA = re.compile(
    r"\$\$?(?P<dollars>(?! )[^$\n]*[^$\n=+*/( -])\$\$?(?!\d)"  # $5 and $6 are no formula
    r"|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]",
    re.DOTALL,
)
_FORMULA_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|or|y|o|und|oder|et|ou|e|и|или|和))\s*")
_GOES_ON = re.compile(r"\s*(?:[=+*/^×]|(?:,|and|or|y|und|oder|et|ou)\s*(?:\$|\\\())")
_NUMERIC_COMMA = re.compile(r"(?<=\d),(?=\d)")
_OUT_OF = re.compile(r"(?:\s\w+)?\s+(?:out of|of the|of a total of)\s+(?:the\s+|a total of\s+)?")
_HEAD = re.compile(r"\A[\s*_`\"'≈~:>→⇒➜]*")
_PROSE = re.compile(rf"(?<![\\{{]){LETTER}{{3,}}\s+{LETTER}{{2,}}")
# Of more than one letter, and no function; or of an alphabet that names no variables.
_WORD = re.compile(
    r"(?<![\\A-Za-z\d])(?!(?:sin|cos|tan|cot|sec|log|ln|pi|sqrt|max|min|exp)\b)"
    r"[A-Za-z]{2,}(?![A-Za-z])|[^\W\d_A-Za-zͰ-Ͽ]"
)
_LETTER = re.compile(r"[A-Z]")
# Two words before the number: a sentence begins, and may go on.
_SENTENCE_HEAD = re.compile(rf"{LETTER}{{2,}}[\s']+{LETTER}{{2,}}[^\d=]*\d")
_EQUATION = re.compile(
    r"(?<![A-Za-z])[A-Za-z](?:\([A-Za-z]\))?\s*=\s*(?P<side>[^=,;]*[^=,;.\s])[\s.]*\Z"
)
_SIGNS = re.compile(r"[\\^=<>+*/√π∞]|\d")
_SUM = re.compile(r"[\s(]*[$€£]?[\d.,]+%?[^\d=<>]{0,40}?(?:[-+*/^×·]|\bx\b)[^=]*\d")
_EMPHASIS = re.compile(
    r"\*\*([^*\n]+)\*\*|__([^_\n]+)__|<b>([^<\n]+)</b>|<strong>([^<\n]+)</strong>"
)
# Brackets of words or of a sum, and citations.
_ASIDE = re.compile(
    rf"\([^()]*{LETTER}{{2,}}[^()]*\)|\(\s*[=≈~][^()]*\)|\([^()]*\d\s*[-+×*/=]\s*[$€£]?\d[^()]*\)|\[\^?\d{{1,2}}\]"
)
_BRACKETS = re.compile(r"(?:[(\[][^()\[\]]*,[^()\[\]]*[)\]]|\{[^{}]*\d[^{}]*\})[\s.*]*\Z")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")
_UNIT_POWER = re.compile(r"(?<=[^\W\d_])\^\{?-?[1-4]\}?")
# Times, dates, versions, powers, ratios and multiples of a variable.
_FACTOR = r"\d+(?:\s?\^\s?\{?-?\d+\}?)?"
_NO_NUMBER = re.compile(
    rf"(?<![\d.,])(?:(?=\d[\d\s×*·]{{0,40}}\^){_FACTOR}(?:\s?[×*·]\s?{_FACTOR})+"
    r"|\d{1,2}:[0-5]\d(?!\d)(?::\d{2})?(?:\s?[ap]\.?m\b)?|\d{4}-\d{1,2}-\d{1,2}(?!\d)"
    r"|\d{1,2}([/.])\d{1,2}\1\d{2,4}(?!\d)|\d+(?:\.\d+){2,}(?!\d)"
    r"|\d+(?:\s?\^\s?\{?-?\d+\}?|:\d+| : \d+)"
    r"|\d[\d,.]*[xyzn]\b(?:\s?\^\s?\d)?)"
)
_LABEL = re.compile(
    r"(?:step|part|question|problem|figure|fig\.|table|grade|chapter|page|case|example|equation"
    r"|eq\.|section|line|version|no\.|paso|schritt|étape|passo|шаг|चरण)\s*[#(]?$",
    re.IGNORECASE,
)
_LABEL_LENGTH = 12
_DENIED = re.compile(
    r"(?:\bnot|n't|\bnor|instead of|rather than|\bnicht|\bpas|(?<!\w)не)\s+(?:[$€£]\s?)?$",
    re.IGNORECASE,
)
_NOT_BUT = re.compile(
    r"\A[\s*_]*(?:not|nicht|pas|non|no|nie|не|inte|ikke|niet)\b[^.;]{1,60}?[,\s]\s*"
    r"(?:but(?: rather)?|sondern|mais|sino|ma|mas|a|но|utan|men|maar)\s+(?=\S*\d|\$|\\)",
    re.IGNORECASE,
)
_DENIES = re.compile(r"(?:not|nicht|pas|не)\s", re.IGNORECASE)
_DENIED_FORMULA = re.compile(
    r",?\s(?:and|but)?\s?(?:not|instead of|rather than)\s+(?:\$[^$\n]+\$|\\\(.+?\\\))[^$\d]*\Z"
)
_ITEM = re.compile(r"^\s*(?:[-*]\s+)?\d{1,2}[.)]\s+(?=\S)")
_VARIABLE = r"[A-Za-z](?:_?\w|_\{\w+\})?\s*="
_ASSIGNED = re.compile(rf"(?<![A-Za-z]){_VARIABLE}\s*[^=,;]+(?:,|;|and|or)\s*{_VARIABLE}")
_OR = re.compile(r"\s*,?\s*(?:or|oder|ou|o|или|或)\s*")


def first_value(text: str) -> Value | None:
    """The value that the text begins with: a number with its unit, signs of mathematics, one of
    several alternatives."""
    text = _without_head(text)
    if not text or _DENIES.match(text):
        return None
    span = _FORMULA.match(text)
    if span is not None:
        content = _content(span)
        if not is_prose(content):
            value = value_of(content)
            if value is not None and not _GOES_ON.match(text, span.end()):
                return value
    clause = _clause(text)
    if _SUM.match(untexed(clause)) and "=" in clause:
        return _result(untexed(clause))
    if _SENTENCE_HEAD.match(clause):
        return None
    value = value_of(clause)
    if value is not None and (value.numbers or value.parts or is_signs(clause)):
        return value
    return _leading_number(clause)


def _without_head(text: str) -> str:
    """Without emphasis and words like "about" before it."""
    text = _NOT_BUT.sub("", text, count=1)
    while True:
        text = _HEAD.sub("", text, count=1)
        word = NEAR.first(text)
        if word is None or word.start:
            return text
        text = text[word.end :]


def _clause(text: str) -> str:
    """The text up to where an explanation or an aside begins."""
    end = _CLAUSE_END.search(text)
    if end is not None:
        text = text[: end.start()]
    aside = ASIDES.first(text)
    if aside is not None and text[: aside.start].strip():
        text = text[: aside.start]
    return text


def is_signs(clause: str) -> bool:
    """Whether the clause is mathematics without any words, or the letter of a choice."""
    plain = _ENVIRONMENT.sub("", untexed(clause)).strip(" .*_$()")
    if _LETTER.fullmatch(plain):
        return True
    return _WORD.search(plain) is None and _SIGNS.search(plain) is not None


def _leading_number(clause: str) -> Value | None:
    plain = untexed(clause)
    numbers = candidates(plain)
    if not numbers or plain[: numbers[0].start].strip(" ($*_≈+"):
        return None
    return value_at(plain, numbers[0])


def _result(plain: str) -> Value | None:
    """Of a sum that is worked out: what stands behind its last sign of equality, or before it, if
    the sum is behind."""
    sides = plain.split("=")
    first = value_of(sides[0])
    if first is not None and first.numbers and _SUM.match(sides[-1]):
        return first
    return first_value(sides[-1])


def last_value(text: str) -> Value | None:
    """The value that a sentence comes to: what it emphasises, else its last formula or number."""
    text = _without_asides(text)
    emphasised = _emphasised(text)
    if emphasised is not None:
        return emphasised
    first, again = restated(text)
    if again:
        return _said_again(first, again)
    text = without_circumstances(text)
    about = _about(text)
    if about is not None:
        return about
    formula = formula_of(text)
    if formula is not None:
        return formula
    equation = _EQUATION.search(text)
    if equation is not None and _holds_name(equation["side"]):
        return value_of(equation[0])
    brackets = _BRACKETS.search(text)
    if brackets is not None:
        value = value_of(brackets[0])
        if value is not None and value.parts:
            return value
    plain = _UNIT_POWER.sub(" ", untexed(text))
    assigned = _ASSIGNED.search(plain)
    if assigned is not None:
        value = value_of(plain[assigned.start() :])
        if value is not None and value.parts:
            return value
    numbers = candidates(plain)
    others = [
        one
        for one in _NO_NUMBER.finditer(plain)
        if not _is_part(one, numbers) and not (numbers and is_at(plain, one.start()))
    ]
    if others and (not numbers or others[-1].start() > numbers[-1].start):
        return value_of(others[-1][0])
    return _last_of(numbers, plain) if numbers else None


def _holds_name(side: str) -> bool:
    """Whether it is mathematics with a variable in it."""
    return _LETTER.search(side.upper()) is not None and is_signs(side)


def _said_again(first: str, again: str) -> Value | None:
    """Of numbers the first, with the other beside it: 3.5 km, i.e. 3500 m. Else what is said at
    last."""
    value = last_value(first)
    number = last_value(again)
    if value is None or number is None or not value.numbers or not number.numbers:
        return number or value
    return replace(value, nearly=number)


def _last_of(numbers: list[Number], plain: str) -> Value | None:
    """The last of a sentence's numbers, but for those that it is out of, or the parts of."""
    if _is_sum(numbers, plain):
        return value_at(plain, numbers[0])
    if len(numbers) > 1 and _OUT_OF.fullmatch(plain, numbers[-2].end, numbers[-1].start):
        return value_at(plain, numbers[-2])
    last = value_at(plain, numbers[-1])
    if len(numbers) > 1 and _OR.fullmatch(plain, numbers[-2].end, numbers[-1].start):
        other = value_at(plain, numbers[-2])
        if last.is_percent != other.is_percent:
            return replace(last, nearly=other)  # 0.6 or 60 %
        if "=" not in plain[numbers[-1].end :]:
            return value_of(plain[numbers[-2].start : numbers[-1].end])
    return last


def _is_sum(numbers: list[Number], plain: str) -> bool:
    if len(numbers) < 3 or not is_total(plain, numbers[0].end, numbers[1].start):
        return False
    values = [number.values[0] for number in numbers if number.values]
    return len(values) == len(numbers) and values[0] == sum(values[1:])


def _about(text: str) -> Value | None:
    """The value before "…, roughly 28.3", with that number beside it."""
    plain = _UNIT_POWER.sub(" ", untexed(text))
    if not may_be_about(plain):
        return None
    numbers = numbers_in(plain)
    if not numbers:
        return None
    written = plain[numbers[-1].start : numbers[-1].end].strip()
    place = text.rfind(written)
    cut = nearly(text, place) if place > 0 else None
    if cut is None:
        return None
    exact = last_value(text[:cut])
    if exact is None:
        return None
    return replace(exact, nearly=value_at(plain, numbers[-1]))


def _is_part(other: re.Match[str], numbers: list[Number]) -> bool:
    """Whether it lies in a number: the 10^3 of 1.2 × 10^3."""
    start, end = other.span()
    return any(number.start <= start and end <= number.end for number in numbers)


def _without_asides(text: str) -> str:
    """Without brackets of words, citations and reasons, as long as a number is left."""
    shorter = _ASIDE.sub(" ", text)
    why = WHY.first(shorter)
    if why is None and is_european(shorter):
        why = WHY_ELSEWHERE.first(shorter)
    if why is not None:
        shorter = _without_reason(shorter, why.start)
    return shorter if has_number(shorter) else text


def _without_reason(text: str, why: int) -> str:
    """What a reason is given for: the number that the reason comes to, or the only one; else all,
    because the reason is no more than a part of it."""
    reason = untexed(text[why:])
    if "," in _NUMERIC_COMMA.sub("", reason):
        return text
    told = numbers_in(untexed(text[:why]))
    found = numbers_in(reason)
    if not told or not found:
        return text[:why] if told else text
    for number in told:
        if number.values[0] == found[-1].values[0]:
            return text[: number.end] if "\\" not in text else text[:why]
    return text[:why] if len(told) == 1 else text


def _emphasised(text: str) -> Value | None:
    found = None
    for span in _EMPHASIS.finditer(text):
        value = value_of(next(filter(None, span.groups())))
        if value is not None and (value.numbers or value.parts):
            found = value
    return found


def formula_of(text: str) -> Value | None:
    """What the last formulas of a sentence stand for, if nothing but words follows them."""
    text = _DENIED_FORMULA.sub("", text)
    spans = [span for span in _FORMULA.finditer(text) if not is_prose(_content(span))]
    if not spans or has_number(_UNIT_POWER.sub("", text[spans[-1].end() :])):
        return None
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        if not _FORMULA_JOINT.fullmatch(text, span.end(), joined[0].start()):
            break
        joined.insert(0, span)
    value = value_of(", ".join(map(_content, joined)))
    if value is None or (not value.numbers and not value.parts and not is_signs(value.tex)):
        return None
    return value


def _content(span: re.Match[str]) -> str:
    return next(filter(None, span.groups()))


def candidates(plain: str) -> list[Number]:
    """The numbers of a sentence that may be an answer: no time, date, power, step or item."""
    numbers = numbers_in(plain)
    taken = []
    for other in _NO_NUMBER.finditer(plain):
        if not _is_part(other, numbers):
            taken.append(other.span())
    item = _ITEM.match(plain)
    if item is not None:
        taken.append(item.span())
    found = []
    for number in numbers:
        if any(start <= number.start < end for start, end in taken):
            continue
        before = max(0, number.start - _LABEL_LENGTH)
        if _LABEL.search(plain, before, number.start) or _DENIED.search(
            plain, before, number.start
        ):
            continue
        found.append(number)
    names = names_in(plain)
    kept = [number for number in found if number.start not in names]
    return kept or found


def is_aside(sentence: str) -> bool:
    """Whether all its numbers stand in brackets that explain."""
    return not has_number(_ASIDE.sub(" ", sentence))


def has_number(text: str) -> bool:
    """Whether a digit stands in it."""
    return any(sign.isdigit() for sign in text)


def is_prose(text: str) -> bool:
    """Whether words of a language follow each other in it."""
    return _PROSE.search(untexed(text)) is not None
