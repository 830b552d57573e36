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
        blocks = sum(self.shard_sizes)
        return -(-blocks // self.global_batch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spec.epochs * self.steps_per_epoch

    def block_numbers(self, step: int) -> np.ndarray:
        """The blocks of one step; the last step of an epoch may have fewer."""
        epoch, at = divmod(step, self.steps_per_epoch)
        seed = derive_seed(self.seed, "order", epoch)
        order = _permutation(self.shard_sizes, seed)
        begin = at * self.global_batch
        end = begin + self.global_batch
        return order[begin:end]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over the first W steps, then peak * (r + (1 - r) * f(p)) with r =
        min_learning_rate_ratio.

        p runs from 0 at the last step with the peak to 1 at the last step of all; f is the line of
        FALLS that the job names. `cosine`, `linear` and `constant` begin after the warm-up; `wsd`
        (warm-up, stable, decay: Hu et al. 2024, MiniCPM, arXiv:2404.06395) stays at the peak and
        falls in the last decay_ratio of the steps, linearly as in Hägele et al. 2024
        (arXiv:2405.18392).
        """
        warmup = math.ceil(self.spec.warmup_ratio * self.steps)
        last = self.steps - 1
        if step < warmup:
            risen = self.spec.learning_rate * (step + 1)
            return risen / warmup
        begin = warmup
        if self.spec.schedule == "wsd":
            falling = math.ceil(self.spec.decay_ratio * self.steps)
            begin = max(warmup, last - falling)
        fallen = max(0, step - begin)
        length = max(1, last - begin)
        progress = fallen / length
        floor = self.spec.min_learning_rate_ratio
        fall = FALLS[self.spec.schedule](progress)
        share = floor + (1 - floor) * fall
        return self.spec.learning_rate * share


def _half_cosine(progress: float) -> float:
    angle = math.pi * progress
    return 0.5 * (1 + math.cos(angle))


FALLS: dict[str, Callable[[float], float]] = {
    "cosine": _half_cosine,
    "linear": lambda p: 1 - p,
    "constant": lambda p: 1.0,
    "wsd": lambda p: 1 - p,
}


@functools.lru_cache(maxsize=2)
def _permutation(shard_sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Shards in random order, and their blocks shuffled among WINDOW_SHARDS of them; with few
    shards simply a permutation."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *shard_sizes])
    shards = rng.permutation(len(shard_sizes))
    order: list[np.ndarray] = []
    for at in range(0, len(shards), WINDOW_SHARDS):
        blocks = []
        for shard in shards[at : at + WINDOW_SHARDS]:
            first, end = starts[shard : shard + 2]
            blocks.append(np.arange(first, end))
        window = np.concatenate(blocks)
        order.append(rng.permutation(window))
    return np.concatenate(order)
