r"""Whether an answer is right: the final answer inside a text against one or several gold ones.

`curate` judges a teacher's answers and `evaluate` every model's: both mean the same by "right". The
rules (engine/rows/answers) read text only: `\frac{1}{2}` equals 0.5, but whether `x+1` equals `1+x`
only algebra can tell. What is left to it is Undecided, and whoever has an algebra system settles
it; one that gives no answer leaves UNVERIFIED, which is never wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.rows.answers import labels, mathematics, phrases
from engine.rows.answers.choices import choice_of, reference_choice
from engine.rows.answers.equality import same_value
from engine.rows.answers.values import Value

Pair = tuple[str, str]  # the gold answer and the one that was given, in LaTeX
# Whether the two of each pair are the same; None where that could not be told.
Algebra = Callable[[Sequence[Pair]], Sequence[bool | None]]


class Verdict(StrEnum):
    """What an answer is, compared with its references."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # it states none
    AMBIGUOUS = "ambiguous"  # it states several
    UNVERIFIED = "unverified"  # only algebra could tell, and did not


@dataclass(frozen=True)
class Undecided:
    """Right if the two of any pair are the same."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Rules:
    """How answers compare where a task leaves a choice. `qa` is contains, exact or f1>=x, and None:
    contains for references of a few words, else nothing. `labels` are the job's own names of NLI's
    labels, folded."""

    qa: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def rules_for(qa: str | None, labels: Mapping[str, str]) -> Rules:
    """Rules of a job, whose names of labels may have capitals."""
    folded = {name.casefold(): label for name, label in labels.items()}
    return Rules(qa, folded)


USUAL = Rules()
Judged = Verdict | Undecided | None


def same_final_answer(task: str, text: str, reference: str | None) -> bool | None:
    """Whether both texts end in the same answer, word for word in qa, as far as rules can tell;
    None when the task or the reference has none to compare."""
    if reference is None:
        return None
    judged = judge(task, text, [reference], Rules(qa="exact"))
    return None if judged is None else judged == Verdict.RIGHT


def is_compared(task: str) -> bool:
    """Whether answers of the task are right or wrong at all."""
    return task in _READERS


def is_readable(task: str, reference: str, rules: Rules = USUAL) -> bool:
    """Whether the task can compare an answer with this reference."""
    reader = _READERS.get(task)
    return reader is not None and reader(reference, rules)


def judge(
    task: str,
    text: str,
    references: Sequence[str],
    rules: Rules = USUAL,
    *,
    prompt: str = "",
) -> Judged:
    """The best that the answer is against any reference; None where there is none to compare.
    `prompt` may give labels letters of its own."""
    readable = [one for one in references if is_readable(task, one, rules)]
    if not readable:
        return None
    return _JUDGES[task](text, readable, rules, prompt)


def settle(judged: Sequence[Judged], algebra: Algebra | None) -> list[Verdict | None]:
    """Verdicts, with those that need algebra asked of it all at once; without any, they stay
    UNVERIFIED."""
    asked: dict[Pair, bool | None] = {}
    for one in judged:
        if isinstance(one, Undecided):
            asked |= dict.fromkeys(one.pairs)
    if asked and algebra is not None:
        asked = dict(zip(asked, algebra(list(asked)), strict=True))
    settled: list[Verdict | None] = []
    for one in judged:
        if isinstance(one, Undecided):
            settled.append(_settled([asked[pair] for pair in one.pairs]))
        else:
            settled.append(one)
    return settled


def _settled(opinions: Sequence[bool | None]) -> Verdict:
    if True in opinions:
        return Verdict.RIGHT
    return Verdict.UNVERIFIED if None in opinions else Verdict.WRONG


@functools.lru_cache(maxsize=4096)
def _wanted_value(reference: str) -> Value | None:
    return mathematics.reference_of(reference)


def _judge_math(text: str, references: Sequence[str], rules: Rules, prompt: str) -> Judged:
    choices = list(map(reference_choice, references))
    choice = None if None in choices else choice_of(text)
    if choice is not None:
        return Verdict.RIGHT if choice in choices else Verdict.WRONG
    said = mathematics.answer_of(text)
    if said is None:
        return _judge_words(text, references)
    pairs = []
    is_one_of_several = False
    for reference in references:
        wanted = _wanted_value(reference)
        assert wanted is not None  # it is readable
        same = same_value(said, wanted)
        if wanted.parts and said.numbers:
            several = mathematics.list_of(text)
            same = several is not None and same_value(several, wanted)
        if same:
            return Verdict.RIGHT
        if same is None:
            pairs.append((wanted.tex, said.tex))
        elif wanted.is_words and not said.numbers and phrases.holds(text, reference):
            return Verdict.RIGHT
        is_one_of_several |= any(same_value(part, wanted) is True for part in said.parts)
    if is_one_of_several:
        return Verdict.AMBIGUOUS
    return Undecided(tuple(pairs)) if pairs else Verdict.WRONG


def _judge_words(text: str, references: Sequence[str]) -> Verdict:
    """Of an answer without mathematics: a reference in words may stand in it."""
    for reference in references:
        wanted = _wanted_value(reference)
        if wanted is not None and wanted.is_words and phrases.holds(text, reference):
            return Verdict.RIGHT
    return Verdict.NO_ANSWER


def _judge_nli(text: str, references: Sequence[str], rules: Rules, prompt: str) -> Judged:
    said = labels.label_of(text, labels.names_in(prompt, rules.labels))
    if said is None:
        return Verdict.NO_ANSWER
    if said == labels.AMBIGUOUS:
        return Verdict.AMBIGUOUS
    same = []
    for reference in references:
        wanted = labels.reference_label(reference, rules.labels)
        assert wanted is not None  # it is readable
        same.append(labels.same_label(said, wanted))
    if True in same:
        return Verdict.RIGHT
    return Verdict.AMBIGUOUS if None in same else Verdict.WRONG


def _judge_qa(text: str, references: Sequence[str], rules: Rules, prompt: str) -> Judged:
    if not text.strip():
        return Verdict.NO_ANSWER
    is_right = phrases.rule_of(rules.qa or "contains")
    for reference in references:
        if is_right(text, reference, prompt):
            return Verdict.RIGHT
    return Verdict.WRONG


def _reads_math(reference: str, rules: Rules) -> bool:
    return _wanted_value(reference) is not None


def _reads_nli(reference: str, rules: Rules) -> bool:
    return labels.reference_label(reference, rules.labels) is not None


def _reads_qa(reference: str, rules: Rules) -> bool:
    if not phrases.normalise(reference):
        return False
    return rules.qa is not None or phrases.is_short(reference)


_JUDGES: dict[str, Callable[[str, Sequence[str], Rules, str], Judged]] = {
    "math": _judge_math,
    "nli": _judge_nli,
    "qa": _judge_qa,
}
_READERS: dict[str, Callable[[str, Rules], bool]] = {
    "math": _reads_math,
    "nli": _reads_nli,
    "qa": _reads_qa,
}
