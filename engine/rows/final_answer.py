r"""The final answer inside a text, per task, in a form that compares exactly.

`curate` compares a teacher's answer with the reference, `evaluate` scores every model: both mean
the same thing by "equal". The rules read text only; they do no algebra: `\frac{1}{2}` equals 0.5,
but `2x` equals only `2x`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

FinalAnswer = Fraction | str
_NUMBER_PATTERN = (
    r"(?<![A-Za-z0-9])(?:(?<![)\]])-)?[$€£]?"  # -5 and -$5; but 10-5 and (a)-5 end in 5
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))"  # 1,234  1234  and the nothing before .5
    r"(?:\.\d+)?(?:/\d+)?"
)
_NUMBER = re.compile(_NUMBER_PATTERN)
_MARKED = re.compile(
    rf"####[\s*]*(?P<number>{_NUMBER_PATTERN})"  # without a number it is a Markdown heading
    # not empty; braces in it up to two deep
    r"|\\boxed\{(?!\s*\})(?P<boxed>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})+)\}"
)
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_MARKUP = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}|\\[!,;: ]|\\left|\\right|[*`]|\\(?=[%$])")
_UNIT = re.compile(r"(?:[\s$€£%°.,:]|(?<![A-Za-z])[A-Za-z]{2,}(?![A-Za-z]))*")
_NLI_MENTION = re.compile(
    r"(?<!not )(?<!not_)(?<!non-)\b"
    r"(?:(?P<entailment>entail(?:ment|s|ed)?)|(?P<neutral>neutral)|(?P<contradiction>contradict(?:ion|s|ed|ory)?))\b"
)
# What the first word means in a text that mentions no label.
_NLI_FIRST_WORD = {
    "yes": "entailment",
    "true": "entailment",
    "maybe": "neutral",
    "unknown": "neutral",
    "no": "contradiction",
    "false": "contradiction",
}
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def final_answer(task: str, text: str) -> FinalAnswer | None:
    """The text's final answer, normalised; None where the text has none, or the task has nothing
    exact to compare."""
    extract = _EXTRACTORS.get(task)
    return extract(text) if extract else None


def same_final_answer(task: str, text: str, reference: str | None) -> bool | None:
    """Whether both texts end in the same answer; None when the task or the reference has none to
    compare."""
    if reference is None:
        return None
    wanted = final_answer(task, reference)
    if wanted is None:
        return None
    return final_answer(task, text) == wanted


def normalise_qa(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (official SQuAD v1.1 evaluation
    script)."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _math(text: str) -> FinalAnswer | None:
    """The last of GSM8K's `#### 5` and `\\boxed{x}`, else the last number."""
    text = _FRACTION.sub(r" \1/\2", text.replace("−", "-"))
    marks = list(_MARKED.finditer(text))
    if marks:
        last = marks[-1]
        if last["boxed"]:
            return _value(last["boxed"])
        text = last["number"]
    numbers = _numbers(text)
    return numbers[-1][1] if numbers else None


def _value(boxed: str) -> FinalAnswer:
    """A boxed answer as a number, where it is one with at most a unit beside it; else its text
    without spaces."""
    plain = _MARKUP.sub(r" \1", boxed).strip()
    plain = re.sub(r"^[A-Za-z]\s*=\s*", "", plain).rstrip(". ")
    numbers = _numbers(plain)
    if len(numbers) == 1:
        written, value = numbers[0]
        beside_it = plain.replace(written, " ", 1)
        if _UNIT.fullmatch(beside_it):
            return value
    return re.sub(r"[\s$]", "", plain).lower()


def _numbers(text: str) -> list[tuple[str, Fraction]]:
    """Numbers in order of appearance: as written, and exact."""
    numbers = []
    for match in _NUMBER.finditer(text):
        written = match.group()
        above, _, below = re.sub(r"[\s,$€£]", "", written).partition("/")
        # Decimal first: unlike int() it takes digits beyond Python's limit, which looping models do
        # write.
        divisor = Fraction(Decimal(below or 1))
        if divisor:
            numbers.append((written, Fraction(Decimal(above)) / divisor))
    return numbers


def _nli(text: str) -> str | None:
    """The label that the text starts with, else the last one that it mentions, else what a first
    yes, no or maybe means."""
    text = text.lower()
    first_word = re.search(r"\w+", text)
    if first_word is None:
        return None
    mentions = list(_NLI_MENTION.finditer(text))
    if not mentions:
        return _NLI_FIRST_WORD.get(first_word[0])
    if mentions[0].start() == first_word.start():
        return mentions[0].lastgroup
    return mentions[-1].lastgroup


def _qa(text: str) -> str | None:
    return normalise_qa(text) or text.strip().lower() or None


_EXTRACTORS: dict[str, Callable[[str], FinalAnswer | None]] = {
    "math": _math,
    "nli": _nli,
    "qa": _qa,
}
