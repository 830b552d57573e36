"""Gold answers: of data sets in a folder, or made up where there is none.

A folder may hold `gsm8k/*.jsonl` (`answer`), `nli*/*.tsv` (`gold_label`) and `qa/*.jsonl`
(`answers`); what is not there is made up.
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

SEED = 19
_LABELS = ("entailment", "neutral", "contradiction")
_PLAIN = ("72", "5", "10", "42", "624", "35", "48", "16", "41", "990", "121", "5", "85", "18", "3")
_LARGE = ("448000", "1080", "70000", "1250", "114200", "2125000", "12", "100", "1", "20")
# As SVAMP and other sets print them.
_DECIMALS = ("8.0", "0.5", "3.75", "1.20156e+06", "12.25", "-4.0", "0.125", "1500.0", "1e3")
# Bare references, as sets of competition mathematics have them.
_EXPRESSIONS = (
    r"\frac{3}{4}",
    r"-\frac{1}{2}",
    r"\left( 3, \frac{\pi}{2} \right)",
    "x^2+1",
    r"2\sqrt{3}",
    r"[0,\infty)",
    r"\{1,2\}",
    r"60^\circ",
    "7 - 2i",
    r"50\%",
    r"\text{even}",
    "Tuesday",
    "3:4",
    "(1,2)",
    "10,080",
    "1/2",
)
_NAMES = (
    "Ann Lee",
    "the Rhine",
    "1945",
    "São Paulo",
    "12 million people",
    "New Delhi",
    "नई दिल्ली",
    "புது தில்லி",
    "东京",
    "кот",
    "la Ciudad de México",
    "Straße",
    "yes",
    "no",
)


@dataclass(frozen=True)
class Golds:
    """Of each task (reference, the bare answer in it)."""

    math: list[tuple[str, str]]
    nli: list[tuple[str, str]]
    qa: list[tuple[str, str]]

    def numbers(self) -> list[str]:
        """Distinct whole numbers without signs, to be phrased."""
        found = dict.fromkeys(bare.replace(",", "") for _, bare in self.math)
        return [number for number in found if number.isascii() and number.isdecimal()]


def load_golds(folder: Path | None) -> Golds:
    """Those of the folder, and made-up ones of what it does not have."""
    maths = _made_up_maths()
    labels = [(label, label) for label in _LABELS]
    names = [(name, name) for name in _NAMES]
    if folder is not None:
        maths += _gsm8k(folder)
        labels += _nli(folder)
        names += _qa(folder)
    return Golds(maths, labels, names)


def _made_up_maths() -> list[tuple[str, str]]:
    draws = random.Random(SEED)
    golds = []
    for number in (*_PLAIN, *_LARGE):
        steps = draws.randint(2, 9)
        worked = (
            f"She has {steps} of them, which makes <<{steps}*1={steps}>>{steps}.\n#### {number}"
        )
        golds.append((worked, number))
    for bare in (*_DECIMALS, *_EXPRESSIONS):
        golds.append((bare, bare))
    return golds


def _gsm8k(folder: Path) -> list[tuple[str, str]]:
    golds = []
    for path in sorted(folder.glob("gsm8k/*.jsonl")):
        for line in path.read_text().splitlines():
            answer = json.loads(line)["answer"]
            golds.append((answer, answer.rpartition("####")[2].strip()))
    return golds


def _nli(folder: Path) -> list[tuple[str, str]]:
    golds = []
    for path in sorted(folder.glob("nli*/*.tsv")):
        with path.open(newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                golds.append((row["gold_label"], row["gold_label"]))
    return golds


def _qa(folder: Path) -> list[tuple[str, str]]:
    golds = []
    for path in sorted(folder.glob("qa/*.jsonl")):
        for line in path.read_text().splitlines():
            golds += [(answer, answer) for answer in json.loads(line)["answers"]]
    return golds
