r"""The final answer of a text of mathematics, and of a reference.

A box, a tag or `####` comes first, the last of them; then what words like "the answer is" name; then
the end of the text, without closing remarks. A reference that is no text is read whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.rows.answers.latex import Box, boxes, untexed
from engine.rows.answers.numbers import Number, as_english, numbers_in, spoken_number
from engine.rows.answers.spelling import LETTER, sentences, spelt
from engine.rows.answers.statement import (
    Statement,
    said,
    tags,
    without_next_question,
    without_thoughts,
)
from engine.rows.answers.values import Value, value_at, value_of
from engine.rows.answers.vocabulary import (
    ASIDES,
    GIVES_UP,
    IS,
    NEAR,
    REMARKS,
    WHY,
    WHY_ELSEWHERE,
    is_european,
)

_LONGEST_REFERENCE = 200  # characters: what is longer is a solution, to be read like an answer
_WORDS = 3  # of a reference that is no mathematics: "no solution", "Tuesday"
_LATE = 20_000  # characters at the end of a text in which an unmarked answer is looked for
_LAST_WORDS = 2  # sentences in which a text says that it gives up
_NEAR_CUE = 40  # characters between an answer and words that come after it
# A calculator's notes (<<9*2=18>>), and citations
_NOTES = re.compile(r"<<[^<>\n]*>>|(?<=[\s.,;\w])(?<!sqrt)\[\^?\d{1,2}\](?![({])")
_HASHES = re.compile(r"####[ \t*]*(?P<line>[^\n]+)")
_ENUMERATED = re.compile(r"\d{1,2}[.)]\s+\S*[^\W\d]")
_BOX_JOINT = re.compile(
    r"[\s$,;.]*(?:and|or|y|o|und|oder|et|ou|,)?[\s$]*(?:\\?\w{1,10}\s*=\s*)?\$?\s*"
)
_CLAUSE_END = re.compile(
    r"\s\((?=[^()]*[^\W\d_]{2})|[,;:]\s+(?=[^\W\d_\\]{2})|\s[-—]\s|\n|,\s*$|\.\s|…\s|\s—"
)
_SPAN = re.compile(
    r"\s*(?:\$\$?(?P<dollars>(?! )[^$\n]*[^$\n=+*/( -])\$\$?(?!\d)|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\])", re.DOTALL
)
_FORMULA = re.compile(_SPAN.pattern.removeprefix(r"\s*"), re.DOTALL)
_FORMULA_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|or|y|o|und|oder|et|ou|e|и|或|和))\s*")
_NUMERIC_COMMA = re.compile(r"(?<=\d),(?=\d)")
_NUMBER_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|y|und|et|e|и|和))\s*")
_OUT_OF = re.compile(r"(?:\s\w+)?\s+(?:out of|of the|of a total of)\s+(?:the\s+|a total of\s+)?")
_HEAD = re.compile(r"[\s*_`\"'≈~:>]*")
_PROSE = re.compile(rf"(?<![\\{{]){LETTER}{{3,}}\s+{LETTER}{{2,}}")
# Of more than one letter, and no function; or of an alphabet that names no variables.
_WORD = re.compile(
    r"(?<![\\A-Za-z\d])(?!(?:sin|cos|tan|cot|sec|log|ln|pi|sqrt|max|min|exp)\b)[A-Za-z]{2,}(?![A-Za-z])"
    r"|[^\W\d_A-Za-zͰ-Ͽ]"
)
_SUM = re.compile(r"[\s(]*[$€£]?[\d.,]+%?[^\d=<>]{0,40}?(?:[-+*/^×·]|\bx\b)[^=]*\d")
_HOW = re.compile(r"\s*(?:\w+ed\b|found|given|got|as\b|below|above|not\b|to\b|the same\b)", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__|<b>([^<\n]+)</b>|<strong>([^<\n]+)</strong>")
_ASIDE = re.compile(rf"\([^()]*{LETTER}{{2,}}[^()]*\)|\[\^?\d{{1,2}}\]")
_UNIT_POWER = re.compile(r"(?<=[^\W\d_])\^\{?-?[1-4]\}?")
# Times, dates, versions, powers, ratios and multiples of a variable.
_NO_NUMBER = re.compile(
    r"(?<![\d.,])(?:\d{1,2}:[0-5]\d(?!\d)(?::\d{2})?(?:\s?[ap]\.?m\b)?|\d{4}-\d{1,2}-\d{1,2}(?!\d)"
    r"|\d{1,2}([/.])\d{1,2}\1\d{2,4}(?!\d)|\d+(?:\.\d+){2,}(?!\d)|\d+(?:\s?\^\s?\{?-?\d+\}?|:\d+)"
    r"|\d[\d,.]*[xyzn]\b(?:\s?\^\s?\d)?)"
)
_LABEL = re.compile(
    r"(?:step|part|question|problem|figure|fig\.|table|grade|chapter|page|case|example|equation|eq\."
    r"|section|line|version|no\.|paso|schritt|étape|passo|шаг|चरण)\s*[#(]?$",
    re.IGNORECASE,
)
_ITEM = re.compile(r"^\s*(?:[-*]\s+)?\d{1,2}[.)]\s+(?=\S)")
_ASSIGNED = re.compile(r"[A-Za-z]\s*=\s*[^=,;]+(?:,|;|and|or)\s*[A-Za-z]\s*=")


def answer_of(text: str) -> Value | None:
    """The value that the text ends in; None where it states none."""
    text = _NOTES.sub("", without_thoughts(spelt(text)))
    text = as_english(text)
    marked = _marked(text)
    if marked is not None:
        return marked
    late = without_next_question(text[-_LATE:])
    for statement in said(late):
        value = _stated(statement)
        if value is not None:
            return value
    return _at_the_end(late)


def reference_of(text: str) -> Value | None:
    """The value that a reference stands for, whole or at the end of its solution; None where it has
    none to compare."""
    text = spelt(text).strip()
    marked = _marked(text)
    if marked is not None:
        return marked
    if len(text) <= _LONGEST_REFERENCE and "\n" not in text:
        value = value_of(text)
        if value is not None and _is_whole(value, text):
            return value
    return answer_of(text)


def _is_whole(value: Value, text: str) -> bool:
    if value.numbers or value.parts or _is_mathematics(text):
        return True
    words = text.split()
    return len(words) <= _WORDS and words[0].lower() not in ("a", "an") and value.is_words


def _is_mathematics(text: str) -> bool:
    """Whether signs outweigh words: no clause of a language."""
    if _PROSE.search(untexed(text)):
        return False
    return len(text.split()) == 1 or re.search(r"[\\^=<>+*/√π∞°-]|\d", text) is not None


def _marked(text: str) -> Value | None:
    """What the last box, tag or line behind #### holds."""
    text = without_next_question(text)
    found: list[tuple[int, Value]] = []
    for at, content in tags(text):
        value = _of_content(content)
        if value is not None:
            found.append((at, value))
    if "####" in text:
        found += _hashed(text)
    if "\\" in text:
        found += _boxed(text)
    if not found:
        return None
    return max(found, key=lambda one: one[0])[1]


def _of_content(content: str) -> Value | None:
    """Of what was put into a tag or box: a value, or a sentence with one."""
    value = value_of(content)
    if value is None or value.numbers or value.parts:
        return value
    if "\\boxed" in content or _PROSE.search(untexed(content)):
        return answer_of(content) or value
    return value


def _hashed(text: str) -> Iterator[tuple[int, Value]]:
    for mark in _HASHES.finditer(text):
        line = mark["line"]
        if _ENUMERATED.match(line) and text[mark.end() :].strip():
            continue  # a heading of Markdown
        value = _first_value(line)
        if value is not None:
            yield mark.start(), value


def _boxed(text: str) -> Iterator[tuple[int, Value]]:
    """Every box; boxes that only a comma or a word joins are one list."""
    together: list[Box] = []
    for box in boxes(text):
        if together and not _BOX_JOINT.fullmatch(text, together[-1].end, box.start):
            together.clear()
        together.append(box)
        value = _of_content(", ".join(one.content for one in together))
        if value is not None:
            yield box.start, value


def _stated(statement: Statement) -> Value | None:
    """The value that words introduce, if one is there."""
    value = _first_value(statement.direct)
    if value is not None:
        return value
    if statement.predicate is not None:
        value = _first_value(statement.predicate)
        if value is not None:
            return value
        if not _HOW.match(statement.predicate):
            value = _last_value(statement.predicate)
            if value is not None:
                return value
    if statement.is_headed and (statement.is_alone or statement.is_final):
        value = _at_the_end(statement.block)
        if value is not None:
            return value
    return _before(statement)


def _before(statement: Statement) -> Value | None:
    """Of "18 is the answer"."""
    if any(sign.isdigit() for sign in statement.direct):
        return None
    before = untexed(statement.before)
    numbers = _candidates(before)
    if not numbers:
        return None
    between = before[numbers[-1].end :]
    if len(between) > _NEAR_CUE:
        return None
    if IS.first(between) is None and between.strip().isascii() and between.strip(" =:-*"):
        return None
    return value_at(before, numbers[-1])


def _first_value(text: str) -> Value | None:
    """The value that the text begins with: a number with its unit, signs of mathematics, one of
    several alternatives."""
    text = _without_head(text)
    if not text:
        return None
    span = _SPAN.match(text)
    if span is not None:
        content = _content(span)
        if not _PROSE.search(content):
            value = value_of(content)
            if value is not None and not _goes_on(text, span.end()):
                return value
    clause = _clause(text)
    if _SUM.match(untexed(clause)) and "=" in clause:
        return _result(untexed(clause))
    value = value_of(clause)
    if value is not None and (value.numbers or value.parts or _is_signs(clause)):
        return value
    return _leading_number(clause)


def _without_head(text: str) -> str:
    """Without emphasis and words like "about" before it."""
    while True:
        text = text[_HEAD.match(text).end() :]
        word = NEAR.first(text)
        if word is None or word.start:
            return text
        text = text[word.end :]


def _goes_on(text: str, end: int) -> bool:
    """Whether an equation or a list goes on behind a span of mathematics."""
    return re.match(r"\s*(?:[=+*/^×]|(?:,|and|or|y|und|oder|et|ou)\s*(?:\$|\\\())", text[end:]) is not None


def _clause(text: str) -> str:
    """The text up to where an explanation or an aside begins."""
    end = _CLAUSE_END.search(text)
    if end is not None:
        text = text[: end.start()]
    aside = ASIDES.first(text)
    if aside is not None and text[: aside.start].strip():
        text = text[: aside.start]
    return text


def _is_signs(clause: str) -> bool:
    """Whether the clause is mathematics without any words, or the letter of a choice."""
    plain = untexed(clause).strip(" .*_$()")
    if re.fullmatch(r"[A-Z]", plain):
        return True
    if _WORD.search(plain):
        return False
    return re.search(r"[\\^=<>+*/√π∞]|\d", plain) is not None


def _leading_number(clause: str) -> Value | None:
    plain = untexed(clause)
    numbers = _candidates(plain)
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
    return _first_value(sides[-1])


def _last_value(text: str) -> Value | None:
    """The value that a sentence comes to: what it emphasises, else its last formula or number."""
    text = _without_asides(text)
    emphasised = _emphasised(text)
    if emphasised is not None:
        return emphasised
    formula = _formula(text)
    if formula is not None:
        return formula
    plain = _UNIT_POWER.sub(" ", untexed(text))
    assigned = _ASSIGNED.search(plain)
    if assigned is not None:
        value = value_of(plain[assigned.start() :])
        if value is not None and value.parts:
            return value
    numbers = _candidates(plain)
    others = list(_NO_NUMBER.finditer(plain))
    if others and (not numbers or others[-1].start() > numbers[-1].start):
        return value_of(others[-1][0])
    if not numbers:
        return None
    if len(numbers) > 1 and _OUT_OF.fullmatch(plain, numbers[-2].end, numbers[-1].start):
        return value_at(plain, numbers[-2])
    return value_at(plain, numbers[-1])


def _without_asides(text: str) -> str:
    """Without brackets of words, citations and reasons, as long as a number is left."""
    shorter = _ASIDE.sub(" ", text)
    why = WHY.first(shorter)
    if why is None and is_european(shorter):
        why = WHY_ELSEWHERE.first(shorter)
    if why is not None:
        shorter = _without_reason(shorter, why.start)
    return shorter if _has_number(shorter) else text


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


def _formula(text: str) -> Value | None:
    """What the last formulas of a sentence stand for, if nothing but words follows them."""
    spans = [span for span in _FORMULA.finditer(text) if not _PROSE.search(_content(span))]
    if not spans or _has_number(text[spans[-1].end() :]):
        return None
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        if not _FORMULA_JOINT.fullmatch(text, span.end(), joined[0].start()):
            break
        joined.insert(0, span)
    value = value_of(", ".join(map(_content, joined)))
    if value is None or (not value.numbers and not value.parts and not _is_signs(value.tex)):
        return None
    return value


def _content(span: re.Match[str]) -> str:
    return next(filter(None, span.groups()))


def _candidates(plain: str) -> list[Number]:
    """The numbers of a sentence that may be an answer: no time, date, power, step or item."""
    taken = [other.span() for other in _NO_NUMBER.finditer(plain)]
    item = _ITEM.match(plain)
    if item is not None:
        taken.append(item.span())
    found = []
    for number in numbers_in(plain):
        if any(start <= number.start < end for start, end in taken):
            continue
        if _LABEL.search(plain, max(0, number.start - 12), number.start):
            continue
        found.append(number)
    return found


def _at_the_end(text: str) -> Value | None:
    """The value of the last sentence that has one, leaving out closing remarks."""
    kept = _without_remarks(text)
    if any(map(GIVES_UP.search, kept[-_LAST_WORDS:])):
        return None
    for sentence in reversed(kept):
        value = _last_value(sentence)
        if value is not None:
            return value
    return _spoken(kept)


def _spoken(sentences_kept: list[str]) -> Value | None:
    """Of a text without any digits."""
    for sentence in reversed(sentences_kept):
        number = spoken_number(sentence)
        if number is not None:
            return value_of(str(number))
    return None


def list_of(text: str) -> Value | None:
    """The numbers that the text's last sentence joins: "they are 7 and 13"."""
    text = without_thoughts(spelt(text))
    for sentence in reversed(_without_remarks(text[-_LATE:])):
        numbers = numbers_in(untexed(sentence))
        if numbers:
            return value_of(untexed(sentence)[_first_joined(sentence, numbers) : numbers[-1].end])
    return None


def _first_joined(sentence: str, numbers: list[Number]) -> int:
    plain = untexed(sentence)
    first = numbers[-1]
    for number in reversed(numbers[:-1]):
        if not _NUMBER_JOINT.fullmatch(plain, number.end, first.start):
            break
        first = number
    return first.start


def _without_remarks(text: str) -> list[str]:
    """The text's sentences without those at its end that only speak about the answer."""
    paragraphs = [one for one in text.split("\n\n") if one.strip()]
    while len(paragraphs) > 1 and _is_remark(paragraphs[-1]):
        if not any(map(_has_number, paragraphs[:-1])):
            break
        paragraphs.pop()
    kept: list[str] = []
    for paragraph in paragraphs:
        kept += sentences(paragraph)
    while len(kept) > 1 and _says_nothing(kept[-1]) and any(map(_has_number, kept[:-1])):
        kept.pop()
    return kept


def _says_nothing(sentence: str) -> bool:
    return _is_remark(sentence) or not _has_number(sentence)


def _is_remark(sentence: str) -> bool:
    is_question = sentence.rstrip(" *_").endswith(("?", "？", "؟")) and "=" not in sentence
    return is_question or REMARKS.match(sentence) is not None


def _has_number(sentence: str) -> bool:
    return any(sign.isdigit() for sign in sentence)
