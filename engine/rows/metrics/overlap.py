"""Metrics of shared words and characters: ROUGE (rouge-score), BLEU and chrF++ (sacrebleu), and
SQuAD's F1, each with words of any script.

Of several references ROUGE, chrF++ and F1 take the one that scores best, BLEU counts as sacrebleu
does with several.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sacrebleu
from sacrebleu.metrics.helpers import extract_all_char_ngrams, extract_word_ngrams

from engine.rows.answers.phrases import languages_for, normalise, shared
from engine.rows.metrics.metric import Asked, best_of
from engine.rows.words import separated, words

CHARACTERS = 6  # longest n-gram of characters, and of words, that chrF++ counts (Popović 2017)
WORDS = 2
BETA = 2  # chrF++ weighs recall so many times as much as precision
ASCII_MARKS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def f1(text: str, asked: Asked) -> list[float]:
    """Harmonic mean of precision and recall of normalised words (official SQuAD v1.1 evaluation
    script; in other languages their articles do not count either). Where nothing is left of a text
    but articles, they are its words."""

    def score(reference: str) -> float:
        languages = languages_for(asked.source, text, reference)
        return max(_shared(text, reference, language) for language in languages)

    return best_of(score, asked.references)


def _shared(text: str, reference: str, language: str) -> float:
    return shared(_answer_words(text, language), _answer_words(reference, language))


def _answer_words(text: str, language: str) -> Sequence[str]:
    plain = normalise(text, language)
    if plain:
        return separated(plain).split()
    return words(text)


def rouge(kind: str) -> Callable[[str, Asked], list[float]]:
    """F of `rouge1`, `rouge2` or `rougeL`, without stemming. The same words are 1 even where they
    are too few for a pair."""

    def statistics(text: str, asked: Asked) -> list[float]:
        said = words(text)

        def score(reference: str) -> float:
            if said and said == words(reference):
                return 1.0
            return _rouge_scorer(kind).score(reference, text)[kind].fmeasure

        return best_of(score, asked.references)

    return statistics


class _AnyScript:
    """The tokenizer that rouge-score is given."""

    def tokenize(self, text: str) -> Sequence[str]:
        return words(text)


@functools.cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports NLTK, which only text tasks need

    return RougeScorer([kind], tokenizer=_AnyScript())


def rouge_signature(references: Sequence[Sequence[str]]) -> str:
    """What was computed, in one line."""
    version = importlib.metadata.version("rouge-score")
    return (
        f"nrefs:{_count(references)}|case:lc|stem:no|tok:any-script|version:rouge-score-{version}"
    )


def bleu_counts(text: str, asked: Asked) -> list[float]:
    """Matched 1- to 4-grams, all 1- to 4-grams, length and reference length (C = 10)."""
    references = list(map(separated, asked.references))
    bleu = _bleu_scorer().sentence_score(separated(text), references)
    return [*bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len]


@functools.cache
def _bleu_scorer() -> sacrebleu.BLEU:
    # Effective order: texts of fewer than four words have a score. Where one answer has four, it
    # changes nothing.
    return sacrebleu.BLEU(effective_order=True)


def bleu(sums_C: np.ndarray) -> np.ndarray:
    """Corpus BLEU of 0 to 1 (sacrebleu)."""
    rows = sums_C.reshape(-1, sums_C.shape[-1]).astype(int)
    values = [_bleu_of(row) for row in rows.tolist()]
    return np.reshape(values, sums_C.shape[:-1])


def _bleu_of(sums: list[int]) -> float:
    length, reference_length = sums[8:]
    score = sacrebleu.BLEU.compute_bleu(
        sums[:4],
        sums[4:8],
        length,
        reference_length,
        smooth_method="exp",
        effective_order=True,
    )
    return min(score.score / 100, 1.0)  # the same text rounds to a little more


def bleu_signature(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's; it says so where letters of scripts without spaces are words."""
    signature = _signature(sacrebleu.BLEU(effective_order=True), references)
    for several in references:
        if any(separated(reference) != reference for reference in several):
            return signature.replace("tok:13a", "tok:13a-letters-apart")
    return signature


def chrf_counts(text: str, asked: Asked) -> list[float]:
    """Per order (characters 1 to 6, words 1 and 2): n-grams of the answer, of the reference that
    scores best, and of both (C = 24)."""
    said = _ngrams(text)
    found = []
    for reference in asked.references:
        counts: list[float] = []
        for given, wanted in zip(said, _ngrams(reference), strict=True):
            # an order that the reference is too short for counts for nothing
            of_answer = given.total() if wanted else 0
            counts += [of_answer, wanted.total(), (given & wanted).total()]
        found.append(counts)
    return max(found, key=lambda counts: float(chrf(np.array(counts))))


def _ngrams(text: str) -> list[Counter[str]]:
    counted = extract_all_char_ngrams(text, CHARACTERS)
    parts = _chrf_words(text)
    for order in range(1, WORDS + 1):
        counted.append(extract_word_ngrams(parts, order))
    return counted


def _chrf_words(text: str) -> list[str]:
    """What spaces part; one ASCII mark at the end, else at the beginning, is a word of its own."""
    parts = []
    for word in text.split():
        if len(word) > 1 and word[-1] in ASCII_MARKS:
            parts += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in ASCII_MARKS:
            parts += [word[0], word[1:]]
        else:
            parts.append(word)
    return parts


def chrf(sums_C: np.ndarray) -> np.ndarray:
    """Corpus chrF++ of 0 to 1: F of precision and recall, each a mean over the orders that both
    sides have (Popović 2015, 2017; equal to sacrebleu's)."""
    by_order = sums_C.reshape(*sums_C.shape[:-1], CHARACTERS + WORDS, 3)
    given, wanted, common = np.moveaxis(by_order, -1, 0)
    there = (given > 0) & (wanted > 0)
    orders = np.maximum(there.sum(-1), 1)
    precision = _share(common, given, there).sum(-1) / orders
    recall = _share(common, wanted, there).sum(-1) / orders
    both = BETA**2 * precision + recall
    values = np.zeros(both.shape)
    np.divide((1 + BETA**2) * precision * recall, both, out=values, where=both > 0)
    return values


def _share(part: np.ndarray, whole: np.ndarray, there: np.ndarray) -> np.ndarray:
    shares = np.zeros(part.shape)
    np.divide(part, whole, out=shares, where=there)
    return shares


def chrf_signature(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's."""
    return _signature(sacrebleu.CHRF(word_order=WORDS), references)


def _signature(scorer: Any, references: Sequence[Sequence[str]]) -> str:
    """A scorer has one only after it has scored."""
    counts = {len(several) for several in references}
    width = max(counts, default=1)
    texts: list[Sequence[str | None]] = [["a"] for _ in range(width)]
    if len(counts) > 1:
        texts = [["a", "a"]] + [["a", None] for _ in range(width - 1)]
    scorer.corpus_score(["a"] * len(texts[0]), texts)
    return str(scorer.get_signature())


def _count(references: Sequence[Sequence[str]]) -> str:
    counts = {len(several) for several in references}
    if len(counts) > 1:
        return "var"
    return str(max(counts, default=1))
