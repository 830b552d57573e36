"""The simulations and the known server behind benchmarks/loadgen, in small."""

import json
import math

import numpy as np
import pytest

from benchmarks.loadgen import coverage, knee, run, simulated, truth
from benchmarks.loadgen.known_server import Done
from benchmarks.loadgen.part import Settings
from benchmarks.loadgen.simulated import LAWS, Server
from engine.loadgen.samples import Level, Sample
from engine.stages.loadtest.goodput import Slo

SMALL = Settings(1, 1.0)


def erlang_c(places, busy):
    """Probability that a request waits, of M/M/c with `busy` places taken on average."""
    below = sum(busy**n / math.factorial(n) for n in range(places))
    at = busy**places / math.factorial(places) * places / (places - busy)
    return at / (below + at)


def test_the_simulated_queue_waits_as_the_formula_says():
    server = Server("exponential", places=4, service_s=1.0)
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / 3.2, 200_000))
    services = server.services(rng, len(arrivals))
    waits = simulated.starts_of(arrivals, services, server.places) - arrivals
    assert (waits > 1e-9).mean() == pytest.approx(erlang_c(4, 3.2), rel=0.05)
    beyond = erlang_c(4, 3.2) * math.exp(-(4 - 3.2) * 1.0)
    assert (waits > 1.0).mean() == pytest.approx(beyond, rel=0.1)


@pytest.mark.parametrize("law", LAWS)
def test_services_have_their_mean_and_the_tail_its_weight(law):
    drawn = Server(law, service_s=0.2).services(np.random.default_rng(0), 400_000)
    assert drawn.mean() == pytest.approx(0.2, rel=0.02)
    deviation = {"deterministic": 0.0, "exponential": 1.0, "lognormal": 1.5}[law]
    assert drawn.std() / 0.2 == pytest.approx(deviation, rel=0.1, abs=1e-9)


def test_the_true_knee_of_an_exponential_server_is_that_of_the_formula():
    server = Server("exponential", places=8, service_s=0.5, prefill_s=0.0)
    slo = Slo(ttft_ms=400, percentile=95)
    found = simulated.true_knee_rps(server, slo, 400_000)
    late = erlang_c(8, found * 0.5) * math.exp(-(16 - found) * 0.4)
    assert late == pytest.approx(0.05, rel=0.1)


def test_sojourns_in_the_steady_state_are_exponential():
    rng = np.random.default_rng(0)
    first = [simulated.mm1_sojourns(rng, 0.7, 1)[0] for _ in range(20_000)]
    assert np.mean(first) == pytest.approx(1 / 0.3, rel=0.03)
    path = simulated.mm1_sojourns(rng, 0.5, 400_000)
    assert np.quantile(path, 0.99) == pytest.approx(-math.log(0.01) / 0.5, rel=0.05)


def test_simulated_levels_are_levels():
    server = Server("deterministic", places=2, service_s=0.1)
    opened = simulated.run_open(server, 5.0, 20.0, 2.0, seed=1)
    assert (opened.kind, opened.rate, opened.concurrency) == ("poisson", 5.0, None)
    assert opened.scheduled == sum(sample.intended_ms >= 0 for sample in opened.samples)
    assert {sample.e2e_ms for sample in opened.samples} > {100.0}
    users = simulated.run_users(server, 3, 1.0, 20.0, 2.0, seed=1)
    assert (users.kind, users.concurrency, users.rate) == ("sessions", 3, None)
    assert len(users.samples) == pytest.approx(3 * 22 / 1.1, rel=0.3)


def test_coverage_tells_how_often_intervals_hold():
    ratios, raw = coverage.coverage(SMALL, None, runs=40)
    assert {"coverage_off_p50_independent", "coverage_off_throughput"} <= ratios.keys()
    assert all(ratio["value"] <= 0.12 for name, ratio in ratios.items() if "_off_" in name)
    assert 0.5 <= ratios["coverage_p50_queue_1000"]["value"] <= 1
    assert raw["coverage"]["queue_1000"]["p99"]["unbounded"] > 0.5
    json.dumps(raw)


@pytest.mark.slow
def test_the_knee_is_searched_on_every_server():
    ratios, raw = knee.knee_rps(SMALL, None, seeds=1, requests=40_000)
    assert ratios["knee_p95_worst_error"]["value"] < 0.1
    assert ratios["knee_p99_most_levels"]["value"] <= 12
    assert len(raw["knee_rps"]) == 2 * len(LAWS)
    users, _ = knee.knee_users(SMALL, None, seeds=1, truth_s=80.0)
    assert users["knee_users_worst_error"]["value"] < 0.1
    json.dumps(raw)


def test_the_truth_is_the_servers_log_from_the_intended_moment_on():
    asked = [Sample(-50.0, -50.0, "ok", prompt=0), Sample(100.0, 130.0, "ok", prompt=1)]
    level = Level("poisson", None, 2.0, 1.0, 1.0, 500.0, 0, 1, asked, [])
    log = [
        Done("request 0", 499.96, 499.97, 500.02, 500.03, 6),
        Done("request 1", 500.2, 500.4, 500.8, 500.9, 5),
    ]
    found = truth.truth_of(level, log)
    assert found["ttft_ms"]["p50"] == pytest.approx(300)  # from 100 ms on, not from its reading
    assert found["e2e_ms"]["p99"] == pytest.approx(800)
    assert found["tpot_ms"]["p95"] == pytest.approx(100)
    assert found["served_rps"] == 2.0
    assert found["output_tokens_per_second"] == pytest.approx(5 + 6 * 0.02 / 0.05)
    with pytest.raises(RuntimeError, match="2 requests were sent, 1 are in the log"):
        truth.truth_of(level, log[:1])
    assert truth.largest_error({"a": 9.0, "b": 11.0}, {"a": 10.0, "b": 10.0}) == pytest.approx(0.1)
    assert truth.largest_error(None, 3.0) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("part", "seconds"), [(truth.unequal, 4.0), (truth.stall, 12.0)])
def test_figures_are_those_of_the_servers_log(part, seconds, tmp_path):
    ratios, raw = part(SMALL, tmp_path, seconds=seconds)
    for name, ratio in ratios.items():
        assert ratio["value"] < 0.1 or name == "stall_ttft_p99_ms", name
    json.dumps(raw)


def test_every_part_can_be_run():
    assert {"truth", "endpoint", "coverage", "knee"} <= run.PARTS.keys()
