"""Which side a prompt falls on where nobody names groups: by its file, or drawn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.job.spec import PromptsSpec
from engine.rows.ids import derive_seed


def is_for_validation(table: pa.Table, spec: PromptsSpec, seed: int) -> np.ndarray:
    """Whether each row of READ is for validation (N,). Where no files say so, the prompt alone
    decides, or the dialogue that it is of, so that neither order nor number of rows moves it."""
    if spec.validation:
        return table["split"].to_numpy() == "validation"
    wholes = table["dialogue" if spec.turns == "each" else "prompt_id"]
    most = spec.validation_fraction * 2**31
    drawn = []
    for whole in wholes.to_pylist():
        drawn.append(derive_seed(seed, "validation", whole) < most)
    return np.array(drawn, bool)
