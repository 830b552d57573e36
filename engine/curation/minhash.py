"""Band keys: 20 numbers per text, of which texts that are alike share one or more.

MinHash (Broder 1997) with banding (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
Two texts of Jaccard similarity j share a key with probability 1 - (1 - j**6)**20: 0.9976 at 0.8,
0.27 at 0.5. What shares a key is a candidate, not a duplicate: near_duplicates.py verifies each.
"""

from __future__ import annotations

import numpy as np

from engine.curation.shingles import Hashes

BANDS = 20
ROWS = 6  # hashes per band
NO_KEY = np.uint64(0)  # of a text without shingles; no other text has it


def band_keys(shingles: Hashes) -> np.ndarray:
    """The keys of each text, (N, BANDS) uint64. Only keys of the same band compare. A text without
    shingles has NO_KEY in each band, which `candidate_pairs` matches with nothing."""
    raise NotImplementedError
