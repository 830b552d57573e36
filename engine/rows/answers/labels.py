"""The label of natural language inference that a text gives: entailment, neutral or contradiction.

A verdict counts before its explanation, and what is denied is no verdict: "not a contradiction"
says only what it is not. Where two labels are denied, the third is meant; where two are left, the
text is ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.rows.answers.label_words import (
    BREAK,
    DENIAL,
    DENIED_AFTER,
    DESCRIPTION,
    EITHER,
    FIRST_WORD,
    HEDGE,
    IDIOM,
    LABEL,
    LISTED,
)
from engine.rows.answers.spelling import LETTER, bounded, sentences, spelt
from engine.rows.answers.statement import Statement, marked, said, without_thoughts
from engine.rows.answers.vocabulary import CONCLUSIONS, WHY
from engine.rows.answers.vocabulary import LABELS as CUES

LABELS = ("entailment", "neutral", "contradiction")
NOT_ENTAILMENT = "not_entailment"  # of tasks with two labels
AMBIGUOUS = "ambiguous"
Names = Mapping[str, str]  # a spelling of the job's or the prompt's, folded -> label
# What SNLI, MNLI, XNLI and ANLI count and abbreviate.
USUAL: Names = {
    **dict(zip("012", LABELS, strict=True)),
    **dict(zip("abc", LABELS, strict=True)),
    **dict(zip("en", LABELS, strict=False)),
}
_LONGEST_CODE = 40  # characters of a text that is no more than a letter or number
_CLAUSE = 200  # characters before a label in which it may be denied
_NEAR_CUE = 30  # characters between a label and the words that call it the answer
_CODE = re.compile(
    r"[\W_]*(?:(?:the\s)?(?:option|label|class|choice|category)\s*[:#]?\s*)?[\W_]*"
    r"(?<!-)([0-9]|[A-Za-z])[\W_]*",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?<!\w)[(\[]?([A-Za-z0-9])\s?[)\].:=]+\s*[\"'*_`]*")
_ALONE = re.compile(r"[\s*_\"'`.:,;)\]}-]*(?:[.:,;\n—-]|\Z)")
_SENTENCE_END = re.compile(r"[.!?。！？\n]")
_LETTER = re.compile(LETTER)
_FIRST = re.compile(rf"{LETTER}+(?:-{LETTER}+)?")


@dataclass(frozen=True)
class Mention:
    """A label in a text. `is_weak`: in a question, or with a may, an if or an either."""

    start: int
    end: int
    label: str
    is_denied: bool
    is_weak: bool


def label_of(text: str, names: Names | None = None) -> str | None:
    """The label that the text gives; AMBIGUOUS where it leaves two, NOT_ENTAILMENT where it says no
    more than that, None where it gives none. `names` are further spellings, which come first."""
    names = names or {}
    text = bounded(without_thoughts(spelt(text)).strip())
    label = _stated(marked(text), names) or _coded(text, names)
    if label is not None:
        return label
    mentions = _without_lists(_mentions(text, names), text)
    statements = list(said(text, CUES))
    return (
        _introduced((one for one in statements if one.is_final), names)
        or _leading(text, mentions, alone=True)
        or _introduced(statements, names)
        or _leading(text, mentions, alone=False)
        or _concluded(text, names)
        or _last(text, mentions)
        or _described(text)
        or _first_word(text)
        or _excluded([*mentions, *_descriptions(text)])
    )


def reference_label(reference: str, names: Names | None = None) -> str | None:
    """The label that a gold column holds."""
    label = label_of(reference, names)
    return None if label == AMBIGUOUS else label


def options_in(prompt: str) -> dict[str, str]:
    """The letters or numbers that a prompt gives the labels: "A) entailment, B) neutral"."""
    found: dict[str, str] = {}
    for option in _OPTION.finditer(prompt):
        label = LABEL.match(prompt, option.end())
        if label is not None:
            found.setdefault(option[1].lower(), str(label.lastgroup))
    return found if len(set(found.values())) > 1 else {}


def names_in(prompt: str, names: Names) -> Names:
    """What spells a label in an answer to the prompt: the job's names before the prompt's own."""
    return {**options_in(prompt), **names}


def same_label(given: str, wanted: str) -> bool | None:
    """Whether a label answers for the wanted one; None where it says too little."""
    if wanted == NOT_ENTAILMENT:
        return given != "entailment"
    if given == NOT_ENTAILMENT and wanted != "entailment":
        return None
    return given == wanted


def _coded(text: str, names: Names) -> str | None:
    """Of a text that is nothing but a number or letter, or one of the job's names."""
    known = {**USUAL, **names}
    whole = text.strip(" .\"'*_`()[]{}:\n").casefold()
    if whole in known:
        return known[whole]
    if len(text) > _LONGEST_CODE:
        return None
    code = _CODE.fullmatch(text)
    return known.get(code[1].casefold()) if code else None


def _mentions(text: str, names: Names) -> list[Mention]:
    found = []
    for match in LABEL.finditer(text):
        found.append((match.start(), match.end(), str(match.lastgroup)))
    for name, label in names.items():
        if len(name) > 1:
            spelling = rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"
            for match in re.finditer(spelling, text, re.IGNORECASE):
                found.append((match.start(), match.end(), label))
    found.sort()
    return [_mention(text, *place) for place in found]


def _mention(text: str, start: int, end: int, label: str) -> Mention:
    clause = IDIOM.sub("", text[max(0, start - _CLAUSE) : start])
    breaks = [stop.end() for stop in BREAK.finditer(clause)]
    clause = clause[max(breaks, default=0) :]
    joined = clause.replace("_", " ").replace("-", " ")
    is_denied = DENIAL.search(joined) is not None or DENIED_AFTER.match(text, end) is not None
    behind = _SENTENCE_END.search(text, end)
    is_question = behind is not None and behind[0] in "?？"
    is_weak = is_question or HEDGE.search(clause) is not None
    return Mention(start, end, label, is_denied and label != NOT_ENTAILMENT, is_weak)


def _without_lists(mentions: list[Mention], text: str) -> list[Mention]:
    """Without mentions of all three labels in a row: a list of what could be said."""
    kept: list[Mention] = []
    at = 0
    while at < len(mentions):
        if _is_list(mentions[at : at + 3], text):
            at += 3
            continue
        kept.append(mentions[at])
        at += 1
    return kept


def _is_list(row: Sequence[Mention], text: str) -> bool:
    if len({one.label for one in row}) < 3 or any(one.is_denied for one in row):
        return False
    first, second, third = row
    if not LISTED.fullmatch(text, first.end, second.start):
        return False
    return LISTED.fullmatch(text, second.end, third.start) is not None


def _stated(piece: str | None, names: Names) -> str | None:
    """The label of a piece that states one: its first that is not denied."""
    if piece is None:
        return None
    coded = _coded(piece, names)
    if coded is not None:
        return coded
    mentions = _without_lists(_mentions(piece, names), piece)
    asserted = _asserted(mentions)
    if not asserted:
        return _excluded(mentions, least=2)
    return _or_ambiguous(asserted[0], mentions, piece)


def _asserted(mentions: Iterable[Mention]) -> list[Mention]:
    """Those that are not denied; those that may be, only where there is no other."""
    asserted = [one for one in mentions if not one.is_denied]
    return [one for one in asserted if not one.is_weak] or asserted


def _or_ambiguous(chosen: Mention, mentions: Iterable[Mention], text: str) -> str:
    for other in mentions:
        if other.label == chosen.label or other.is_denied:
            continue
        low, high = sorted((chosen, other), key=lambda one: one.start)
        if EITHER.fullmatch(text, low.end, high.start):
            return AMBIGUOUS
    return chosen.label


def _introduced(statements: Iterable[Statement], names: Names) -> str | None:
    for one in statements:
        label = _stated(_without_reason(one.direct), names)
        if label is None and one.predicate is not None:
            label = _stated(_without_reason(one.predicate), names)
        if label is None and not LABEL.search(one.direct):
            label = _before(one, names)
        if label is not None:
            return label
    return None


def _before(statement: Statement, names: Names) -> str | None:
    """Of "neutral is the right label"."""
    text = statement.before
    mentions = [one for one in _mentions(text, names) if not one.is_denied and not one.is_weak]
    if mentions and len(text) - mentions[-1].end < _NEAR_CUE:
        return mentions[-1].label
    return None


def _without_reason(sentence: str) -> str:
    why = WHY.first(sentence)
    if why is None or not LABEL.search(sentence, 0, why.start):
        return sentence
    return sentence[: why.start]


def _leading(text: str, mentions: list[Mention], *, alone: bool) -> str | None:
    """The label that the text begins with; `alone`: and nothing else in its clause."""
    letter = _LETTER.search(text)
    if letter is None or not mentions:
        return None
    first = mentions[0]
    if first.start != letter.start() or first.is_denied or first.is_weak:
        return None
    if alone and not _ALONE.match(text, first.end):
        return None
    return _or_ambiguous(first, mentions, text)


def _concluded(text: str, names: Names) -> str | None:
    """The last label of the last sentence that draws a conclusion."""
    for sentence in reversed(sentences(text)):
        if CONCLUSIONS.first(sentence) is None:
            continue
        mentions = _mentions(sentence, names)
        firm = [one for one in mentions if not one.is_denied and not one.is_weak]
        if firm:
            return _or_ambiguous(firm[-1], mentions, sentence)
    return None


def _last(text: str, mentions: list[Mention]) -> str | None:
    asserted = _asserted(mentions)
    excluded = _excluded(mentions, least=2)
    if excluded is not None and all(one.is_weak for one in asserted):
        return excluded
    return _or_ambiguous(asserted[-1], mentions, text) if asserted else None


def _excluded(mentions: list[Mention], least: int = 1) -> str | None:
    """The label that is left where others are denied."""
    denied = {one.label for one in mentions if one.is_denied}
    if len(denied) < least or not denied:
        return None
    left = [label for label in LABELS if label not in denied]
    if len(left) == 1:
        return left[0]
    return NOT_ENTAILMENT if denied == {"entailment"} else AMBIGUOUS


def _described(text: str) -> str | None:
    """What the text says of premise and hypothesis without a label's name."""
    if LABEL.search(text):
        return None
    found = None
    for one in _descriptions(text):
        if one.label != "neutral" and one.is_weak:
            continue
        if one.label == "contradiction" and one.is_denied:
            continue
        found = "neutral" if one.is_denied else one.label
    return found


def _descriptions(text: str) -> list[Mention]:
    found = []
    for match in DESCRIPTION.finditer(text):
        found.append(_mention(text, match.start(), match.end(), str(match.lastgroup)))
    return found


def _first_word(text: str) -> str | None:
    if LABEL.search(text):
        return None
    word = _FIRST.search(text)
    return FIRST_WORD.get(word[0].lower()) if word else None
