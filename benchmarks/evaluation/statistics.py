"""Do the paired tests keep their level, find more than unpaired ones, and say truly what they could
find? Simulated comparisons of models whose true difference is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.result import Found, bounded
from engine.rows.comparison import ALPHA, POWER, compare_metric, mcnemar_mde, mcnemar_mid_p

RUNS = 10_000
SAMPLES = 1000  # resamples of each bootstrap
# A few prompts give few outcomes, so a test keeps below its level: shown, not bounded.
SMALL, LARGE = (10, 20, 50), (200, 500, 2000)
Scores = tuple[np.ndarray, np.ndarray]  # of both models, by prompt


def run(runs: int = RUNS) -> Found:
    """All of it, with so many simulated comparisons of each kind."""
    ratios: dict[str, dict[str, Any]] = {}
    raw: dict[str, Any] = {"runs": runs, "resamples": SAMPLES}
    parts: tuple[Callable[[int], Found], ...] = (
        _null_of_proportions,
        _null_of_means,
        _null_of_dialogues,
        _power,
        _smallest_differences,
    )
    for part in parts:
        found, figures = part(runs)
        ratios |= found
        raw |= figures
    return ratios, raw


@dataclass(frozen=True)
class Models:
    """Two models whose answers are right with probabilities that depend on the prompt: some are
    hard for both. `gain` is added to ours."""

    prompts: int
    gain: float = 0.0

    def draw(self, draws: np.random.Generator) -> Scores:
        """Right or wrong, by prompt."""
        hardness = draws.beta(0.5, 0.5, self.prompts) * (1 - self.gain)
        ours = draws.random(self.prompts) < hardness + self.gain
        theirs = draws.random(self.prompts) < hardness
        return ours.astype(float), theirs.astype(float)


def overlaps(draws: np.random.Generator, prompts: int) -> Scores:
    """Scores like F1 or ROUGE: from 0 to 1, alike on both sides, some at the ends."""
    hardness = draws.random(prompts)
    first, second = np.clip(hardness + draws.normal(0, 0.4, (2, prompts)), 0, 1)
    return first, second


def seldom(draws: np.random.Generator, prompts: int) -> Scores:
    """The same answers but for one prompt in ten."""
    ours, other = draws.random((2, prompts))
    differs = draws.random(prompts) < 0.1
    return ours, np.where(differs, other, ours)


def counted(values: np.ndarray) -> np.ndarray:
    """Statistics of a mean."""
    return np.stack([values, np.ones(len(values))], 1)


def _deviation(share: float) -> dict[str, Any]:
    """How far from 5 % false positives are."""
    return bounded(round(abs(share - ALPHA), 5), "<=", 0.005)


def _null_of_proportions(runs: int) -> Found:
    ratios = {}
    raw = {}
    for prompts in (*SMALL, *LARGE):
        draws = np.random.default_rng(prompts)
        shares = _mcnemar_hits(Models(prompts), runs, draws)
        raw[f"false_positives_mcnemar_{prompts}"] = shares
        if prompts in LARGE:
            ratios[f"false_positives_mcnemar_{prompts}_from_5_percent"] = _deviation(shares)
    return ratios, raw


def _mcnemar_hits(models: Models, runs: int, draws: np.random.Generator) -> float:
    hits = 0
    for _ in range(runs):
        ours, theirs = models.draw(draws)
        wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
        hits += mcnemar_mid_p(wins, losses) < ALPHA
    return hits / runs


def _bootstrap_hits(
    draw: Callable[[np.random.Generator, int], Scores],
    prompts: int,
    runs: int,
    clusters: list[int] | None = None,
) -> float:
    hits = 0
    for seed in range(runs):
        draws = np.random.default_rng([prompts, seed])
        ours, theirs = draw(draws, prompts)
        found = compare_metric("f1", counted(ours), counted(theirs), SAMPLES, seed, clusters)
        hits += (found.p or 0.0) < ALPHA
    return hits / runs


def _null_of_means(runs: int) -> Found:
    ratios = {}
    raw = {}
    for prompts in (20, 100):
        share = _bootstrap_hits(overlaps, prompts, runs)
        raw[f"false_positives_bootstrap_{prompts}"] = share
        ratios[f"false_positives_bootstrap_{prompts}_from_5_percent"] = _deviation(share)
    few = _bootstrap_hits(seldom, 100, runs // 5)
    raw["false_positives_bootstrap_100_where_10_differ"] = few
    return ratios, raw


def _null_of_dialogues(runs: int) -> Found:
    """Forty dialogues of one to eight turns; counted as they are, and as if turns were
    independent."""
    turns = [1 + at % 8 for at in range(40)]
    clusters = np.repeat(np.arange(40), turns).tolist()

    def draw(draws: np.random.Generator, prompts: int) -> Scores:
        ours, theirs = overlaps(draws, 40)
        noise = draws.normal(0, 0.1, (2, prompts))
        return np.repeat(ours, turns) + noise[0], np.repeat(theirs, turns) + noise[1]

    share = _bootstrap_hits(draw, len(clusters), runs, clusters)
    naive = _bootstrap_hits(draw, len(clusters), runs // 10)
    ratios = {"false_positives_40_dialogues_from_5_percent": _deviation(share)}
    raw = {"false_positives_40_dialogues": share, "the_same_as_if_independent": naive}
    return ratios, raw


def _power(runs: int) -> Found:
    """How often a gain of 5 points is found, by us and by a two-sample test of the same answers."""
    paired = unpaired = 0
    runs //= 5
    draws = np.random.default_rng(5)
    models = Models(400, gain=0.05)
    for _ in range(runs):
        ours, theirs = models.draw(draws)
        wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
        paired += mcnemar_mid_p(wins, losses) < ALPHA
        unpaired += _two_sample_p(ours, theirs) < ALPHA
    raw = {"power_paired": paired / runs, "power_unpaired": unpaired / runs}
    more = round((paired - unpaired) / runs, 4)
    return {"power_paired_less_unpaired": bounded(more, ">=", 0.05)}, raw


def _two_sample_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The usual z-test of two proportions."""
    pooled = (ours.mean() + theirs.mean()) / 2
    error = np.sqrt(2 * pooled * (1 - pooled) / len(ours))
    return float(2 * stats.norm.sf(abs(ours.mean() - theirs.mean()) / error))


def _smallest_differences(runs: int) -> Found:
    """How often the smallest difference that is promised is found: 80 % is."""
    ratios = {}
    raw = {}
    draws = np.random.default_rng(8)
    for prompts, share in ((100, 0.4), (500, 0.2), (2000, 0.05)):
        difference = mcnemar_mde(round(share * prompts), prompts) or 0.0
        chances = [(share + difference) / 2, (share - difference) / 2, 1 - share]
        hits = 0
        for wins, losses, _ in draws.multinomial(prompts, chances, size=runs // 5).tolist():
            hits += mcnemar_mid_p(wins, losses) < ALPHA
        power = hits / (runs // 5)
        name = f"power_at_the_smallest_difference_{prompts}"
        raw[name] = {"difference": difference, "power": power}
        ratios[f"{name}_from_80_percent"] = bounded(round(abs(power - POWER), 4), "<=", 0.05)
    return ratios, raw
