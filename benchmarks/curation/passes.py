"""The near-duplicate pass over files of texts, as a stage makes it of engine/curation: keys of each
file, pairs of each band, shingles of candidates, Jaccards, and who goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from engine.backends.processes import Spread
from engine.curation.minhash import BANDS, band_keys
from engine.curation.near_duplicates import candidate_pairs, clusters, jaccards, twins, united
from engine.curation.shingles import (
    Hashes,
    concatenated,
    each_once,
    places_of,
    shingles_of,
)

JACCARD = 0.8
PAIRS_AT_A_TIME = 100_000


class Outcome(NamedTuple):
    """How many rows go, and how many would if only one of each component stayed."""

    twins: int
    beside_components: int


@dataclass(frozen=True)
class Pass:
    """A folder with `texts` (or with `keys` already), and who works on it."""

    folder: Path
    spread: Spread

    def files(self, kind: str) -> list[Path]:
        """The files of a step, in order."""
        return sorted((self.folder / kind).iterdir())


def sign_all(over: Pass) -> list[int]:
    """Rows of each file, whose keys are there now."""
    (over.folder / "keys").mkdir()
    orders = [(texts, over.folder / "keys" / f"{texts.stem}.npy") for texts in over.files("texts")]
    return list(over.spread(_sign, orders))


def _sign(order: tuple[Path, Path]) -> int:
    """Write the keys (BANDS, rows) of a file; returns its rows."""
    texts, keys = order
    table = pq.read_table(texts, columns=["text"])
    np.save(keys, band_keys(shingles_of(table["text"])).T)
    return len(table)


def candidates(over: Pass) -> np.ndarray:
    """Pairs (P, 2) of rows that share a key of any band."""
    (over.folder / "pairs").mkdir()
    list(over.spread(partial(_pair, over.files("keys"), over.folder / "pairs"), range(BANDS)))
    return united(map(np.load, over.files("pairs")))


def _pair(files: list[Path], folder: Path, band: int) -> None:
    keys = np.concatenate([np.load(file, mmap_mode="r")[band] for file in files])
    np.save(folder / f"{band:02d}.npy", candidate_pairs(keys, np.arange(len(keys))))


def verified(over: Pass, pairs_P2: np.ndarray, counts: list[int]) -> np.ndarray:
    """The exact Jaccard (P,) of each pair of rows of files with so many rows."""
    (over.folder / "shingles").mkdir()
    rows = each_once(pairs_P2)
    firsts = np.cumsum([0, *counts])
    orders = []
    for number, texts in enumerate(over.files("texts")):
        first, last = np.searchsorted(rows, firsts[number : number + 2])
        orders.append((texts, rows[first:last] - firsts[number], over.folder / "shingles"))
    list(over.spread(_shingle, orders))
    chunks = np.split(pairs_P2, range(PAIRS_AT_A_TIME, len(pairs_P2), PAIRS_AT_A_TIME))
    work = partial(_verify, over.folder / "shingles", over.files("texts"), firsts)
    return np.concatenate(list(over.spread(work, chunks)))


def _shingle(order: tuple[Path, np.ndarray, Path]) -> None:
    texts, rows, folder = order
    found = shingles_of(pq.read_table(texts, columns=["text"])["text"].take(rows))
    np.save(folder / f"{texts.stem}-rows.npy", rows)
    np.save(folder / f"{texts.stem}-starts.npy", found.starts)
    np.save(folder / f"{texts.stem}-values.npy", found.values)


def _verify(
    folder: Path, files: list[Path], firsts: np.ndarray, pairs_P2: np.ndarray
) -> np.ndarray:
    rows = each_once(pairs_P2)
    parts = []
    for number, texts in enumerate(files):
        first, last = np.searchsorted(rows, firsts[number : number + 2])
        wanted = rows[first:last] - firsts[number]
        parts.append(_read(folder, texts.stem, wanted))
    return jaccards(np.searchsorted(rows, pairs_P2), concatenated(parts))


def _read(folder: Path, name: str, wanted: np.ndarray) -> Hashes:
    """The shingles of some rows of a file; others are not read."""
    rows, starts = (np.load(folder / f"{name}-{part}.npy") for part in ("rows", "starts"))
    values = np.load(folder / f"{name}-values.npy", mmap_mode="r")
    at = np.searchsorted(rows, wanted)
    _, places = places_of(starts, at)
    return Hashes(np.cumsum([0, *np.diff(starts)[at]]), values[places])


def decide(pairs_P2: np.ndarray, jaccards_P: np.ndarray) -> Outcome:
    """Who goes. Only rows of pairs are looked at, so that this grows with twins, not with rows; the
    first row stays."""
    rows = each_once(pairs_P2)
    numbered_P2 = np.searchsorted(rows, pairs_P2)
    gone = twins(numbered_P2, jaccards_P, rows, JACCARD)
    component = clusters(numbered_P2[jaccards_P >= JACCARD], len(rows))
    return Outcome(len(gone.rows), len(rows) - len(each_once(component)))
