"""`distill serve` as its user meets it: it starts, is updated, and ends in order. Minutes, on real
engines."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import pytest
from conftest import KEY, REPOSITORY, SHORT_QUICKSTART, distill

from benchmarks.serving.stand_ins import free_port

pytestmark = pytest.mark.proof
TEACHER = REPOSITORY / "jobs/quickstart/teacher"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUESTION = {"role": "user", "content": "Mia has 47 apples and buys 35 more."}


class Served:
    """`distill serve ARGUMENTS` with a Ray of its own, from its first answer to the end of the
    block."""

    def __init__(self, *arguments, sets=()):
        port = free_port()
        self.arguments = [*map(str, arguments)]
        for each in (*sets, f"serve.port={port}", "serve.api_key_env=DISTILL_TEST_KEY"):
            self.arguments += ["--set", each]
        self.url = f"http://127.0.0.1:{port}"
        self.lines = []

    def __enter__(self):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli", "serve", *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | {"DISTILL_TEST_KEY": KEY},
        )
        reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout))
        reader.daemon = True
        reader.start()
        deadline = time.monotonic() + 240
        while not _answers(self.url, HEADERS):
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self.process.kill()

    def client(self):
        return httpx.Client(base_url=self.url, headers=HEADERS, timeout=120)

    def leave(self):
        """SIGTERM, and all that it said."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        said = "".join(self.lines)
        assert "leaving: what is open is answered" in said
        assert "Traceback" not in said


@contextmanager
def asking(served, clients, **body):
    """That many ask without a pause until the block ends; gives the count of HTTP statuses."""
    statuses, done = Counter(), threading.Event()

    def ask():
        with served.client() as client:
            while not done.is_set():
                asked = {"messages": [QUESTION]} | body
                statuses[client.post("/v1/chat/completions", json=asked).status_code] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _answers(url, headers):
    try:
        return httpx.get(f"{url}/health", headers=headers).is_success
    except httpx.TransportError:
        return False


def test_an_update_loses_no_request_and_sigterm_ends_it_in_order(quickstart_run, record_property):
    job = [REPOSITORY / "jobs/quickstart.yaml", "--runs", quickstart_run.root.parent]
    with Served(*job, sets=SHORT_QUICKSTART) as served:
        with asking(served, 3, model="student", max_tokens=24) as statuses:
            updated = distill("serve", *served.arguments, "--update")
        assert updated.returncode == 0, updated.stdout + updated.stderr
        assert "student is the newest now" in updated.stdout
        record_property("requests", statuses.total())
        assert statuses.keys() == {200}
        served.leave()


def replicas(served):
    with served.client() as client:
        page = client.get("/metrics").text
    return int(float(re.search(r"^distill_replicas\{.*\} (.*)$", page, re.MULTILINE)[1]))


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.5)


def test_real_replicas_come_with_the_load_and_leave_again(tmp_path, record_property):
    sets = ["device=cpu", "serve.replicas=[1, 2]", "serve.target_open=4", "serve.kv_cache_gib=0.25"]
    sets += ["serve.upscale_delay_s=2", "serve.downscale_delay_s=5"]
    with Served("--model", TEACHER, "--runs", tmp_path, sets=sets) as served:
        assert replicas(served) == 1
        with asking(served, 12, model="teacher", max_tokens=200) as busy:
            wait_for(lambda: replicas(served) == 2)
        with asking(served, 1, model="teacher", max_tokens=200) as calm:
            wait_for(lambda: replicas(served) == 1)
        record_property("requests", busy.total() + calm.total())
        assert busy.keys() == calm.keys() == {200}
        served.leave()


def adapter(folder, seed):
    """An adapter of random weights for the quickstart's teacher, as peft leaves it; returns what
    transformers answers without and with it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32)
    config = LoraConfig(
        r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    own = answer_of(base)
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(folder)
    return own, answer_of(adapted)


def answer_of(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    prompt = tokenizer.apply_chat_template(
        [QUESTION], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_adapters_answer_by_their_names_beside_their_base(tmp_path):
    expected = {}
    for seed, name in enumerate(("one", "two")):
        expected["teacher"], expected[name] = adapter(tmp_path / name, seed)
    assert len(set(expected.values())) == 3
    named = f"one: {tmp_path}/one, two: {tmp_path}/two"
    sets = ["device=cpu", "serve.dtype=float32", f"serve.adapters={{{named}}}"]
    with Served("--model", TEACHER, "--runs", tmp_path, sets=sets) as served:
        with served.client() as client:
            cards = client.get("/v1/models").json()["data"]
            parents = {card["id"]: card["parent"] for card in cards}
            assert parents == {"teacher": None, "one": "teacher", "two": "teacher"}
            told = {}
            for name in parents:
                body = {"model": name, "messages": [QUESTION], "max_tokens": 24, "temperature": 0}
                reply = client.post("/v1/chat/completions", json=body).json()
                told[name] = reply["choices"][0]["message"]["content"]
        assert told == expected
        served.leave()
