"""Good requests by hand."""

import pytest
from doubles.levels import sample

from engine.stages.loadtest.goodput import Slo, goodput_of, is_good, strain
from engine.stages.loadtest.series import series_of

REQUESTS = series_of(
    [
        sample(1, ttft_ms=100.0, e2e_ms=300.0),  # 20 ms per token
        sample(2, ttft_ms=501.0, e2e_ms=520.0),
        sample(3, ttft_ms=100.0, e2e_ms=900.0),  # 80 ms per token
        sample(4, "http_500"),
        sample(5, ttft_ms=400.0, e2e_ms=400.0, tokens=1),
    ]
)


@pytest.mark.parametrize(
    ("bounds", "good"),
    [
        ({}, [True, True, True, False, True]),
        ({"ttft_ms": 500}, [True, False, True, False, True]),
        ({"tpot_ms": 50}, [True, True, False, False, True]),  # one token has no time per token
        ({"e2e_ms": 350}, [True, False, False, False, False]),
        ({"ttft_ms": 500, "tpot_ms": 50}, [True, False, False, False, True]),
    ],
)
def test_a_good_request_keeps_every_bound(bounds, good):
    assert is_good(REQUESTS, Slo(**bounds)).tolist() == good


def test_strain_is_the_largest_share_of_a_bound():
    found = strain(REQUESTS, Slo(ttft_ms=500, tpot_ms=50)).tolist()
    assert found == pytest.approx([0.4, 1.002, 1.6, float("inf"), 0.8])


def test_goodput_counts_good_requests_and_their_tokens_per_second():
    found = goodput_of(REQUESTS, Slo(ttft_ms=500), window_s=2.0)
    assert (found.good, found.requests, found.rps, found.share) == (3, 5, 1.5, 0.6)
    assert found.tokens_per_second == (11 + 11 + 1) / 2
    assert found.tokens_interval.holds(found.tokens_per_second)
    unsaid = series_of([sample(1, output_tokens=None)])
    assert goodput_of(unsaid, Slo(), 1.0).tokens_per_second is None


@pytest.mark.parametrize(
    ("good", "bad", "met"), [(1000, 0, True), (300, 0, None), (980, 20, False), (99, 1, None)]
)
def test_a_promise_is_kept_broken_or_left_open(good, bad, met):
    requests = [sample(number) for number in range(good)]
    requests += [sample(number + 0.5, "timeout") for number in range(0, 31 * bad, 31)]
    assert goodput_of(series_of(requests), Slo(percentile=99), 1.0).met is met


def test_no_request_has_no_share():
    found = goodput_of(series_of([]), Slo(ttft_ms=1), 1.0)
    assert (found.share, found.met) == (None, None)
    assert found.as_fields(Slo(ttft_ms=1)) == {
        "slo": {"ttft_ms": 1, "percentile": 99.0},
        "good": 0,
        "rps": 0.0,
        "tokens_per_second": 0.0,
        "share": None,
        "share_ci": [None, None],
        "met": None,
    }


def test_an_slo_reads_as_a_sentence():
    said = str(Slo(ttft_ms=500, tpot_ms=50, percentile=99))
    assert said == "ttft_ms <= 500 and tpot_ms <= 50 for 99 % of the requests"
