r"""The final answer of a text of mathematics, and of a reference.

A box, a tag or `####` comes first, the last of them; then what words like "the answer is" name;
then the end of the text, without closing remarks. A reference that is no text is read whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.rows.answers.circumstances import restated
from engine.rows.answers.latex import Box, boxes, untexed
from engine.rows.answers.number_words import spoken_number
from engine.rows.answers.numbers import Number, as_english, numbers_in
from engine.rows.answers.sentence_values import (
    candidates,
    first_value,
    formula_of,
    has_number,
    is_aside,
    is_prose,
    is_signs,
    last_value,
)
from engine.rows.answers.spelling import sentences, spelt
from engine.rows.answers.statement import (
    Statement,
    said,
    tags,
    without_next_question,
    without_thoughts,
)
from engine.rows.answers.values import Value, value_at, value_of
from engine.rows.answers.vocabulary import GIVES_UP, IS, REMARKS

_LONGEST_REFERENCE = 200  # characters: what is longer is a solution, to be read like an answer
_WORDS = 3  # of a reference that is no mathematics: "no solution", "Tuesday"
_NO_WORDS = ("a", "an", "none", "null", "nan", "n/a", "unknown")  # "a proof" is no answer
_LATE = 20_000  # characters at the end of a text in which an unmarked answer is looked for
_LAST_WORDS = 2  # sentences in which a text says that it gives up
_MOST_BOXES = 12  # of one list
_NEAR_CUE = 40  # characters between an answer and words that come after it
# A calculator's notes (<<9*2=18>>), and citations
_NOTES = re.compile(r"<<[^<>\n]*>>|(?<=[\s.,;\w])(?<!sqrt)\[\^?\d{1,2}\](?![({])")
_HASHES = re.compile(r"####[ \t*]*(?P<line>[^\n]+)")
_ENUMERATED = re.compile(r"\d{1,2}[.)]\s+\S*[^\W\d]")
_BOX_JOINT = re.compile(
    r"[\s$,;.]*(?:and|or|y|o|und|oder|et|ou|,)?[\s$]*(?:\\?\w{1,10}\s*=\s*)?\$?\s*"
)
_NUMBER_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|y|und|et|e|и|和))\s*")
# Behind "is": how the answer is found, not what it is.
_HOW = re.compile(
    r"\s*(?:\w+ed\b|found|given|got|as\b|below|above|not\b|to\b|the same\b)", re.IGNORECASE
)
_SUBORDINATE = re.compile(r"\s(?:when|while|considering|where|which|if|by)\s")
_SIGNS = re.compile(r"[\\^=<>+*/√π∞°-]|\d")
_LETTER_OR_BRACKET = re.compile(r"[A-Za-z([{√π∞]")
_POWER_ALONE = re.compile(r"\$\s*(\^\s?\{?-?\d\}?)\s*\$")
_LEADING = re.compile(
    r"[\s*_]{0,9}(?P<value>[^\s:—\n]{0,20}?\d[^\s:—,\n]{0,20})[*_]{0,3}"
    r"(?:(?: [^\W\d_]+)?(?:\s*—\s*|\s-\s+)(?!no\b|wait|actually|sorry)(?=[^\W\d_]{2})"
    r"|\.?\n\s*\n(?=[^\W\d_]{2})|, (?=I think|I believe|because|since)\b)"
)
_CHOICE = re.compile(r"\(?[A-Za-z]\)?")


def answer_of(text: str) -> Value | None:
    """The value that the text ends in; None where it states none."""
    text = _NOTES.sub("", without_thoughts(spelt(text)))
    text = as_english(_POWER_ALONE.sub(r"\1", text))
    marked = _marked(text)
    if marked is not None:
        return marked
    late = without_next_question(text[-_LATE:])
    for statement in said(late):
        value = _stated(statement)
        if value is not None:
            return value
    return _alone(text) or _leading(text) or _at_the_end(late)


def _leading(text: str) -> Value | None:
    """Of a text that begins with nothing but a number, and goes on to explain it."""
    first = _LEADING.match(text)
    if first is None:
        return None
    value = value_of(first["value"])
    return value if value is not None and value.numbers else None


def _alone(text: str) -> Value | None:
    """Of a text that is nothing but an expression or a bracket of values."""
    first, again = restated(text.strip())
    text = again or first
    if again and not is_signs(first):
        return None
    if len(text) > _LONGEST_REFERENCE or "\n" in text or "</" in text or not is_signs(text):
        return None
    return value_of(text) if _LETTER_OR_BRACKET.search(text) else None


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
    if _CHOICE.fullmatch(text):
        return True
    words = text.lower().split()
    return len(words) <= _WORDS and words[0] not in _NO_WORDS and value.is_words


def _is_mathematics(text: str) -> bool:
    """Whether signs outweigh words: no clause of a language."""
    return not is_prose(text) and _SIGNS.search(text) is not None


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
    if "\\boxed" in content or is_prose(content):
        return answer_of(content) or value
    return value


def _hashed(text: str) -> Iterator[tuple[int, Value]]:
    for mark in _HASHES.finditer(text):
        line = mark["line"]
        if _ENUMERATED.match(line) and text[mark.end() :].strip():
            continue  # a heading of Markdown
        value = first_value(line)
        if value is not None:
            yield mark.start(), value


def _boxed(text: str) -> Iterator[tuple[int, Value]]:
    """The last box; boxes that only a comma or a word joins are one list."""
    framed = boxes(text)
    for last in reversed(range(len(framed))):
        first = last
        while (
            first
            and last - first < _MOST_BOXES
            and _are_joined(framed[first - 1 : first + 1], text)
        ):
            first -= 1
        together = framed[first : last + 1]
        value = _of_content(", ".join(one.content for one in together))
        if value is not None:
            yield framed[last].start, value
            return


def _are_joined(two: list[Box], text: str) -> bool:
    before, behind = two
    return _BOX_JOINT.fullmatch(text, before.end, behind.start) is not None


def _stated(statement: Statement) -> Value | None:
    """The value that words introduce, if one is there."""
    value = first_value(statement.direct)
    if value is not None:
        return value
    if statement.predicate is not None:
        value = first_value(statement.predicate)
        if value is not None:
            return value
        if not _HOW.match(statement.predicate):
            value = last_value(statement.predicate)
            if value is not None:
                return value
    if statement.is_headed and (statement.is_alone or statement.is_final):
        told = statement.block
        if statement.is_alone:
            told = _SUBORDINATE.split(told, maxsplit=1)[0]
        value = _at_the_end(told) or _at_the_end(statement.block)
        if value is not None:
            return value
    return _before(statement)


def _before(statement: Statement) -> Value | None:
    """Of "18 is the answer"."""
    if any(sign.isdigit() for sign in statement.direct):
        return None
    if len(statement.before) - statement.before.rfind("$") < _NEAR_CUE:
        formula = formula_of(statement.before)
        if formula is not None:
            return formula
    before = untexed(statement.before)
    numbers = candidates(before)
    if not numbers:
        return None
    between = before[numbers[-1].end :]
    if len(between) > _NEAR_CUE:
        return None
    if IS.first(between) is None and between.strip().isascii() and between.strip(" =:-*"):
        return None
    return value_at(before, numbers[-1])


def _at_the_end(text: str) -> Value | None:
    """The value of the last sentence that has one, leaving out closing remarks."""
    if any(map(GIVES_UP.search, sentences(text)[-_LAST_WORDS:])):
        return None
    kept = _without_remarks(text)
    if any(map(GIVES_UP.search, kept[-_LAST_WORDS:])):
        return None
    for sentence in reversed(kept):
        value = last_value(sentence)
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
        plain = untexed(sentence)
        numbers = numbers_in(plain)
        if numbers:
            return value_of(plain[_first_joined(plain, numbers) : numbers[-1].end])
    return None


def _first_joined(plain: str, numbers: list[Number]) -> int:
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
        if not any(map(has_number, paragraphs[:-1])):
            break
        paragraphs.pop()
    kept: list[str] = []
    for paragraph in paragraphs:
        kept += sentences(paragraph)
    while len(kept) > 1 and _says_nothing(kept[-1]) and any(map(has_number, kept[:-1])):
        kept.pop()
    return kept


def _says_nothing(sentence: str) -> bool:
    return _is_remark(sentence) or is_aside(sentence)


def _is_remark(sentence: str) -> bool:
    is_question = sentence.rstrip(" *_").endswith(("?", "？", "؟")) and "=" not in sentence
    return is_question or REMARKS.match(sentence) is not None
