"""Ctrl-C and SIGTERM while teachers are asked: nothing more is asked, and what was paid for is
kept."""

import os
import signal
import threading
import time

import pytest
from conftest import statuses
from doubles import misbehaving_api
from doubles.misbehaving_api import KEY, Faults

from engine import pipeline
from engine.backends import fake
from engine.errors import Stopped
from engine.run.context import Context
from engine.stages import generate

COUNT = 200


@pytest.fixture
def answer(fake_job, tmp_path, monkeypatch):
    """Ask an API at `url`, in this process, for what is not answered yet."""
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)

    def run(url):
        api = {
            "name": "api",
            "kind": "openai",
            "model": "m",
            "base_url": f"{url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
            "concurrency": 8,
            "prices": {"input": 10.0, "output": 100.0},
        }
        job = fake_job(COUNT, generate={"teachers": [api], "request_timeout_s": 20.0})
        prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
        out = tmp_path / "generate"
        (out / "data").mkdir(parents=True, exist_ok=True)
        return generate.run(
            job.generate, {"prompts": prompts}, out, Context("job", "math", 0), stream=fake.stream
        )

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_loses_no_paid_answer_and_the_same_call_goes_on(answer, tmp_path, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with misbehaving_api.serve(Faults(latency_s=0.15)) as api:

        def interrupt():
            while len(api.calls) < 40:
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(
            Stopped, match="interrupted; what was answered is kept, and the same command resumes"
        ):
            answer(api.url)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        asked = len(api.calls)
        assert 40 <= asked < COUNT
        assert len(statuses(tmp_path / "generate")) == asked
        counts = answer(api.url)
        assert len(api.calls) == counts.rows_out == COUNT + 8
    assert counts.info.cost_usd == pytest.approx((COUNT + 8) * (9 * 10 + 4 * 100) / 1e6)


def test_a_second_interrupt_ends_at_once(answer):
    before = signal.getsignal(signal.SIGINT)
    with misbehaving_api.serve(Faults(latency_s=10)) as api:

        def interrupt():
            while not api.calls:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            while (
                signal.getsignal(signal.SIGINT) is not before
            ):  # until the first one was heard: two that wait are one
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            answer(api.url)
        assert time.monotonic() - began < 8
