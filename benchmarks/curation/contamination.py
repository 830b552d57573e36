"""Are leaked test items found, and nothing else? By the coverage of rare five-word runs, beside the
rules "any shared run of 13 words" (GPT-3) and "of 8" (s1, open-r1).

The named files are the dev sets of NLI and SciTLDR and a seeded tenth of every training set, which
leaves training. All is halved by a seed: what was chosen was chosen on the one half, and the bounds
are judged on the other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.curation.sets import HELD_OUT, TRAINED, prompts
from benchmarks.result import Found, Ratios, bounded
from engine.curation.contamination import Index, is_contaminated
from engine.curation.shingles import runs_of, words_of

SEED = 20
PLANTED = 600
Rule = Callable[[list[str]], np.ndarray]  # (N,) bool: is contaminated


@dataclass(frozen=True)
class Half:
    """Half of the rows that are trained on, and half of the items that they must not hold."""

    rows: dict[str, list[str]]
    items: dict[str, list[str]]


def contamination(data: Path | None) -> Found:
    """Ratios of the half that judges, and the figures of both halves under every rule."""
    halves = dict(zip(("choosing", "judging"), _halves(data), strict=True))
    raw: dict[str, Any] = {name: _figures(half) for name, half in halves.items()}
    judged = raw["judging"]["coverage"]
    others = [raw["judging"][rule] for rule in ("any_13", "any_8")]
    ratios: Ratios = {
        "contamination_recall_embedded": bounded(judged["embedded"], ">=", 0.98),
        "contamination_recall_5_percent_edited": bounded(judged["edited_5"], ">=", 0.90),
        "contamination_flagged_percent": bounded(judged["flagged_percent"]["all"], "<=", 0.2),
        "contamination_recall_over_any_13": bounded(
            judged["embedded"] - others[0]["embedded"], ">=", 0.0
        ),
        "contamination_flagged_under_any_8": bounded(
            others[1]["flagged_percent"]["all"] - judged["flagged_percent"]["all"], ">=", 0.0
        ),
        "contamination_rows_per_second": bounded(_speed(halves["judging"]), ">=", 20_000),
    }
    for name in TRAINED:
        flagged = judged["flagged_percent"][name]
        ratios[f"contamination_flagged_percent_{name}"] = bounded(flagged, "<=", 0.2)
    return ratios, {"contamination": raw}


def _halves(data: Path | None) -> tuple[Half, Half]:
    """Every set is shuffled; a tenth of each training set is held out, then all is halved."""
    draw = random.Random(SEED)
    rows: dict[str, list[str]] = {}
    items: dict[str, list[str]] = {}
    for name in TRAINED:
        texts = prompts(name, data)
        draw.shuffle(texts)
        tenth = len(texts) // 10
        items[f"{name}_tenth"] = texts[:tenth]
        rows[name] = texts[tenth:]
    for name in HELD_OUT:
        items[name] = prompts(name, data)
        draw.shuffle(items[name])
    return _half(rows, items, 0), _half(rows, items, 1)


def _half(rows: dict[str, list[str]], items: dict[str, list[str]], first: int) -> Half:
    return Half(
        {name: texts[first::2] for name, texts in rows.items()},
        {name: texts[first::2] for name, texts in items.items()},
    )


def _figures(half: Half) -> dict[str, Any]:
    index = Index.of(half.items)
    rules: dict[str, Rule] = {
        "coverage": lambda texts: is_contaminated(index.look_up(pa.array(texts))),
        "any_13": _any_run(half, 13),
        "any_8": _any_run(half, 8),
    }
    planted = _planted(half)
    figures: dict[str, Any] = {"items": sum(map(len, half.items.values()))}
    for name, is_leak in rules.items():
        recalls = {how: float(is_leak(texts).mean()) for how, texts in planted.items()}
        flagged = {data: is_leak(texts) for data, texts in half.rows.items()}
        counts = {data: int(found.sum()) for data, found in flagged.items()}
        percents = {data: 100 * float(found.mean()) for data, found in flagged.items()}
        percents["all"] = 100 * sum(counts.values()) / sum(map(len, flagged.values()))
        figures[name] = recalls | {"flagged": counts, "flagged_percent": percents}
    figures["flagged_pairs"] = _flagged_pairs(half, index)
    return figures


def _any_run(half: Half, length: int) -> Rule:
    """Whether a text shares any run of `length` words with any item."""

    def runs(texts: list[str]) -> Any:
        return runs_of(words_of(pa.array(texts)), length)

    items = [text for texts in half.items.values() for text in texts]
    known = np.unique(runs(items).values)

    def is_leak(texts: list[str]) -> np.ndarray:
        found = runs(texts)
        hits = np.append(0, np.cumsum(np.isin(found.values, known)))
        return hits[found.starts[1:]] > hits[found.starts[:-1]]

    return is_leak


def _planted(half: Half) -> dict[str, list[str]]:
    """Items in texts that hold them, and items that somebody edited."""
    draw = random.Random(SEED)
    items = [text for texts in half.items.values() for text in texts]
    chosen = draw.sample(items, min(PLANTED, len(items)))
    others = half.rows["scitldr"]
    edited = {percent: [_edited(text, percent, draw) for text in chosen] for percent in (5, 10, 20)}
    return {
        "embedded": [_in_an_instruction(text, draw) for text in chosen],
        "in_a_long_text": [
            f"{draw.choice(others)} {text} {draw.choice(others)}" for text in chosen
        ],
        "edited_5": edited[5],
        "edited_10": edited[10],
        "edited_20": edited[20],
        "first_half": [_first_half(text) for text in chosen],
    }


def _in_an_instruction(text: str, draw: random.Random) -> str:
    before, after = draw.choice(
        (
            ("Answer the following question step by step.\n\n", "\n\nAnswer:"),
            ("You are a helpful assistant. ", " Explain your reasoning in detail."),
            ("### Instruction:\nRead this and respond.\n\n### Input:\n", "\n\n### Response:\n"),
            ('Here is an example from a test: "', '" Write three more like it.'),
            ("Translate into French, then solve: ", ""),
        )
    )
    return before + text.strip() + after


def _edited(text: str, percent: int, draw: random.Random) -> str:
    """Each word with this chance, and at least one, gone, doubled or another word of the text."""
    words = text.split()
    count = max(1, round(len(words) * percent / 100))
    for place in draw.sample(range(len(words)), count):
        words[place] = draw.choice(["", f"{words[place]} so", draw.choice(words), "something"])
    return " ".join(words)


def _first_half(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2])


def _flagged_pairs(half: Half, index: Index) -> list[dict[str, Any]]:
    """What the rule flags in the training sets, to be read by eye."""
    pairs = []
    for name, texts in half.rows.items():
        found = index.look_up(pa.array(texts))
        for row in np.flatnonzero(is_contaminated(found)):
            source, number = index.place(int(found.item_N[row]))
            pairs.append(
                {
                    "set": name,
                    "coverage": round(float(found.coverage_N[row]), 3),
                    "has_run": bool(found.has_run_N[row]),
                    "row": texts[row][:300],
                    "item": half.items[source][number][:300],
                }
            )
    return pairs


def _speed(half: Half) -> float:
    """Rows looked up per second of processor: the best of three passes over the training rows."""
    index = Index.of(half.items)
    texts = pa.array([text for texts in half.rows.values() for text in texts])
    seconds = []
    for _ in range(3):
        started = time.process_time()
        index.look_up(texts)
        seconds.append(time.process_time() - started)
    return len(texts) / min(seconds)
