"""`distill serve` as its user meets it: it starts, is updated, and ends in order. Minutes, on real
engines."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
import pytest
from conftest import KEY, REPOSITORY, SHORT_QUICKSTART, distill

from benchmarks.serving.stand_ins import free_port

pytestmark = pytest.mark.proof
QUESTION = {"role": "user", "content": "Mia has 47 apples and buys 35 more."}


@pytest.fixture
def served(quickstart_run, tmp_path):
    """The command on the session's run, with a Ray of its own; gives (process, lines, the
    command's arguments, url)."""
    port = free_port()
    sets = [*SHORT_QUICKSTART, f"serve.port={port}", "serve.api_key_env=DISTILL_TEST_KEY"]
    arguments = [REPOSITORY / "jobs/quickstart.yaml", "--runs", quickstart_run.root.parent]
    for each in sets:
        arguments += ["--set", each]
    command = [sys.executable, "-m", "engine.cli", "serve", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {KEY}"}
    deadline = time.monotonic() + 240
    while not _answers(url, headers):
        assert process.poll() is None, lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)
    yield process, lines, arguments, url
    process.kill()


def _answers(url, headers):
    try:
        return httpx.get(f"{url}/health", headers=headers).is_success
    except httpx.TransportError:
        return False


def test_an_update_loses_no_request_and_sigterm_ends_it_in_order(served, record_property):
    process, lines, arguments, url = served
    statuses, done = Counter(), threading.Event()

    def ask():
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            while not done.is_set():
                body = {"model": "student", "messages": [QUESTION], "max_tokens": 24}
                statuses[client.post("/v1/chat/completions", json=body).status_code] += 1

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    updated = distill("serve", *arguments, "--update")
    done.set()
    for thread in asking:
        thread.join()
    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert "student is the newest now" in updated.stdout
    record_property("requests", statuses.total())
    assert statuses.keys() == {200}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    said = "".join(lines)
    assert "leaving: what is open is answered" in said
    assert "Traceback" not in said
