"""The part about the whole stage: what a million answers cost it, and whether its examples are the
same whoever worked, however the answers lie in files."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.curation.answered import prompts_of, write_answers, write_prompts
from benchmarks.curation.corpus import Corpus
from benchmarks.curation.near_duplicates import base_texts
from benchmarks.curation.programs import figures_of, folder
from benchmarks.result import Found, bounded

PROMPTS = 102_000  # of a million answers
COMPARED = 5_100
SAMPLES = 10
SHUFFLED_BY = 1
IN_ORDER = "generate"
SHUFFLED = "shuffled"
WAYS = ((IN_ORDER, 1), (IN_ORDER, 2), (IN_ORDER, 4), (SHUFFLED, 2))


def run(options: argparse.Namespace) -> Found:
    """Each way in a fresh process."""
    corpus = Corpus(base_texts(options.data))
    with folder() as work:
        same = _compared(corpus, work)
    with folder() as work:
        large = _million(corpus, work)
    digests = {figures["examples_sha256"] for figures in same}
    ratios = {
        "stage_examples_beside_the_same": bounded(len(digests) - 1, "<=", 0),
        "stage_completions": bounded(large["completions"], ">=", 1_000_000),
        "stage_driver_gib": bounded(large["driver_mib"] / 1024, "<=", 1),
    }
    return ratios, {"stage": {"compared": same, "million": large}}


def _compared(corpus: Corpus, work: Path) -> list[dict[str, Any]]:
    prompts = prompts_of(corpus, COMPARED)
    write_prompts(prompts, work / "prompts")
    write_answers(prompts, SAMPLES, work / IN_ORDER)
    write_answers(prompts, SAMPLES, work / SHUFFLED, SHUFFLED_BY)
    return [figures_of(work, "whole_stage", *way) for way in WAYS]


def _million(corpus: Corpus, work: Path) -> dict[str, Any]:
    """By as many workers as there are processors."""
    prompts = prompts_of(corpus, PROMPTS)
    write_prompts(prompts, work / "prompts")
    write_answers(prompts, SAMPLES, work / IN_ORDER)
    return figures_of(work, "whole_stage", IN_ORDER, len(os.sched_getaffinity(0)))
