"""Fit the efficiencies of engine/machines/rates.py to published points: least squares of logarithms
with a soft tail, drawn a little to what each efficiency is by nature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.planner.points import Point
from engine.machines.replica import EFFICIENCIES, Efficiencies

# What each is by nature, and how far it may be off by itself (a logarithm): bandwidth and dense
# multiplication are well known, what many small kernels cost is not.
NATURE = {
    "bandwidth": (0.8, 0.08),
    "arithmetic": (0.7, 0.25),
    "experts": (0.3, 0.6),
    "attention": (0.5, 0.3),
    "fp4": (0.65, 0.4),
    "link": (0.6, 0.3),
    "layer_us": (60.0, 0.7),
    "routed_layer_us": (60.0, 1.0),
    "sequence_us": (4.0, 1.0),
}
NOISE = 0.2  # of a published point, a logarithm


def fitted(points: Sequence[Point], start: Efficiencies = EFFICIENCIES) -> Efficiencies:
    """The efficiencies that fit the points best, beginning at what each is by nature; those that
    are stated and not fitted are `start`'s."""
    from scipy.optimize import least_squares

    names = list(NATURE)
    natural = np.log([NATURE[name][0] for name in names])
    spread = np.array([NATURE[name][1] for name in names])

    def of(logarithms: np.ndarray) -> Efficiencies:
        return replace(start, **dict(zip(names, np.exp(logarithms).tolist(), strict=True)))

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        tried = of(logarithms)
        errors = [point.error(tried) / NOISE for point in points]
        return np.concatenate([errors, (logarithms - natural) / spread])

    found = least_squares(residuals, natural, loss="soft_l1", max_nfev=20, xtol=1e-4, ftol=1e-4)
    return of(found.x)


def without(points: Sequence[Point], family: str) -> Efficiencies:
    """Fitted to all other families."""
    return fitted([point for point in points if point.family != family])
