"""Answers in words: how they are normalised in any language, and how one is compared with a gold
answer.

English comes out as the official SQuAD v1.1 script has it. In other languages Unicode's own classes
say what punctuation is, and articles go too where the question, or answer and gold answer, are in
that language.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from engine.rows.answers.languages import languages_of, without_articles
from engine.rows.answers.lexicon import words
from engine.rows.answers.spelling import bounded, spelt
from engine.rows.answers.statement import (
    Statement,
    marked,
    said,
    without_next_question,
    without_thoughts,
)
from engine.rows.answers.vocabulary import ANSWERS, IS, NO, YES

SHORT = 6  # words of a reference that an answer can be expected to contain
_WHOLE = 120  # words: a longer answer is looked at where it begins and ends
_EDGE = 60
_ENGLISH = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"\w+(?:'\w+)?")
# Scripts that put no spaces between words: one sign is one word.
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
# Hangul, and the scripts of Tamil, Telugu, Kannada, Malayalam, Sinhala and Georgian.
_AGGLUTINATED = re.compile("[\uac00-\ud7a3\u0b80-\u0dff\u10a0-\u10ff]+")
_LEADING = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|well|yes|no|hmm|based on [^,.:\n]{1,80}"
    r"|according to [^,.:\n]{1,80}|from [^,.:\n]{1,60}"
    r"|in the (?:text|passage|context)[^,.:\n]{0,40})\s*[,:!.]\s*",
    re.IGNORECASE,
)
_DENIAL_WORDS = 2  # before what they deny
_DENIED_WORDS = frozenset(
    words("not never nor isnt wasnt arent werent nicht kein keine pas не नहीं ni jamás nunca não")
)
_POLAR = {**dict.fromkeys(YES, "yes"), **dict.fromkeys(NO, "no")}


def normalise(text: str, language: str = "en") -> str:
    """Folded, without punctuation and the articles of the language, in single spaces. Of English
    the same as in the official SQuAD v1.1 script."""
    if language == "en":
        plain = _without_punctuation(text)
        short = _ENGLISH.sub(" ", plain)
    else:
        apart = without_articles(_folded(text).replace("’", "'"), language)
        plain = _without_punctuation(apart)
        short = without_articles(plain, language)
    return " ".join(short.split()) or " ".join(plain.split())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _without_punctuation(text: str) -> str:
    kept = []
    for sign in _folded(text):
        category = unicodedata.category(sign)
        if sign in string.punctuation or category[0] == "P" or category == "Cf":
            continue
        digit = unicodedata.decimal(sign, None)
        kept.append(sign if digit is None else str(digit))
    return "".join(kept)


def languages_for(question: str, text: str, reference: str) -> tuple[str, ...]:
    """The languages whose articles do not count: English always, and the question's, or without one
    those of answer and gold answer."""
    asked = question if question.strip() else f"{text}\n{reference}"
    return ("en", *languages_of(asked))


def words_of(text: str) -> list[str]:
    """The words of a normalised text; of scripts without spaces, the signs."""
    return _UNSPACED.sub(lambda sign: f" {sign[0]} ", text).split()


def is_short(reference: str) -> bool:
    """Whether a reference is a name or a few words, not a sentence in its own words."""
    count = len(words_of(normalise(reference)))
    if _UNSPACED.search(reference):
        return count <= 3 * SHORT
    return count <= SHORT


def phrase_of(text: str) -> str | None:
    """The answer as the text states it: what stands in a box or a tag, behind "the answer is", or
    all of the text. None of an empty one."""
    text = without_thoughts(bounded(text)).strip()
    if not text:
        return None
    stated = marked(text)
    if stated is not None:
        return _trimmed(stated)
    spoken = without_next_question(spelt(text))
    for statement in said(spoken, ANSWERS):
        phrase = _phrase_in(statement)
        if phrase:
            return phrase
    return _trimmed(_LEADING.sub("", text))


def _phrase_in(statement: Statement) -> str:
    if statement.is_told and statement.direct.strip():
        return _trimmed(statement.direct)
    if statement.predicate is not None:
        return _trimmed(statement.predicate)
    if not statement.direct.strip():
        return _trimmed(_subject(statement.before))
    return ""


def _subject(before: str) -> str:
    """Of "Paris is the" what stands before the verb; nothing where there is none."""
    verb = IS.last(before)
    return "" if verb is None else before[: verb.start]


def _trimmed(phrase: str) -> str:
    return phrase.strip().strip("*_`\"'“”«»「」[](){}").strip().rstrip(".。!！;,:").strip()


def equals(text: str, reference: str, question: str = "") -> bool:
    """Whether the stated answer, or all of the text, is the reference."""
    phrase = phrase_of(text)
    if phrase is None:
        return False
    return _is_reference(phrase, text, reference, languages_for(question, bounded(text), reference))


def _is_reference(phrase: str, text: str, reference: str, languages: Sequence[str]) -> bool:
    for language in languages:
        wanted = normalise(reference, language)
        if wanted in (normalise(phrase, language), normalise(bounded(text), language)):
            return True
    return False


def holds(text: str, reference: str, question: str = "") -> bool:
    """Whether the reference stands in the stated answer, word by word, and is not denied there. Yes
    and no are what an answer begins with."""
    phrase = phrase_of(text)
    if phrase is None:
        return False
    languages = languages_for(question, bounded(text), reference)
    if _is_reference(phrase, text, reference, languages):
        return True
    gold = normalise(reference)
    if gold in ("yes", "no"):
        return _polarity(text) == gold or _polarity(phrase) == gold
    told = _ends_of(phrase)
    for language in languages:
        wanted = words_of(normalise(reference, language))
        if _stands_in(wanted, words_of(normalise(told, language))):
            return True
    return False


def _polarity(phrase: str) -> str | None:
    word = _WORD.search(phrase.casefold())
    return _POLAR.get(word[0]) if word else None


def _stands_in(wanted: list[str], found: list[str]) -> bool:
    if not wanted:
        return False
    width = len(wanted)
    for start in range(len(found) - width + 1):
        *before, last = found[start : start + width]
        is_denied = not _DENIED_WORDS.isdisjoint(found[max(0, start - _DENIAL_WORDS) : start])
        if before != wanted[:-1] or is_denied:
            continue
        if last == wanted[-1] or _is_inflected(last, wanted[-1]):
            return True
    return False


def _is_inflected(word: str, stem: str) -> bool:
    """Whether a word has endings behind the stem, in scripts whose languages hang them on."""
    return len(stem) > 1 and word.startswith(stem) and _AGGLUTINATED.fullmatch(stem) is not None


def _ends_of(text: str) -> str:
    spaced = text.split()
    if len(spaced) <= _WHOLE:
        return text
    return " ".join([*spaced[:_EDGE], "\n", *spaced[-_EDGE:]])


def overlap(text: str, reference: str, question: str = "") -> float:
    """F1 of the stated answer's words (official SQuAD v1.1 script)."""
    phrase = phrase_of(text) or ""
    languages = languages_for(question, bounded(text), reference)
    return max(_overlap(phrase, reference, language) for language in languages)


def _overlap(phrase: str, reference: str, language: str) -> float:
    said_words = words_of(normalise(phrase, language))
    gold_words = words_of(normalise(reference, language))
    return shared(said_words, gold_words)


def shared(said_words: Sequence[str], gold_words: Sequence[str]) -> float:
    """F1 of two lists of words."""
    common = (Counter(said_words) & Counter(gold_words)).total()
    return 2 * common / max(1, len(said_words) + len(gold_words))


def rule_of(name: str) -> Callable[[str, str, str], bool]:
    """The comparison that `contains`, `exact` or `f1>=x` names, of answer, gold answer and
    question."""
    if name == "contains":
        return holds
    if name == "exact":
        return equals
    least = float(name.removeprefix("f1>="))

    def is_near(text: str, reference: str, question: str = "") -> bool:
        return overlap(text, reference, question) >= least

    return is_near
