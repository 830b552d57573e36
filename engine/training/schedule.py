"""Which blocks each step takes, and its learning rate: pure functions of the step, whatever the
number of workers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.job.spec import TrainSpec
from engine.rows.ids import derive_seed

WINDOW_SHARDS = 8  # about 2 GiB: what a worker's cache of shards holds at least


@dataclass(frozen=True)
class Schedule:
    """Steps count from 0. Step s of an epoch takes positions [s*G, (s+1)*G) of that epoch's
    permutation of blocks."""

    shard_sizes: tuple[int, ...]  # blocks
    global_batch: int
    seed: int
    spec: TrainSpec

    @property
    def steps_per_epoch(self) -> int:
        return -(-sum(self.shard_sizes) // self.global_batch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spec.epochs * self.steps_per_epoch

    def block_numbers(self, step: int) -> np.ndarray:
        """The blocks of one step; the last step of an epoch may have fewer."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order = _permutation(self.shard_sizes, derive_seed(self.seed, "order", epoch))
        return order[at * self.global_batch : (at + 1) * self.global_batch]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over the first W steps, then peak * (r + (1 - r) * f(p)) with r =
        min_learning_rate_ratio.

        p runs from 0 at the last step with the peak to 1 at the last step of all; f is the line of
        FALLS that the job names. `cosine`, `linear` and `constant` begin after the warm-up; `wsd`
        (warm-up, stable, decay: Hu et al. 2024, MiniCPM, arXiv:2404.06395) stays at the peak and
        falls in the last decay_ratio of the steps, linearly as in Hägele et al. 2024
        (arXiv:2405.18392).
        """
        warmup, last = math.ceil(self.spec.warmup_ratio * self.steps), self.steps - 1
        if step < warmup:
            return self.spec.learning_rate * (step + 1) / warmup
        begin = (
            max(warmup, last - math.ceil(self.spec.decay_ratio * self.steps))
            if self.spec.schedule == "wsd"
            else warmup
        )
        progress = max(0, step - begin) / max(1, last - begin)
        floor = self.spec.min_learning_rate_ratio
        return self.spec.learning_rate * (floor + (1 - floor) * FALLS[self.spec.schedule](progress))


FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
    "linear": lambda p: 1 - p,
    "constant": lambda p: 1.0,
    "wsd": lambda p: 1 - p,
}


@functools.lru_cache(maxsize=2)
def _permutation(shard_sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Shards in random order, and their blocks shuffled among WINDOW_SHARDS of them; with few
    shards simply a permutation."""
    rng, starts = np.random.default_rng(seed), np.cumsum([0, *shard_sizes])
    shards = rng.permutation(len(shard_sizes))
    windows = (shards[at : at + WINDOW_SHARDS] for at in range(0, len(shards), WINDOW_SHARDS))
    blocks = (
        [np.arange(starts[shard], starts[shard + 1]) for shard in window] for window in windows
    )
    return np.concatenate([rng.permutation(np.concatenate(window)) for window in blocks])
