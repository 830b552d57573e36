"""Is personal data found, and nothing else? Planted values of every kind, and all rows of
../shared/data, in which only telephone numbers (SGD) and made-up customers (ABCD) are any."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from benchmarks.curation.planted import Planted, planted
from benchmarks.curation.sets import PROMPTS, all_texts
from benchmarks.result import Found, Ratios, bounded
from engine.curation.privacy import KINDS, pii_in, redacted

SEED = 20
EACH = 40  # of fourteen kinds: 560 values
EXPECTED = {("sgd", "phone"), ("abcd", "phone"), ("abcd", "email")}


def measure() -> Found:
    """Ratios, and counts by kind with what was found and should not have been, or was missed."""
    ratios, raw = _recall()
    more, figures = _false_hits()
    return ratios | more, {"pii": raw | figures}


def _recall() -> tuple[Ratios, dict[str, Any]]:
    values = planted(SEED, EACH)
    texts = list(PROMPTS["gsm8k"]())
    draw = random.Random(SEED)
    missed = []
    left = []
    for value in values:
        text, start = _inside(value, draw.choice(texts), draw)
        span = (start, start + len(value.shown))
        if not any(_covers(pii, value.kind, span) for pii in pii_in(text)):
            missed.append((value.kind, value.text))
        clean = redacted(text)
        if value.shown in clean or pii_in(clean) or redacted(clean) != clean:
            left.append((value.kind, value.text))
    recall = 1 - len(missed) / len(values)
    ratios = {
        "pii_planted": bounded(len(values), ">=", 500),
        "pii_recall": bounded(recall, ">=", 1.0),
        "pii_left_after_redaction": bounded(len(left), "<=", 0),
    }
    return ratios, {"missed": missed, "left": left}


def _inside(value: Planted, text: str, draw: random.Random) -> tuple[str, int]:
    """The value between two words of a text, and where it starts."""
    words = text.split(" ")
    place = draw.randrange(len(words) + 1)
    before = " ".join(words[:place]) + "\n" + value.before
    return before + value.shown + value.after + "\n" + " ".join(words[place:]), len(before)


def _covers(pii: tuple[str, int, int], kind: str, span: tuple[int, int]) -> bool:
    return pii[0] == kind and pii[1] <= span[0] and pii[2] >= span[1]


def _false_hits() -> tuple[Ratios, dict[str, Any]]:
    rows: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    false = []
    seconds = 0.0
    for name, text in all_texts():
        started = time.process_time()
        found = pii_in(text)
        seconds += time.process_time() - started
        rows[name] += 1
        for pii in found:
            hits[f"{name} {pii.kind}"] += 1
            if (name, pii.kind) not in EXPECTED:
                false.append((name, pii.kind, text[pii.start : pii.end]))
    ratios = {
        "pii_false_hits": bounded(len(false), "<=", 0),
        "pii_rows_per_second": bounded(rows.total() / seconds, ">=", 0.0),
    }
    figures = {"rows": dict(rows), "hits": dict(hits), "false": false, "kinds": len(KINDS)}
    return ratios, figures
