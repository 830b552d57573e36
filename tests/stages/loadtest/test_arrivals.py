"""Schedules are drawn once, reproducibly, and have the shape that they claim."""

import numpy as np
import pytest

from engine.job.spec import LoadtestSpec
from engine.stages.loadtest.arrivals import Load, constant, levels_of, poisson


def test_poisson_draws_are_reproducible_and_depend_on_the_seed():
    draw = [poisson(np.random.default_rng(seed), 20.0, 30.0) for seed in (7, 7, 8)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0][:5], draw[2][:5])


def test_poisson_counts_vary_like_poisson_counts():
    counts = [len(poisson(np.random.default_rng(seed), 10.0, 10.0)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, rel=0.03)
    assert np.var(counts) / np.mean(counts) == pytest.approx(
        1, abs=0.25
    )  # rescaled gaps would give 0


@pytest.mark.parametrize("rate", [0.01, 0.5, 300.0])
def test_every_arrival_lies_in_the_window(rate):
    times = poisson(np.random.default_rng(0), rate, 10.0)
    assert ((times >= 0) & (times < 10.0)).all()
    assert (np.diff(times) > 0).all()


def test_constant_gaps_are_one_over_the_rate():
    assert constant(np.random.default_rng(0), 4.0, 1.0).tolist() == [0, 0.25, 0.5, 0.75]


def test_levels_come_closed_loop_first():
    levels = levels_of(LoadtestSpec(concurrency=[1, 4], rates=[2.5]))
    assert [str(level) for level in levels] == ["concurrency=1", "concurrency=4", "rate=2.5"]
    assert Load(rate=2.5).fields() == {"rate": 2.5}
