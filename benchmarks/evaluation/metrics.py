"""The metrics against the libraries that define them, and against texts of many scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sacrebleu

from benchmarks.evaluation.texts import SCRIPTS, english_pairs, squad_f1, squad_words
from benchmarks.result import Found, bounded
from engine.rows.metrics import METRICS, row_scores, score_of, statistics_of

SAME_TEXT = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "f1", "exact_match")
ROUGE = ("rouge1", "rouge2", "rougeL")
SEED = 29
Pairs = Sequence[tuple[str, str, str]]


def run(pairs: int = 4000) -> Found:
    """All of it, on so many pairs of English texts."""
    texts = english_pairs(pairs, SEED)
    ratios: dict[str, dict[str, Any]] = {}
    raw: dict[str, Any] = {"pairs": pairs}
    parts: tuple[Callable[[Pairs], Found], ...] = (_scripts, _rouge, _sacrebleu, _squad, _speed)
    for part in parts:
        found, figures = part(texts)
        ratios |= found
        raw |= figures
    return ratios, raw


def _scripts(_: Pairs) -> Found:
    """The worst score of any text against itself."""
    worst: dict[str, float] = {}
    for metric in SAME_TEXT:
        for script, texts in SCRIPTS.items():
            for text in texts:
                found = score_of(metric, statistics_of(metric, "qa", [text], [[text]]))
                worst[script] = min(worst.get(script, 1.0), found or 0.0)
    whole = sum(value >= 1 - 1e-9 for value in worst.values())
    return {"scripts_where_the_same_text_is_1": bounded(whole, ">=", 12)}, {
        "worst_by_script": worst
    }


def _rouge(texts: Pairs) -> Found:
    """Greatest difference of any row to rouge-score, with one and with two references."""
    from rouge_score.rouge_scorer import RougeScorer  # its logging disturbs whom it meets

    theirs = RougeScorer(list(ROUGE))
    apart = 0.0
    for kind in ROUGE:
        one = [[reference] for _, reference, _ in texts]
        both = [[reference, second] for _, reference, second in texts]
        for references in (one, both):
            ours = statistics_of(kind, "summarization", [text for text, *_ in texts], references)
            for row, (text, *_), several in zip(ours, texts, references, strict=True):
                expected = theirs.score_multi(several, text)[kind].fmeasure
                # one word each: no pair of words, which rouge-score calls 0 and we 1 where equal
                if not (kind == "rouge2" and len(text.split()) < 2):
                    apart = max(apart, abs(row[0] - expected))
    return {"rouge_apart_from_rouge_score": bounded(apart, "<=", 1e-9)}, {}


def _sacrebleu(texts: Pairs) -> Found:
    """Corpus BLEU and chrF++ to sacrebleu's, with one and with two references."""
    said = [text for text, *_ in texts]
    columns = [[reference for _, reference, _ in texts], [second for *_, second in texts]]
    apart = {"bleu": 0.0, "chrf": 0.0}
    figures = {}
    for width in (1, 2):
        references = columns[:width]
        several = [list(each) for each in zip(*references, strict=True)]
        theirs = {
            "bleu": sacrebleu.corpus_bleu(said, references).score / 100,
            "chrf": sacrebleu.CHRF(word_order=2).corpus_score(said, references).score / 100,
        }
        for metric, expected in theirs.items():
            found = score_of(metric, statistics_of(metric, "conversation", said, several)) or 0.0
            apart[metric] = max(apart[metric], abs(found - expected))
            figures[f"{metric}_{width}_references"] = found
    ratios = {
        f"corpus_{metric}_apart_from_sacrebleu": bounded(value, "<=", 1e-9)
        for metric, value in apart.items()
    }
    return ratios, figures


def _squad(texts: Pairs) -> Found:
    """Answers of one to five words against the official rule."""
    apart = {"f1": 0.0, "exact_match": 0.0}
    for text, reference, second in texts:
        said = " ".join(text.split()[:3])
        references = [" ".join(one.split()[: 2 + len(one) % 4]) for one in (reference, second)]
        wanted = [one for one in references if squad_words(one)]
        if not wanted or not squad_words(said):
            continue
        expected = {
            "f1": max(squad_f1(said, one) for one in wanted),
            "exact_match": max(float(squad_words(said) == squad_words(one)) for one in wanted),
        }
        for metric, value in expected.items():
            found = statistics_of(metric, "qa", [said], [wanted])[0, 0]
            apart[metric] = max(apart[metric], abs(found - value))
    return {
        f"squad_{metric}_apart_from_the_official_rule": bounded(value, "<=", 1e-12)
        for metric, value in apart.items()
    }, {}


def _speed(texts: Pairs) -> Found:
    """Answers per second of each metric; shown, not bounded."""
    said = [text for text, *_ in texts]
    references = [[reference] for _, reference, _ in texts]
    speeds = {}
    for metric in ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "f1"):
        started = time.perf_counter()
        found = statistics_of(metric, "summarization", said, references)
        row_scores(metric, found)
        speeds[metric] = round(len(said) / (time.perf_counter() - started))
    sums = np.tile(statistics_of("bleu", "summarization", said, references).sum(0), (10_000, 1))
    started = time.perf_counter()
    METRICS["bleu"].score(sums)
    taken = time.perf_counter() - started
    return {}, {"answers_per_second": speeds, "ten_thousand_resamples_of_bleu_s": round(taken, 3)}
