"""SIGKILL to the real driver while a vendor makes its batches and works on them: the same command
finds them again, and every row is paid for once (`make proof`)."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import REPOSITORY
from doubles import batch_api
from doubles.batch_api import KEY, Plan

from engine.run.batches import load_batches
from engine.run.ledger import stage_folders
from engine.run.manifests import finished, load_manifest
from engine.run.verify import verify

pytestmark = pytest.mark.proof
COUNT, VALIDATION = 300, 8


class Driver:
    """`distill run --until generate`, which a test may kill at any moment."""

    def __init__(self, job, runs, log):
        self._command = [sys.executable, "-m", "engine.cli", "run", str(job), "--runs", str(runs)]
        self._command += ["--until", "generate"]
        self._log = log
        self._process = None

    def start(self):
        variables = os.environ | {"DISTILL_TEST_API_KEY": KEY, "PYTHONPATH": str(REPOSITORY)}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=variables, stdout=log, stderr=log, cwd=REPOSITORY
            )

    def kill(self, with_replicas=False):
        started = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGKILL)
        if with_replicas:
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def wait(self):
        return self._process.wait(timeout=300)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_killed_drivers_find_their_batches_again_and_pay_for_nothing_twice(
    kind, job_file, tmp_path, record_property
):
    kills = []
    plan = Plan(slow_s=3600)
    with batch_api.serve(plan) as api:
        teacher = {
            "name": "api",
            "kind": kind,
            "model": "m",
            "base_url": f"{api.url}/v1" if kind == "openai" else api.url,
            "api_key_env": "DISTILL_TEST_API_KEY",
            "batch": True,
            "batch_rows": 100,
            "prices": {"input": 10.0, "output": 100.0},
        }
        job = job_file(COUNT, generate={"teachers": [teacher], "max_cost_usd": 20})
        driver = Driver(job, tmp_path / "runs", tmp_path / "driver.log")

        def kill_at(number):
            """Before the vendor says that it has made the second one, and the fourth."""
            if number in (2, 4) and number not in kills:
                kills.append(number)
                driver.kill(with_replicas=True)
            return 200

        plan.on_make = kill_at
        driver.start()
        assert driver.wait() == -signal.SIGKILL
        began = time.monotonic()
        driver.start()
        until(lambda: len(kills) == 2)
        assert driver.wait() == -signal.SIGKILL
        driver.start()
        seen = api.batches[0].looks
        until(lambda: api.batches[0].looks > seen)
        driver.kill()  # all are under way
        driver.wait()
        plan.slow_s = 0
        driver.start()
        assert driver.wait() == 0, (tmp_path / "driver.log").read_text()[-3000:]
        record_property("seconds", round(time.monotonic() - began))
        asked = api.asked()
    assert len(asked) == COUNT + VALIDATION
    assert set(asked.values()) == {1}
    (run,) = (tmp_path / "runs").glob("fake")
    folder = stage_folders(run)[1]
    manifest = load_manifest(folder)
    assert manifest.rows_out == sum(finished(folder).manifest.info.status.values())
    assert manifest.info.status == {"ok": COUNT + VALIDATION}
    assert {batch.ended for batch in load_batches(folder)} <= {"completed", "ended"}
    assert verify(run).problems == []


def until(is_so, seconds=240):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)
