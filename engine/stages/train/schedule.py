"""Which blocks each step takes, and its learning rate: pure functions of the step, whatever the number of workers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from engine.records import derive_seed
from engine.spec import TrainSpec

WINDOW_SHARDS = 8  # about 2 GiB: what a worker's cache of shards holds at least


@dataclass(frozen=True)
class Schedule:
    """Steps count from 0. Step s of an epoch takes positions [s*G, (s+1)*G) of that epoch's permutation of blocks."""

    shard_sizes: tuple[int, ...]  # blocks
    global_batch: int
    seed: int
    spec: TrainSpec

    @property
    def steps_per_epoch(self) -> int:
        return -(-sum(self.shard_sizes) // self.global_batch)

    @property
    def steps(self) -> int:
        return self.spec.epochs * self.steps_per_epoch

    def block_numbers(self, step: int) -> np.ndarray:
        """The blocks of one step; the last step of an epoch may have fewer."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order = _permutation(self.shard_sizes, derive_seed(self.seed, "order", epoch))
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
def _permutation(shard_sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Shards in random order, and their blocks shuffled among WINDOW_SHARDS of them; with few shards simply a permutation."""
    rng, starts = np.random.default_rng(seed), np.cumsum([0, *shard_sizes])
    shards = rng.permutation(len(shard_sizes))
    windows = (shards[at : at + WINDOW_SHARDS] for at in range(0, len(shards), WINDOW_SHARDS))
    blocks = ([np.arange(starts[shard], starts[shard + 1]) for shard in window] for window in windows)
    return np.concatenate([rng.permutation(np.concatenate(window)) for window in blocks])
