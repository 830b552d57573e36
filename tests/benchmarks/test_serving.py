"""The light client counts what a server really did; the servers that are compared are started
alike."""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import pytest
from conftest import REPOSITORY

from benchmarks.serving import ingress, load, servers, speed
from benchmarks.serving.speed import Timing
from benchmarks.serving.stand_ins import free_port
from engine.loadgen.samples import Level, Sample, Watch

TOKENS, FIRST_S, STEP_S = 5, 0.2, 0.01
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(content):
    return chunk(b"data: " + json.dumps(content).encode() + b"\n\n")


def token(text, reason=None):
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]})


END = (
    token("end", "stop")
    + event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": TOKENS}})
    + chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Streamer:
    """Answers each request as its prompt says; counts prompts, and requests under way."""

    def __init__(self):
        self.prompts = Counter()
        self.bodies = []
        self.open = self.most_open = 0

    async def serve(self, reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            body = json.loads(await reader.readexactly(length))
            prompt = body["messages"][0]["content"]
            self.prompts[prompt] += 1
            self.bodies.append(body)
            self.open += 1
            self.most_open = max(self.open, self.most_open)
            await getattr(self, prompt)(writer)
            self.open -= 1

    async def plain(self, writer):
        writer.write(HEAD + token(""))  # the role, without text
        await asyncio.sleep(FIRST_S)
        for _ in range(TOKENS - 1):
            writer.write(token("word"))
            await asyncio.sleep(STEP_S)
        writer.write(END[:-3])
        await asyncio.sleep(STEP_S)
        writer.write(END[-3:])

    async def cut(self, writer):
        writer.write(HEAD + token("word"))
        await writer.drain()
        writer.transport.abort()

    async def busy(self, writer):
        writer.write(BUSY)

    async def fault(self, writer):
        writer.write(HEAD + token("word"))
        writer.write(event({"error": {"message": "the replica left"}}) + b"0\r\n\r\n")

    async def unfinished(self, writer):
        writer.write(HEAD + token("word") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@pytest.fixture
def streamer():
    """A Streamer, and its URL."""
    loop, made = asyncio.new_event_loop(), Streamer()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start():
        return await asyncio.start_server(swallow_leaving, "127.0.0.1", 0)

    async def swallow_leaving(reader, writer):
        try:
            await made.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


@pytest.fixture
def drive(streamer, tmp_path):
    """Run the client with these prompts; returns its summary."""

    def run(*prompts, arguments=("--concurrency", "4"), seconds=0.8):
        lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
        command = [sys.executable, "-m", "benchmarks.serving.load", streamer.url, "--model", "m"]
        command += [*arguments, "--seconds", str(seconds), "--warmup", "0.2"]
        command += ["--prompts", str(tmp_path / "prompts.jsonl"), "--body", '{"ignore_eos": true}']
        command += ["--json", str(tmp_path / "load.json")]
        subprocess.run(command, check=True, cwd=REPOSITORY, timeout=60)
        return json.loads((tmp_path / "load.json").read_text())

    return run


def test_tokens_and_times_are_what_the_server_did(drive, streamer):
    seen = drive("plain")
    assert seen["statuses"] == {"ok": seen["requests"]}
    assert seen["failed"] == 0
    assert seen["tokens_in_all"] == seen["events_in_all"] == TOKENS * streamer.prompts["plain"]
    assert 1000 * FIRST_S - 5 <= seen["ttft_ms"]["p50"] <= 1000 * FIRST_S + 300
    assert seen["e2e_ms"]["p50"] >= seen["ttft_ms"]["p50"] + 1000 * STEP_S * (TOKENS - 1)
    assert seen["tok_s"] == pytest.approx(TOKENS * seen["requests_s"])
    assert 0 < seen["requests_s"] <= 4 / FIRST_S
    assert 0 < seen["client_cores"] < 1
    assert streamer.most_open == 4
    body = streamer.bodies[0]
    assert (body["model"], body["ignore_eos"], body["stream"]) == ("m", True, True)


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("cut", "cut_stream"),
        ("busy", "http_429"),
        ("fault", "error_event"),
        ("unfinished", "cut_stream"),
    ],
)
def test_what_failed_took_for_ever(drive, prompt, status):
    seen = drive(prompt)
    assert seen["statuses"] == {status: seen["requests"]}
    assert seen["failed"] == seen["requests"] > 0
    assert seen["ttft_ms"]["p50"] == seen["e2e_ms"]["p50"] == float("inf")
    assert seen["tok_s"] == seen["requests_s"] == 0
    assert (seen["refused_ms"] is not None) == (prompt == "busy")


def test_the_failed_do_not_hide_among_the_others(drive, streamer):
    seen = drive("plain", "cut", "plain")
    assert set(seen["statuses"]) == {"ok", "cut_stream"}
    assert seen["failed"] == seen["statuses"]["cut_stream"]
    assert seen["e2e_ms"]["p99"] == float("inf")
    assert seen["tokens_in_all"] == TOKENS * streamer.prompts["plain"]


def test_arrivals_wait_for_nobody(drive, streamer):
    seen = drive("plain", arguments=("--rate", "60"))
    assert seen["failed"] == 0
    assert 25 <= seen["requests"] <= 75  # 48 on average
    assert streamer.most_open > 4  # 15 on average


def test_only_what_came_in_the_window_counts():
    samples = []
    for first_s, last_s in ((5.0, 15.0), (12.0, 14.0), (19.0, 23.0), (2.0, 9.0)):
        at_ms = 1000 * (first_s - 11)  # the window begins at 10
        times = {"ttft_ms": 1000.0, "last_ms": 1000 * (last_s - first_s + 1)}
        samples.append(Sample(at_ms, at_ms, "ok", events=40, output_tokens=40, **times))
    watch = Watch(0, 2.5, 10.0, (0.0,), 0.0, 0.0)
    found = load.summary(Level("closed", 1, None, 10.0, 0.0, 0.0, 0, None, samples, [watch]))
    assert found["tok_s"] == pytest.approx((20 + 40 + 10) / 10)
    assert found["requests_s"] == pytest.approx(1.75 / 10)
    assert found["requests"] == 2  # that were due in it: at 11 and 18
    assert found["ttft_ms"]["p50"] == 1000
    assert found["client_cores"] == 0.25


def row(tok_s, ttft_ms, e2e_ms, us, failed=0):
    return {
        "tok_s": tok_s,
        "failed": failed,
        "ttft_ms": {"p50": ttft_ms},
        "e2e_ms": {"p50": e2e_ms},
        "beside_engine_us": us,
    }


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        (row(97, 11, 105, 130), set()),
        (row(96, 11, 105, 130), {"tok_s"}),
        (row(97, 11, 105, 131), {"processor"}),
        (row(200, 1, 1, 1, failed=1), {"tok_s"}),
    ],
)
def test_a_ratio_is_the_median_of_the_rounds(ours, missed):
    own, off = row(100, 10, 100, 100), row(1, 1000, 1000, 1000)
    found = {"own": [own] * 3, "ours": [ours, off, ours]}
    ratios = speed.judged({"equal_c32": found})
    wrong = {
        name.split("_equal")[0].split("_beside")[0] for name, r in ratios.items() if not r["ok"]
    }
    assert wrong == missed


def test_time_to_the_first_token_is_bounded_but_at_saturation():
    slow = {"own": [row(100, 10, 100, 100)], "ours": [row(100, 11.5, 104, 100)]}
    loads = [each.name for each in (*speed.closed_loads(), *speed.poisson_loads(60.0))]
    ratios = speed.judged(dict.fromkeys(loads, slow))
    missed = {name for name, ratio in ratios.items() if not ratio["ok"]}
    assert missed == {
        *(f"ttft_{kind}_c{level}" for kind in ("equal", "natural") for level in (1, 8)),
        "ttft_poisson_third",
    }


@pytest.mark.parametrize(
    ("ratios", "is_open"),
    [
        ([1.1] * 3, True),  # too few to tell
        ([1.1] * 6, False),
        ([0.9] * 6, False),
        ([0.9, 1.1] * 10, True),
        ([0.9] * 4 + [1.1] * 16, False),
    ],
)
def test_a_ratio_is_open_while_its_interval_holds_the_bound(ratios, is_open):
    rounds = {"own": [row(100, 1, 1, 1)] * len(ratios), "ours": []}
    rounds["ours"] = [row(100 * ratio, 1, 1, 1) for ratio in ratios]
    tok_s, *shown = speed.ratios_of("equal_c32", rounds)[:3]
    assert tok_s.is_open(rounds) is is_open
    assert not any(each.is_open(rounds) for each in shown)


def test_what_is_open_gets_more_rounds_in_turns_until_it_is_not(tmp_path, monkeypatch):
    asked = []

    def measured(server, other, load, timing, number, idle, work):
        asked.append((load.name, number, server.name))
        swings = load.name == "equal_c1" and number < 9 and number % 2
        return row(50 if server.name == "ours" and swings else 100, 1, 1, 1)

    monkeypatch.setattr(speed, "measure", measured)
    monkeypatch.setattr(speed, "warm_up", lambda *_: None)
    monkeypatch.setattr(speed, "background", lambda _: {})
    monkeypatch.setattr(speed, "tell", lambda *_: None)
    pair = [servers.Server(name, "", None) for name in ("own", "ours")]
    loads = [load for load in speed.closed_loads() if load.name in ("equal_c1", "equal_c8")]
    turns = speed.Turns(tuple(pair), Timing(7, 1.0), tmp_path)
    turns.take(loads)
    assert asked[:4] == [(n, 0, s) for n in ("equal_c1", "equal_c8") for s in ("own", "ours")]
    assert asked[4:6] == [("equal_c1", 1, "ours"), ("equal_c1", 1, "own")]
    turns.look_closer(loads, 0.0)
    assert len(turns.rows["equal_c1"]["ours"]) == 7
    turns.look_closer(loads, 60.0)
    assert len(turns.rows["equal_c8"]["ours"]) == 7
    found = speed.judged(turns.rows)["tok_s_equal_c1"]
    assert (found["value"], found["ok"]) == (1.0, True)
    assert 9 < found["rounds"] < 40


def test_the_engine_is_not_counted_beside_itself():
    before = {1: ("engine.cli", 1.0), 2: ("VLLM::EngineCore", 5.0)}
    after = {1: ("engine.cli", 1.5), 2: ("VLLM::EngineCore", 9.0), 3: ("ray::IDLE", 0.25)}
    seconds = servers.spent(before, after)
    assert seconds == {"engine.cli": 0.5, "VLLM::EngineCore": 4.0, "ray::IDLE": 0.25}
    assert servers.beside_engine(seconds) == 0.75
    assert servers.has_engine(after)
    assert not servers.has_engine({1: ("engine.cli", 1.0)})


SERVER = """
import http.server, subprocess, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def test_a_server_leaves_nothing_behind(tmp_path):
    port = free_port()
    start = servers.Start("one", [sys.executable, "-c", SERVER, str(port)], port, tmp_path, {})
    with servers.running(start, tmp_path) as server:
        assert server.url == f"http://127.0.0.1:{port}/v1"
        running = [server.process, *server.process.children(recursive=True)]
        assert server.processor_s().keys() == {each.pid for each in running}
    assert len(running) == 2
    assert not any(each.is_running() for each in running)


def test_a_server_that_does_not_come_says_why(tmp_path):
    start = servers.Start("one", [sys.executable, "-c", "exit('no room')"], 1, tmp_path, {})
    with (
        pytest.raises(RuntimeError, match=r"(?s)one ended.*no room"),
        servers.running(start, tmp_path),
    ):
        pass


@pytest.mark.slow
def test_vllms_own_server_gets_the_arguments_that_ours_has():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from engine.backends.vllm_server import server_arguments
    from engine.job.jobfile import load_serve
    from engine.stages.serve import models_in

    _, *words = servers.own().command[2:]
    own = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(words))
    command = servers.ours(REPOSITORY).command
    sets = [after for before, after in itertools.pairwise(command) if before == "--set"]
    only = load_serve(sets)
    (served,) = models_in([servers.TEACHER], only.serve, only.device).values()
    ours = vars(server_arguments(replace(served, compiled=True)))
    differ = {name for name in own.keys() | ours.keys() if own.get(name) != ours.get(name)}
    assert differ == {"host", "port", "allowed_origins", "disable_fastapi_docs"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "ratios"),
    [
        (ingress.added_latency, 4),
        (ingress.two_replicas, 1),
        (ingress.overload, 2),
    ],
)
def test_the_parts_without_a_model_run(part, ratios, tmp_path, monkeypatch):
    # So many that some are refused however slowly a busy machine sends them.
    monkeypatch.setattr(ingress, "OVERLOAD", 20)
    found, raw = part(Timing(1, 0.4, 0.1), tmp_path)
    assert len(found) == ratios
    assert all(ratio["value"] < float("inf") for ratio in found.values())
    assert raw
