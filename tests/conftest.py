"""What several test modules share: one Ray cluster, one vLLM server, small prompt files, a job with the fake teacher."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from engine.spec import JobSpec

REPOSITORY = Path(__file__).parents[1]
KEY = "a-key-for-tests"


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One local Ray cluster for the whole session; its processes guard every Serve route with KEY."""
    from engine.backends import bearer_guard, ray_cluster

    with ray_cluster.connected(None, shared=tmp_path_factory.getbasetemp(), environment=bearer_guard.key_environment(KEY), num_cpus=4):
        yield


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory):
    """Address of one vLLM server of the quickstart's teacher ("quickstart") for both API protocols, in float32; it wants no key."""
    from engine.backends.vllm_engine import engine_environment

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(REPOSITORY / "jobs/quickstart/teacher"),
        "--served-model-name", "quickstart", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192", "--max-num-seqs", "32", "--kv-cache-memory-bytes", str(2**28),
        "--generation-config", "vllm", "--disable-log-stats",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=os.environ | engine_environment(1, "cpu"), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while not _healthy(f"http://127.0.0.1:{port}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the vLLM server did not start: {log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def write_prompts(path: Path, count: int, first: int = 0) -> Path:
    rows = [{"prompt": f"What is {n} plus {n + 1}? #### {2 * n + 1}", "reference": str(2 * n + 1)} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def fake_job(tmp_path):
    """Build a job whose teacher repeats the prompt's words; its model folder is never read."""

    def build(count: int = 40, **changes) -> JobSpec:
        job = {
            "name": "fake", "task": "math", "device": "cpu",
            "prompts": {
                "train": str(write_prompts(tmp_path / "train.jsonl", count)),
                "validation": str(write_prompts(tmp_path / "validation.jsonl", 8, first=1000)),
            },
            "generate": {"teachers": [{"name": "t", "kind": "fake", "model": "fake"}], "sampling": {"temperature": 0.0}},
            "train": {"student": str(REPOSITORY / "jobs/quickstart/student"), "init": "random", "block_tokens": 256,
                      "tokenizer": str(REPOSITORY / "jobs/quickstart/teacher")},
            "loadtest": {"models": []},
        }
        for name, block in changes.items():
            job[name] = job[name] | block if isinstance(block, dict) and isinstance(job.get(name), dict) else block
        return JobSpec.model_validate(job)

    return build
