"""The simulations of the paired tests, small: the full ones are in the benchmark."""

import pytest

from benchmarks.evaluation import statistics


@pytest.fixture(scope="module")
def simulated():
    return statistics.run(runs=500)


def test_false_positives_are_near_5_percent_and_below_where_prompts_are_few(simulated):
    _, raw = simulated
    shares = {name: share for name, share in raw.items() if name.startswith("false_positives")}
    assert len(shares) >= 9
    for name, share in shares.items():
        assert share < 0.05 + 0.03, name  # three standard errors
    assert shares["false_positives_mcnemar_10"] < 0.05
    assert raw["the_same_as_if_independent"] > 0.15


def test_the_paired_test_finds_more(simulated):
    ratios, raw = simulated
    assert ratios["power_paired_less_unpaired"]["ok"]
    assert raw["power_paired"] > raw["power_unpaired"]


def test_the_smallest_difference_is_found_in_about_4_of_5_cases(simulated):
    _, raw = simulated
    for prompts in (100, 500, 2000):
        found = raw[f"power_at_the_smallest_difference_{prompts}"]
        assert found["power"] == pytest.approx(0.8, abs=0.12)
