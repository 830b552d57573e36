"""The parts about near duplicates: are they found, all and nothing else, and at what cost?"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.curation.corpus import Corpus, write_corpus
from benchmarks.curation.exact_join import join
from benchmarks.curation.narrow import draw_keys
from benchmarks.curation.passes import JACCARD
from benchmarks.curation.peers import PEERS, python_of
from benchmarks.curation.programs import figures_of, folder
from benchmarks.curation.sets import TRAINED, prompts
from benchmarks.result import Found, Ratios, bounded
from engine.curation.minhash import band_keys
from engine.curation.near_duplicates import candidate_pairs, clusters, jaccards, twins, united
from engine.curation.shingles import shingles_of

COMPARED = 100_000  # rows that are held to the exact join
SIGNED = 10_000  # rows that each peer signs
REPEATS = 3
PASSED = 1_000_000
WHOLE = 10_000_000


def base_texts(data: Path | None) -> list[str]:
    """What the corpus is made of: the prompts of the sets of a folder, or made-up ones."""
    texts = []
    for name in TRAINED:
        texts += prompts(name, data)
    return texts


def accuracy(texts: list[str]) -> Found:
    """Against an exact join of all pairs."""
    rows = Corpus(texts).first(COMPARED)
    exact = join(rows, JACCARD)
    shingles = shingles_of(pa.array(rows))
    rank = np.arange(len(rows))
    pairs = united(candidate_pairs(keys, rank) for keys in band_keys(shingles).T)
    similar = jaccards(pairs, shingles)
    alike = similar >= JACCARD
    found = _codes(pairs[alike])
    wanted = _codes(exact.pairs)
    both, ours, theirs = np.intersect1d(found, wanted, return_indices=True)
    apart = np.abs(similar[alike][ours] - exact.jaccard[theirs]).max(initial=0)
    gone = len(twins(pairs, similar, rank, JACCARD).rows)
    gone_exactly = len(twins(exact.pairs, exact.jaccard, rank, JACCARD).rows)
    beside = len(rows) - len(np.unique(clusters(pairs[alike], len(rows))))
    beside_exactly = len(rows) - len(np.unique(clusters(exact.pairs, len(rows))))
    ratios = {
        "near_duplicates_recall": bounded(len(both) / len(wanted), ">=", 0.99),
        "near_duplicates_precision": bounded(len(both) / len(found), ">=", 1.0),
        "jaccards_apart_from_exact": bounded(float(apart), "<=", 1e-12),
        "dropped_off_exact_components": _off(beside, beside_exactly),
        "dropped_off_exact_twins": _off(gone, gone_exactly),
    }
    raw = {
        "rows": len(rows),
        "mean_words": round(_mean_words(rows), 1),
        "exact_pairs": len(wanted),
        "candidates": len(pairs),
        "precision_unverified": len(found) / max(1, len(pairs)),
        "rows_beside_components": {"found": beside, "exact": beside_exactly},
        "twins": {"found": gone, "exact": gone_exactly},
    }
    return ratios, {"accuracy": raw}


def _codes(pairs_P2: np.ndarray) -> np.ndarray:
    return pairs_P2[:, 0] << 32 | pairs_P2[:, 1]


def _off(found: int, exact: int) -> dict[str, Any]:
    """How far off, as a share, the number of rows that go may be."""
    return bounded(abs(found - exact) / exact, "<=", 0.005)


def _mean_words(texts: list[str]) -> float:
    return statistics.mean(len(text.split()) for text in texts)


def signatures(texts: list[str], environments: Path | None) -> Found:
    """Beside the peers, in fresh processes that take turns."""
    speeds: dict[str, list[float]] = defaultdict(list)
    with folder(environments) as homes, folder() as work:
        rows = Corpus(texts).first(SIGNED)
        (work / "texts.json").write_text(json.dumps(rows))
        pythons = {"ours": Path(sys.executable)}
        for peer in PEERS:
            pythons[peer] = python_of(peer, homes, np.__version__)
        for _ in range(REPEATS):
            for way, python in pythons.items():
                figures = figures_of(work, "signatures", way, python=python)
                speeds[way].append(round(figures["rows_per_s"], 1))
    median = {way: statistics.median(seen) for way, seen in speeds.items()}
    ratios: Ratios = {}
    for peer in PEERS:
        ratio = round(median["ours"] / median[peer], 2)
        ratios[f"signatures_to_{peer}"] = bounded(ratio, ">=", 8)
    raw = {"rows_per_s": dict(speeds), "peers": PEERS, "mean_words": round(_mean_words(rows), 1)}
    return ratios, {"signatures": raw}


def whole_pass(texts: list[str], full: bool) -> Found:
    """A million rows by one and by two workers; `full`: ten million by two as well."""
    with folder() as work:
        one = _pass(texts, work, PASSED, workers=1)
        two = _pass(texts, work, PASSED, workers=2)
        runs = [one, two]
        if full:
            runs.append(_pass(texts, work, WHOLE, workers=2))
    assert one["twins"] == two["twins"]
    ratios = {
        "whole_pass_rows_per_core_second": bounded(one["rows"] / one["cpu_s"], ">=", 15_000),
        "whole_pass_driver_gib": bounded(two["driver_mib"] / 1024, "<=", 1),
        "whole_pass_two_workers": bounded(one["wall_s"] / two["wall_s"], ">=", 1.6),
    }
    return ratios, {"whole_pass": runs}


def _pass(texts: list[str], work: Path, rows: int, workers: int) -> dict[str, Any]:
    write_corpus(Corpus(texts), rows, work / "texts")
    for made in ("keys", "pairs", "shingles"):
        shutil.rmtree(work / made, ignore_errors=True)
    return figures_of(work, "whole_pass", workers)


def driver_memory() -> Found:
    """At a million rows and at ten million, of which only the narrow columns are made."""
    runs = []
    with folder() as work:
        for rows in (PASSED, WHOLE):
            home = work / str(rows)
            home.mkdir()
            draw_keys(home / "keys", rows)
            runs.append(figures_of(home, "narrow", 2, rows))
    small, large = runs
    growth = large["driver_mib"] / small["driver_mib"]
    return {"driver_memory_10m_to_1m": bounded(growth, "<=", 2)}, {"driver_memory": runs}
