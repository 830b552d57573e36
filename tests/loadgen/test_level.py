"""Levels against real servers: what is sent when, and what becomes of it. A busy machine makes
everything later, never earlier: times are bounded from below."""

import asyncio
import itertools
import socket
import ssl
import subprocess
import time
from collections import Counter

import numpy as np
import pytest
from doubles.clients import until
from doubles.raw_server import HEAD, LAST, PLAIN, framed, plain, raw_server
from doubles.sse import END, ROLE, text

from engine.errors import StageError
from engine.loadgen.distributions import Distribution
from engine.loadgen.generator import run_share
from engine.loadgen.level import run_level
from engine.loadgen.local import spread_locally
from engine.loadgen.plans import Closed, Open, Plan, Replay, Sessions
from engine.loadgen.shares import deal
from engine.loadgen.target import Shape, Target
from engine.loadgen.traces import Trace

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(40)]
SHAPE = Shape(timeout_s=5.0)


def load(server, wanted, seconds=0.5, *, shape=SHAPE, prompts=PROMPTS, key=None, tls=True, **how):
    plan = Plan(wanted, seconds, how.pop("warmup_s", 0.0), seed=how.pop("seed", 3))
    target = Target(server.url, "student", api_key=key, verify_tls=tls)
    return run_level(target, shape, prompts, plan, **how)


def statuses(level):
    return Counter(sample.status for sample in level.samples)


def asked(server):
    return [request.body["messages"][-1]["content"] for request in server.requests]


def test_times_are_those_of_the_server():
    first_s, step_s, tokens = 0.10, 0.05, 5

    async def answer(request, writer):
        writer.write(HEAD + framed(ROLE))  # at once, and says nothing
        await asyncio.sleep(first_s)
        for _ in range(tokens):
            writer.write(framed(text("word ")))
            await asyncio.sleep(step_s)
        writer.write(framed(b"".join(END)) + LAST)

    with raw_server(answer) as server:
        level = load(server, Closed(2))
    assert statuses(level) == {"ok": len(level.samples)}
    for sample in level.samples:
        assert 0 <= sample.first_byte_ms <= sample.ttft_ms
        assert sample.ttft_ms >= 1000 * first_s
        assert sample.last_ms - sample.ttft_ms >= 1000 * step_s * (tokens - 1) - 1
        assert sample.e2e_ms - sample.last_ms >= 1000 * step_s - 1
        assert sample.sent_ms >= sample.intended_ms
        assert (sample.events, sample.text_chars) == (tokens, 5 * tokens)
        assert (sample.prompt_tokens, sample.output_tokens) == (7, 3)
        assert (sample.finish_reason, sample.oddities, sample.error) == ("stop", "", None)
    fastest = min(sample.ttft_ms for sample in level.samples)
    assert fastest < 1000 * (first_s + step_s)
    assert min(sample.first_byte_ms for sample in level.samples) < 1000 * first_s


def test_a_closed_loop_keeps_so_many_in_flight_and_not_more():
    async def answer(request, writer):
        await asyncio.sleep(0.1)
        writer.write(PLAIN)

    with raw_server(answer) as server:
        level = load(server, Closed(4), 0.6, warmup_s=0.3)
    assert server.most_open == server.connections == 4  # each is used again
    assert 4 < len(level.samples) <= 36
    edges = []
    for sample in level.samples:
        edges += [(sample.sent_ms, 1), (sample.intended_ms + sample.e2e_ms, -1)]
    depth = list(itertools.accumulate(change for _, change in sorted(edges)))
    assert max(depth) == 4
    early = [sample for sample in level.samples if sample.intended_ms < 0]
    assert early
    assert (level.kind, level.concurrency, level.rate, level.scheduled) == ("closed", 4, None, None)


def test_warm_up_has_other_prompts_and_all_samples_are_kept():
    with raw_server() as server:
        level = load(server, Open(60.0, "constant"), 0.5, warmup_s=0.5)
    assert len(level.samples) == len(server.requests) == 60
    assert level.scheduled == 30
    warm = {sample.prompt for sample in level.samples if sample.intended_ms < 0}
    timed = {sample.prompt for sample in level.samples if sample.intended_ms >= 0}
    assert warm
    assert not warm & timed
    sent = sorted(f"question {sample.prompt}" for sample in level.samples)
    assert sent == sorted(asked(server))


def test_arrivals_wait_for_nobody():
    async def answer(request, writer):
        await asyncio.sleep(0.4)
        writer.write(PLAIN)

    with raw_server(answer) as server:
        level = load(server, Open(40.0, "constant"), 0.5)
    assert len(level.samples) == 20
    assert server.most_open >= 10
    assert [sample.intended_ms for sample in level.samples] == pytest.approx(
        [25 * place for place in range(20)]
    )


def test_a_stall_is_charged_to_each_request_that_was_due_in_it():
    """Coordinated omission: a client that waits for the stalled answer would see one slow request
    in place of fourteen. Those that are due in the first fifth of a second of it do not count here:
    it begins when the first request comes, which may be late."""
    began = []

    async def answer(request, writer):
        began.append(time.monotonic())
        at_s = time.monotonic() - began[0]
        if 0.3 < at_s < 1.0:
            await asyncio.sleep(1.0 - at_s)
        writer.write(PLAIN)

    with raw_server(answer) as server:
        level = load(server, Open(20.0, "constant"), 1.2)
    due = [sample for sample in level.samples if 495 < sample.intended_ms < 955]
    assert (len(level.samples), len(due)) == (24, 10)
    assert all(sample.intended_ms + sample.ttft_ms >= 998 for sample in due)


def test_latency_counts_from_the_intended_moment_however_late_the_client_was():
    blocked = []

    def block(progress):
        if not blocked:
            blocked.append(progress)
            time.sleep(0.4)

    with raw_server() as server:
        level = load(server, Open(50.0, "constant"), 1.6, tell=block)
    latest = max(level.samples, key=lambda sample: sample.sent_ms - sample.intended_ms)
    assert latest.sent_ms - latest.intended_ms > 250
    assert latest.ttft_ms > 250  # though the server answered at once
    (watch,) = level.watches
    assert max(watch.loop_lag_ms) > 250
    assert 0.5 < blocked[0].at_s < 1.6
    assert blocked[0].sent >= blocked[0].ended > 10


def test_the_same_seed_sends_the_same_prompts_at_the_same_times():
    seen = []
    for _ in range(2):
        with raw_server() as server:
            level = load(server, Open(50.0))
        seen.append([(sample.intended_ms, sample.prompt) for sample in level.samples])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_send_one_load(processes):
    with raw_server() as server:
        level = load(
            server, Open(60.0), 1.0, warmup_s=0.2, processes=processes, spread=spread_locally
        )
    shares = deal(Target(server.url, "m"), SHAPE, PROMPTS, Plan(Open(60.0), 1.0, 0.2, 3), 1)
    due = shares[0].work
    assert [sample.intended_ms for sample in level.samples] == pytest.approx(1000 * due.times_s)
    assert [sample.prompt for sample in level.samples] == due.prompts.tolist()
    assert statuses(level) == {"ok": len(server.requests)}
    assert {sample.process for sample in level.samples} == set(range(processes))
    assert [watch.process for watch in level.watches] == list(range(processes))
    assert level.scheduled == np.count_nonzero(due.times_s >= 0)
    assert abs(level.started_s - time.time()) < 60


def test_several_processes_are_the_default_for_several():
    with raw_server() as server:
        level = load(server, Closed(3), 0.3, processes=2)
    assert server.most_open == 3
    assert [watch.process for watch in level.watches] == [0, 1]


def test_a_process_that_ends_early_is_an_error_with_its_words(monkeypatch):
    monkeypatch.setenv("UV_NOT_THERE", "1")
    target = Target("http://127.0.0.1:1/v1", "m")
    (share,) = deal(target, SHAPE, PROMPTS, Plan(Closed(1), 0.1))
    object.__setattr__(share, "work", "no work at all")
    with pytest.raises(StageError, match=r"(?s)ended with status 1.*KeyError"):
        spread_locally([share])


async def cut(request, writer):
    writer.write(HEAD + framed(ROLE) + framed(text("a")))
    await writer.drain()
    writer.transport.abort()


async def refuse(request, writer):
    body = b'{"error": {"message": "too many, says key-of-mine"}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)


async def fail(request, writer):
    writer.write(HEAD + framed(b'data: {"error": {"message": "the replica left"}}\n\n') + LAST)


async def hang(request, writer):
    writer.write(HEAD + framed(ROLE) + framed(text("a")))
    await asyncio.sleep(60)


async def say_nothing(request, writer):
    await asyncio.sleep(60)


async def close(request, writer):
    writer.transport.abort()


async def page(request, writer):
    body = b"<title>Sign in</title>"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (cut, "cut_stream", "2 chunks had come"),
        (refuse, "http_429", "too many, says ***"),
        (fail, "error_event", "the replica left"),
        (hang, "timeout", "no end within 0.5 s; 2 chunks had come"),
        (say_nothing, "timeout", "no end within 0.5 s"),
        (close, "connection", "clos"),
        (page, "not_a_stream", "answered text/html: Sign in"),
    ],
)
def test_each_fault_is_a_status_with_its_words_and_has_no_latency(answer, status, words):
    async def sometimes(request, writer):
        await (answer if request.number == 0 else plain)(request, writer)

    shape = Shape(timeout_s=0.5)
    with raw_server(sometimes) as server:
        level = load(server, Open(10.0, "constant"), shape=shape, key="key-of-mine")
    assert statuses(level) == {"ok": 4, status: 1}
    assert len(server.requests) == 5  # nothing is sent again
    (failed,) = [sample for sample in level.samples if sample.status != "ok"]
    assert words in failed.error
    assert failed.ttft_ms is failed.last_ms is failed.e2e_ms is None


def test_a_server_sees_that_nobody_waits_any_more():
    with raw_server(hang) as server:
        load(server, Closed(1), 0.2, shape=Shape(timeout_s=0.1))
        until(lambda: server.open <= 1)
    with raw_server(plain) as server:
        load(server, Closed(1), 0.2)
        assert server.left.wait(5)


def test_who_hangs_up_is_seen_while_an_answer_is_under_way():
    left = []

    async def answer(request, writer):
        writer.write(HEAD)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if writer.transport.is_closing():
                left.append(request.number)
                raise ConnectionResetError
            writer.write(framed(text("a")))

    with raw_server(answer) as server:
        load(server, Open(5.0, "constant"), 0.2, shape=Shape(timeout_s=0.2))
        assert server.left.wait(5)
    assert left == [0]


def test_a_slot_that_is_refused_waits_a_little():
    with raw_server(refuse) as server:
        level = load(server, Closed(2), 0.55)
    assert 4 <= len(level.samples) <= 12


def test_a_server_that_is_not_there_is_a_failure_and_is_not_flooded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = Target(f"http://127.0.0.1:{port}/v1", "m")
    level = run_level(target, SHAPE, PROMPTS, Plan(Closed(2), 0.5))
    assert statuses(level) == {"connection": len(level.samples)}
    assert 2 <= len(level.samples) <= 12
    assert "refused" in level.samples[0].error


def test_a_host_that_nobody_knows_is_a_failure():
    target = Target("http://nowhere.invalid/v1", "m")
    level = run_level(target, Shape(timeout_s=5), PROMPTS, Plan(Closed(1), 0.2))
    assert set(statuses(level)) <= {"connection", "timeout"}


async def once(request, writer):
    """Answers, and closes a moment later without a word."""
    writer.write(PLAIN)
    await writer.drain()
    writer.transport.abort()


def test_a_connection_that_the_server_closed_between_requests_is_opened_again():
    """The server closes exactly when the next request comes, so that the client cannot know."""

    async def answer(request, writer):
        if request.number == 1:
            writer.transport.abort()
            return
        writer.write(PLAIN)

    with raw_server(answer) as server:
        level = load(server, Open(10.0, "constant"), 0.4)
    assert statuses(level) == {"ok": 4}
    assert len(server.requests) == 5
    assert server.connections == 2
    odd = [sample.oddities for sample in level.samples]
    assert sorted(odd) == ["", "", "", "reconnected:1"]


def test_a_second_close_is_a_failure():
    async def answer(request, writer):
        if request.number in (1, 2):
            writer.transport.abort()
            return
        writer.write(PLAIN)

    with raw_server(answer) as server:
        level = load(server, Open(10.0, "constant"), 0.4)
    assert statuses(level) == {"ok": 3, "connection": 1}
    assert len(server.requests) == 5


def test_a_connection_that_is_seen_to_be_closed_is_not_used():
    with raw_server(once) as server:
        level = load(server, Open(10.0, "constant"), 0.4)
    assert statuses(level) == {"ok": 4}
    assert {sample.oddities for sample in level.samples} == {""}
    assert server.connections == 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A context of a server with a certificate that nobody signed, and the certificate's file."""
    folder = tmp_path_factory.mktemp("tls")
    key, signed = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(signed)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    return context, signed


def test_tls_is_spoken_and_certificates_are_checked(certificate):
    context, signed = certificate
    with raw_server(plain, tls=context) as server:
        refused = load(server, Closed(1), 0.2)
        trusting = load(server, Closed(1), 0.3, tls=False)
        target = Target(server.url, "m", ca_file=str(signed))
        known = run_level(target, SHAPE, PROMPTS, Plan(Closed(1), 0.3))
        wrong = Target(server.url.replace("https", "http"), "m")
        plainly = run_level(wrong, Shape(timeout_s=2), PROMPTS, Plan(Closed(1), 0.2))
    assert set(statuses(refused)) == {"connection"}
    assert "certificate verify failed" in refused.samples[0].error
    assert set(statuses(trusting)) == set(statuses(known)) == {"ok"}
    assert not set(statuses(plainly)) & {"ok"}


def test_a_plain_server_is_told_from_one_that_speaks_tls():
    with raw_server() as server:
        target = Target(server.url.replace("http", "https"), "m")
        level = run_level(target, Shape(timeout_s=2), PROMPTS, Plan(Closed(1), 0.2))
    assert not set(statuses(level)) & {"ok"}


def test_a_trace_is_replayed_with_its_lengths():
    trace = Trace(np.array([0.0, 0.1, 0.2]), np.array([13, 26, 39]), np.array([5, 6, 7]))
    with raw_server() as server:
        level = load(server, Replay(trace), 1.0)
    assert [sample.intended_ms for sample in level.samples] == pytest.approx([0, 100, 200])
    assert [request.body["max_tokens"] for request in server.requests] == [5, 6, 7]
    words = [len(request.body["messages"][-1]["content"].split()) for request in server.requests]
    assert words == [10, 20, 30]
    assert (level.kind, level.scheduled) == ("trace", 3)


def test_a_user_goes_on_from_the_answers_so_far():
    turns, think_s = 3, 0.05

    async def answer(request, writer):
        said = f"answer {request.number}"
        writer.write(HEAD + framed(text(said)) + framed(b"".join(END)) + LAST)

    wanted = Sessions(1, Distribution(mean=turns), Distribution(mean=think_s))
    system = [{"role": "system", "content": "s"}]
    with raw_server(answer) as server:
        level = load(server, wanted, 1.2, prompts=[system + prompt for prompt in PROMPTS])
    assert (level.kind, level.concurrency, level.scheduled) == ("sessions", 1, None)
    assert len(level.samples) >= 2 * turns
    places = [(sample.session, sample.turn) for sample in level.samples]
    assert places[: 2 * turns] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    first, second, third, anew, *_ = [request.body["messages"] for request in server.requests]
    assert [each["role"] for each in first] == ["system", "user"]
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": "answer 0"}
    assert third[: len(second)] == second
    assert [each["role"] for each in third[2:]] == ["assistant", "user", "assistant", "user"]
    assert len(anew) == 2
    for earlier, later in itertools.pairwise(level.samples):
        ended_ms = earlier.intended_ms + earlier.e2e_ms
        assert later.intended_ms == pytest.approx(ended_ms + 1000 * think_s)


def test_a_session_ends_with_a_failure():
    async def answer(request, writer):
        await (refuse if request.number == 1 else plain)(request, writer)

    wanted = Sessions(1, Distribution(mean=3), Distribution(mean=0.02))
    with raw_server(answer) as server:
        level = load(server, wanted, 0.6)
    places = [(sample.session, sample.turn, sample.status) for sample in level.samples[:3]]
    assert places == [(0, 0, "ok"), (0, 1, "http_429"), (1, 0, "ok")]
    gap_ms = level.samples[2].intended_ms - level.samples[1].intended_ms
    assert gap_ms >= 100


def test_users_do_the_same_in_however_many_processes():
    wanted = Sessions(4, Distribution("uniform", 3, 0.4), Distribution("exponential", 0.05))
    seen = []
    for processes in (1, 2):
        with raw_server() as server:
            level = load(server, wanted, 0.4, processes=processes)
        begun = {}
        for sample in level.samples:
            begun.setdefault(sample.session % 4, sample)
        seen.append({user: (each.intended_ms, each.prompt) for user, each in begun.items()})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4


def test_lengths_are_drawn_for_each_request():
    shape = Shape(output_tokens=Distribution("uniform", 50, 0.5), timeout_s=5)
    with raw_server() as server:
        load(server, Closed(2), 0.3, shape=shape)
    assert len({request.body["max_tokens"] for request in server.requests}) > 3


def test_a_share_begins_when_it_is_told():
    with raw_server() as server:
        (share,) = deal(Target(server.url, "m"), SHAPE, PROMPTS, Plan(Closed(1), 0.2, 0.1))
        begin_s = time.time() + 0.5
        outcome = run_share(share, begin_s)
    assert outcome.started_s == pytest.approx(begin_s + 0.1, rel=0, abs=0.3)
    assert outcome.samples()[0].sent_ms >= -100


def test_a_process_knows_how_it_fared():
    with raw_server() as server:
        level = load(server, Closed(2), 0.5, warmup_s=0.2)
    (watch,) = level.watches
    assert watch.window_s == pytest.approx(0.5, abs=0.3)
    assert 0 < watch.cpu_s < 1.5 * watch.window_s
    assert 5 <= len(watch.loop_lag_ms) <= 52
    assert min(watch.loop_lag_ms) >= 0
    assert 0 <= watch.others_cpu <= 1
    assert watch.clock_jump_s < 0.3
