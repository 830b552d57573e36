"""Which blocks each step takes, and its learning rate: pure functions of the step, whatever the number of workers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from engine.records import derive_seed
from engine.spec import TrainSpec


@dataclass(frozen=True)
class Schedule:
    """Steps count from 0. Step s of an epoch takes positions [s*G, (s+1)*G) of that epoch's permutation of blocks."""

    blocks: int
    global_batch: int
    seed: int
    spec: TrainSpec

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.blocks // self.global_batch)

    @property
    def steps(self) -> int:
        return self.spec.epochs * self.steps_per_epoch

    def block_numbers(self, step: int) -> np.ndarray:
        """The blocks of one step; the last step of an epoch may have fewer."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order = _permutation(self.blocks, derive_seed(self.seed, "order", epoch))
        return order[at * self.global_batch : (at + 1) * self.global_batch]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then cosine to min_learning_rate_ratio at the last step."""
        warmup = math.ceil(self.spec.warmup_ratio * self.steps)
        if step < warmup:
            return self.spec.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - 1 - warmup)
        floor = self.spec.min_learning_rate_ratio
        return self.spec.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


@functools.lru_cache(maxsize=2)
def _permutation(blocks: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(blocks)
