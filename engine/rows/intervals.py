"""How far a score can be trusted: 95 % intervals, and the resamples that they and comparisons are
made of.

Shapes: N answers, C additive statistics per answer, G groups of answers that are not independent
(turns of one dialogue), R resamples. Without groups each answer is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.rows.metrics import METRICS

Interval = list[float] | None
Clusters = Sequence[int | str] | None  # the group of each answer
LEVELS = (2.5, 97.5)  # percentiles
_DRAWN_AT_A_TIME = 4_000_000  # numbers: 32 MB


def interval_of(
    metric: str,
    statistics_NC: np.ndarray,
    samples: int,
    seed: int,
    clusters: Clusters = None,
) -> Interval:
    """95 % interval of the score: Wilson for proportions of independent answers, else the
    percentile bootstrap over groups."""
    if METRICS[metric].is_proportion and not has_groups(clusters):
        from scipy.stats import binomtest  # seconds to import, wanted once per run

        right, count = statistics_NC.sum(0)
        proportion = binomtest(round(right), round(count))
        return list(proportion.proportion_ci(method="wilson"))
    sums_RC = resampled(group_sums(statistics_NC, clusters), samples, seed)
    return percentiles(METRICS[metric].score(sums_RC))


def retention_interval(
    metric: str,
    student_NC: np.ndarray,
    teacher_NC: np.ndarray,
    samples: int,
    seed: int,
    clusters: Clusters = None,
) -> Interval:
    """95 % interval of student / teacher: percentile bootstrap over groups of prompts, both models
    on the same resample; a resample without a teacher's score is left out."""
    student, teacher = paired_scores(metric, student_NC, teacher_NC, samples, seed, clusters)
    there = teacher > 0
    return percentiles(student[there] / teacher[there])


def paired_scores(
    metric: str,
    ours_NC: np.ndarray,
    theirs_NC: np.ndarray,
    samples: int,
    seed: int,
    clusters: Clusters = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (R,) of both models on the same resamples."""
    columns = ours_NC.shape[1]
    both_N2C = np.hstack([ours_NC, theirs_NC])
    sums = resampled(group_sums(both_N2C, clusters), samples, seed)
    score = METRICS[metric].score
    return score(sums[:, :columns]), score(sums[:, columns:])


def has_groups(clusters: Clusters) -> bool:
    """Whether any two answers belong together."""
    return clusters is not None and len(set(clusters)) < len(clusters)


def group_sums(statistics_NC: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Sums (G, C) of each group's statistics."""
    if clusters is None:
        return statistics_NC
    numbers: dict[int | str, int] = {}
    group_N = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums_GC = np.zeros((len(numbers), statistics_NC.shape[1]))
    np.add.at(sums_GC, group_N, statistics_NC)
    return sums_GC


def resampled(sums_GC: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Sums (R, C) over as many groups as there are, drawn with replacement."""
    draws = np.random.default_rng(seed)
    groups = len(sums_GC)
    sums = []
    for count in _portions(samples, groups):
        drawn = draws.integers(groups, size=(count, groups))
        drawn += groups * np.arange(count)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=count * groups)
        sums.append(times_drawn.reshape(count, groups).astype(float) @ sums_GC)
    return np.concatenate(sums)


def _portions(samples: int, groups: int) -> Iterator[int]:
    """Resamples that are drawn at a time: as many as memory is well spent on."""
    most = max(1, _DRAWN_AT_A_TIME // groups)
    for start in range(0, samples, most):
        yield min(most, samples - start)


def percentiles(values: np.ndarray, levels: Sequence[float] = LEVELS) -> Interval:
    """Of those that are numbers; None where none is."""
    numbers = values[np.isfinite(values)]
    if not len(numbers):
        return None
    return np.percentile(numbers, levels).tolist()
