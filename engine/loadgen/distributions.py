"""Distributions of lengths and of pauses, by mean and spread."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.errors import SpecError


def fixed(rng: np.random.Generator, mean: float, cv: float, size: int) -> np.ndarray:
    """The mean each time."""
    return np.full(size, mean)


def uniform(rng: np.random.Generator, mean: float, cv: float, size: int) -> np.ndarray:
    """Evenly around the mean."""
    half = math.sqrt(3) * cv * mean
    return rng.uniform(mean - half, mean + half, size)


def normal(rng: np.random.Generator, mean: float, cv: float, size: int) -> np.ndarray:
    """A bell; what falls below 0 is bounded by `low`."""
    return rng.normal(mean, cv * mean, size)


def lognormal(rng: np.random.Generator, mean: float, cv: float, size: int) -> np.ndarray:
    """A long tail to the right, as lengths of real answers have."""
    variance = math.log1p(cv**2)
    return rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), size)


def exponential(rng: np.random.Generator, mean: float, cv: float, size: int) -> np.ndarray:
    """Without memory, as pauses of people; its coefficient of variation is 1 whatever is asked."""
    return rng.exponential(mean, size)


# by name: (generator, mean, coefficient of variation, how many) -> draws
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, float, float, int], np.ndarray]] = {
    "fixed": fixed,
    "uniform": uniform,
    "normal": normal,
    "lognormal": lognormal,
    "exponential": exponential,
}


@dataclass(frozen=True)
class Distribution:
    """A row of DISTRIBUTIONS with its mean and coefficient of variation (standard deviation to
    mean); draws beyond `low` and `high` are moved there. SpecError for one that cannot be drawn."""

    kind: str = "fixed"
    mean: float = 1.0
    cv: float = 0.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in DISTRIBUTIONS:
            raise SpecError(f"distribution '{self.kind}': choose one of {', '.join(DISTRIBUTIONS)}")
        if not (0 <= self.mean < math.inf and 0 <= self.cv < math.inf):
            raise SpecError(
                f"distribution '{self.kind}': mean={self.mean:g} and cv={self.cv:g} must be numbers"
                " of 0 or more"
            )
        if self.kind == "lognormal" and self.mean == 0:
            raise SpecError("distribution 'lognormal': mean must be greater than 0")

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Reals, none below 0."""
        draws = DISTRIBUTIONS[self.kind](rng, self.mean, self.cv, size)
        low = 0.0 if self.low is None else self.low
        return np.clip(draws, low, self.high)

    def counts(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Whole numbers, none below 1."""
        return np.maximum(1, np.rint(self.draw(rng, size))).astype(int)
