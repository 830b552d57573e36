"""What benchmarks/loadgen measures, it measures."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from benchmarks.loadgen import clients, run, speed
from benchmarks.loadgen.part import Settings
from engine.loadgen.arrivals import poisson
from engine.loadgen.noop_server import noop_server


def drawn(seed):
    return poisson(np.random.default_rng(seed), 50.0, 30.0)


def test_poisson_passes_and_processes_in_lockstep_do_not():
    passed = [min(speed.p_values(drawn(seed), 50.0, 30.0).values()) for seed in range(20)]
    assert sum(p >= speed.LEVEL for p in passed) >= 17
    lockstep = np.sort(np.concatenate([poisson(np.random.default_rng(0), 12.5, 30.0)] * 4))
    found = speed.p_values(lockstep, 50.0, 30.0)
    assert max(found.values()) < 1e-6
    even = np.arange(1500) / 50.0
    assert max(speed.p_values(even, 50.0, 30.0).values()) < 1e-6


def test_a_client_answers_each_run_with_what_it_took():
    command = [sys.executable, str(REPOSITORY / "benchmarks/loadgen/clients.py"), "ours"]
    with noop_server() as (url, _):
        wanted = json.dumps({"url": url, "tokens": 8, "seconds": 0.5, "requests": 1}) + "\n"
        done = subprocess.run(
            command,
            input=2 * wanted,
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
    ready, *rows = done.stdout.splitlines()
    assert ready == "ready"
    assert len(rows) == 2
    for row in map(json.loads, rows):
        assert row["failed"] == 0
        assert row["events"] == pytest.approx(8 * row["requests"], rel=0.5)
        assert 0 < row["cpu_s"] < 2


def test_every_part_has_a_name():
    assert {"speed", "arrivals"} <= run.PARTS.keys()
    assert set(clients.CLIENTS) == {"ours", "vllm", "old"}


@pytest.mark.slow
def test_the_lag_of_sending_is_told_with_how_busy_the_machine_was(tmp_path):
    ratios, raw = speed.send_lag(Settings(1, 0.5), tmp_path)
    assert ratios["send_lag_p99_ms_at_a_quarter_of_the_ceiling"]["value"] > 0
    (found,) = raw["lag"]
    assert found["failed"] == 0
    assert 0 <= found["others_cpu"] <= 1
    assert raw["rate_rps"] == pytest.approx(raw["ceiling"]["events_per_core_s"] / 4 / speed.EVENTS)
