"""Columns of a level by hand: failures as infinitely slow, requests under way, tokens."""

import math

import numpy as np
import pytest
from doubles.levels import sample

from engine.stages.loadtest.series import (
    answers_ended,
    mean_in_flight,
    series_of,
    tokens_between,
    tpot_ms,
)


def test_requests_stand_in_the_order_in_which_they_were_meant_to_leave():
    found = series_of([sample(30), sample(10, late_ms=4.0), sample(20, "timeout")])
    assert found.intended_ms_N.tolist() == [10, 20, 30]
    assert found.lag_ms_N.tolist() == [4, 0, 0]
    assert found.ok_N.tolist() == [True, False, True]
    assert [each.status for each in found.within(15, 30).samples] == ["timeout"]
    assert len(series_of([])) == 0


def test_a_failed_request_is_infinitely_slow_whatever_came_of_it():
    broken = sample(0, "cut_stream", first_byte_ms=5.0, ttft_ms=9.0, e2e_ms=40.0)
    found = series_of([broken])
    for column in (found.first_byte_ms_N, found.ttft_ms_N, found.tpot_ms_N, found.e2e_ms_N):
        assert column.tolist() == [math.inf]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 8.0),
        ({"tokens": 1}, None),
        ({"output_tokens": None}, None),
        ({"last_ms": 20.0}, None),  # all at once
        ({"last_ms": None}, None),
    ],
)
def test_time_per_token_is_between_the_first_text_and_the_last(fields, expected):
    assert tpot_ms(sample(0, **fields)) == expected


def test_requests_under_way_are_averaged_over_time():
    requests = [sample(0, e2e_ms=100.0), sample(50, e2e_ms=100.0), sample(0, "http_429")]
    found = mean_in_flight(series_of(requests), np.array([-100.0, 0.0, 100.0, 200.0]))
    assert found.tolist() == [0, 1.5, 0.5]


def test_answers_and_tokens_count_where_they_came():
    across = sample(50, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    at_once = sample(120, ttft_ms=20.0, e2e_ms=20.0, tokens=7)
    silent = sample(0, ttft_ms=1.0, e2e_ms=2.0, output_tokens=None)
    found = series_of([across, at_once, silent, sample(0, "timeout")])
    edges = np.array([0.0, 100.0, 200.0])
    assert tokens_between(found, edges).tolist() == [5, 12]
    assert answers_ended(found, edges).tolist() == [1, 2]


def test_what_ends_with_the_window_is_not_in_it():
    found = series_of([sample(100, e2e_ms=100.0), sample(99, e2e_ms=100.0)])
    assert answers_ended(found, np.array([0.0, 100.0, 200.0])).tolist() == [0, 1]
