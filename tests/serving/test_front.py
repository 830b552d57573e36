"""A front on real sockets, before fake servers: who is let in, who is asked, and what becomes of a
request when something leaves."""

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import openai
import pytest
from doubles.clients import until
from doubles.house import chat

from engine.serving import link
from engine.serving.link import Asked


def raw(house, data: bytes, seconds: float = 5.0) -> bytes:
    """What comes back for these bytes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", house.settings.port), seconds) as client:
        client.sendall(data)
        client.settimeout(seconds)
        said = b""
        while part := client.recv(65536):
            said += part
    return said


def test_an_answer_is_the_servers_own(house, ask):
    there = house()
    there.add("m", "a")
    reply = ask(there, chat("one two", max_tokens=3))
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "one two one"
    assert reply.json()["usage"]["completion_tokens"] == 3


def test_a_stream_is_what_the_openai_client_reads(house):
    there = house()
    there.add("m", "a")
    client = openai.OpenAI(base_url=f"{there.url}/v1", api_key="none")
    stream = client.chat.completions.create(
        **chat("x y", max_tokens=4), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.split() == ["x", "y", "x", "y"]
    assert chunks[-1].usage.completion_tokens == 4


def test_connections_are_kept_on_both_sides(house, ask):
    there = house()
    there.add("m", "a")
    with httpx.Client(base_url=there.url) as client:
        for stream in (False, True, True, False):
            body = chat("x y", max_tokens=4, stream=stream)
            assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert len(there.front.clients) == 1
    _, listener = there.replicas["a"]
    assert len(listener.connections) == 1


def test_the_one_that_has_least_open_is_asked(house, ask):
    there = house()
    servers = [there.add("m", name, step_s=0.02) for name in "ab"]
    with ThreadPoolExecutor(6) as pool:
        replies = [pool.submit(ask, there, chat(f"n{i}", max_tokens=50)) for i in range(6)]
        until(lambda: [server.unfinished for server in servers] == [3, 3])
        assert {reply.result().status_code for reply in replies} == {200}


def test_by_prefix_those_with_the_same_beginning_go_together(house, ask):
    there = house(routing="prefix")
    servers = {name: there.add("m", name, step_s=0.02) for name in "ab"}
    beginnings = ["x" * 600, "y" * 600]
    with ThreadPoolExecutor(6) as pool:
        firsts = [pool.submit(ask, there, chat(text, max_tokens=200)) for text in beginnings]
        until(lambda: [server.unfinished for server in servers.values()] == [1, 1])
        alike = [chat(beginnings[0] + str(i), max_tokens=100) for i in range(3)]
        more = [pool.submit(ask, there, body) for body in alike]
        until(lambda: sorted(server.unfinished for server in servers.values()) == [1, 4])
        assert {reply.result().status_code for reply in firsts + more} == {200}


def test_models_go_to_their_own_replicas_and_are_listed(house, ask):
    there = house("m", "n")
    there.add("m", "a", max_model_len=64)
    there.add("n", "b", max_model_len=128)
    for model in ("m", "n"):
        assert ask(there, chat("hello", model)).json()["model"] == model
    listed = httpx.get(f"{there.url}/v1/models").json()["data"]
    assert {card["id"]: card["max_model_len"] for card in listed} == {"m": 64, "n": 128}
    assert httpx.get(f"{there.url}/v1/models/n").json()["id"] == "n"


ROUTES = [
    ("GET", path)
    for path in ("/health", "/-/healthz", "/-/routes", "/metrics", "/v1/models", "/docs", "/", "//")
] + [("POST", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("OPTIONS", "/v1/models")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("header", [None, "right", "Bearer wrong", "Basic right", "Bearer right2"])
def test_no_route_opens_without_a_key(house, method, path, header):
    there = house(keys={"ann": "right", "bob": "also right"})
    there.add("m", "a")
    headers = {"Authorization": header} if header else {}
    reply = httpx.request(method, f"{there.url}{path}", headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer right", "bearer right", "Bearer  also right"])
def test_each_key_opens(house, header):
    there = house(keys={"ann": "right", "bob": "also right"})
    there.add("m", "a")
    headers = {"Authorization": header}
    assert httpx.get(f"{there.url}/v1/models", headers=headers).status_code == 200
    assert b"distill_requests" in httpx.get(f"{there.url}/metrics", headers=headers).content


def test_health_may_be_open_and_says_nothing_else(house):
    there = house(keys={"ann": "right"}, open_health=True)
    assert httpx.get(f"{there.url}/health").status_code == 503
    there.add("m", "a")
    assert httpx.get(f"{there.url}/-/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{there.url}/v1/models").status_code == 401


def frame(kind, content=b""):
    return struct.pack("!IBI", 1, kind, len(content)) + content


def test_a_replica_answers_nobody_who_comes_past_the_front(house):
    there = house(keys={"ann": "right"})
    there.add("m", "a")
    _, listener = there.replicas["a"]
    ask = frame(link.REQUEST, Asked("GET", "/metrics").content())
    for said in (request_bytes(chat("x")), ask, frame(link.HELLO, b"right")):
        with socket.create_connection(("127.0.0.1", listener.port), 5) as stranger:
            stranger.sendall(said)
            with suppress(ConnectionError):  # it is closed with what was sent unread
                stranger.sendall(ask)
                assert stranger.recv(100) == b""
        until(lambda: not listener.connections, seconds=1)


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"{", "application/json", 400, "not JSON"),
        (b"[]", "application/json", 400, "JSON object"),
        (b'{"model": 3}', "application/json", 400, "one of m, n"),
        (b'{"model": "gpt-9"}', "application/json", 404, "'gpt-9' does not exist; there is m, n"),
        (b"{}", "application/json", 400, "one of m, n"),
        (b"model=m", "application/x-www-form-urlencoded", 415, "must be application/json"),
        (b'{"model": "m", "messages": "\\ud800"}', "application/json", 400, "surrogate"),
        (b"\xff\xfe", "application/json", 400, "not UTF-8"),
        ('{"model": "m"}'.encode("utf-16"), "application/json", 400, "not UTF-8"),
        (b'{"model": "m", "x": "\xed\xa0\x80"}', "application/json", 400, "not UTF-8"),
        (b'{"model": "m", "x": %s}' % (b"[" * 60_000), "application/json", 400, "not JSON"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_openais_shape(house, body, kind, status, said):
    there = house("m", "n")
    there.add("m", "a")
    there.add("n", "b")
    url = f"{there.url}/v1/chat/completions"
    reply = httpx.post(url, content=body, headers={"content-type": kind})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert said in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_beyond_the_limit_it_is_429_at_once_and_the_others_are_answered(house, ask):
    there = house(max_queued=2)
    there.add("m", "a", max_num_seqs=2, step_s=0.02)
    with ThreadPoolExecutor(12) as pool:
        replies = [pool.submit(ask, there, chat(f"n{i}", max_tokens=30)) for i in range(12)]
        seen = [reply.result() for reply in replies]
    refused = [reply for reply in seen if reply.status_code == 429]
    assert len(refused) == 8
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert {reply.json()["error"]["type"] for reply in refused} == {"rate_limit_error"}
    assert sorted({reply.status_code for reply in seen}) == [200, 429]


def test_a_request_unseen_by_its_client_is_tried_once_more_elsewhere(house, ask):
    there = house()
    server = there.add("m", "a", step_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, there, chat("mark", max_tokens=40))
        until(lambda: server.unfinished)
        there.add("m", "b")
        there.remove("m", "a", told=False)
        there.kill("a")
        assert reply.result().json()["choices"][0]["message"]["content"].split()[0] == "mark"
    assert there.metric("distill_retries_total", model="m") == 1


def test_what_fails_at_two_replicas_is_the_requests_own_fault_and_no_reason_to_come_again(
    house, ask
):
    there = house()
    there.add("m", "a")
    there.add("m", "b")
    reply = ask(there, chat("fail"))
    assert reply.status_code == 500
    assert "retry-after" not in reply.headers
    assert "internals" not in reply.text
    assert reply.json()["error"]["type"] == "server_error"
    assert there.metric("distill_replica_faults_total", model="m") == 2
    assert there.metric("distill_requests_total", how="refused", status="500") == 1


def test_a_fault_of_one_replica_is_not_seen_where_another_answers(house, ask):
    there = house()
    there.add("m", "a", faulty=True)
    there.add("m", "b")
    for _ in range(3):
        reply = ask(there, chat("x y", max_tokens=2))
        assert reply.status_code == 200
        assert reply.json()["choices"][0]["message"]["content"] == "x y"


def test_a_fault_of_the_only_replica_is_asked_again_at_the_next_look_and_then_told(house, ask):
    there = house()
    there.add("m", "a")
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, there, chat("fail"))
        until(lambda: there.front.figures()["models"]["m"]["waiting"] == 1)
        there.look("m")
        assert reply.result().status_code == 500


def test_what_one_server_does_not_do_no_other_is_asked_for(house, ask):
    there = house()
    there.add("m", "a")
    there.add("m", "b")
    reply = ask(there, chat("unknown"))
    assert reply.status_code == 501
    assert reply.json()["error"]["message"] == "nobody does this"
    assert there.metric("distill_retries_total") == 0


@pytest.mark.parametrize(
    ("limits", "body"),
    [
        ({"max_queued": 0}, chat("x", max_tokens=60)),
        ({"max_queued_tokens": 2}, chat("x y", max_tokens=60)),
    ],
)
def test_a_replica_that_is_full_by_its_own_limits_is_429_at_once(house, ask, limits, body):
    there = house()
    server = there.add("m", "a", max_num_seqs=1, step_s=0.02, **limits)
    with ThreadPoolExecutor(6) as pool:
        replies = [pool.submit(ask, there, body) for _ in range(6)]
        seen = [reply.result() for reply in replies]
    refused = [reply for reply in seen if reply.status_code == 429]
    assert 4 <= len(refused) <= 5
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert {reply.json()["error"]["type"] for reply in refused} == {"rate_limit_error"}
    assert sorted({reply.status_code for reply in seen}) == [200, 429]
    assert server.unfinished == 0


def test_another_replica_may_have_room(house, ask):
    there = house()
    full = there.add("m", "a", max_num_seqs=1, max_queued=0, step_s=0.02)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, there, chat("x", max_tokens=100))
        until(lambda: full.unfinished == 1)
        there.front.pools["m"].replicas["a"].open = 0  # as another front sees it
        there.add("m", "b")
        assert ask(there, chat("y", max_tokens=1)).status_code == 200
        assert first.result().status_code == 200


def test_a_stream_that_is_cut_ends_with_an_error_event(house):
    there = house()
    there.add("m", "a", step_s=0.03)
    client = openai.OpenAI(base_url=f"{there.url}/v1", api_key="none", max_retries=0)
    stream = client.chat.completions.create(**chat("x", max_tokens=500), stream=True)
    chunks = iter(stream)
    assert next(chunks).choices
    killer = threading.Timer(0.1, there.kill, ["a"])
    killer.start()
    with pytest.raises(openai.APIError, match="replica left before the answer was whole"):
        list(chunks)
    killer.join()


def test_a_client_that_leaves_is_aborted_within_a_second(house):
    there = house()
    server = there.add("m", "a", step_s=0.02)
    body = json.dumps(chat("x", max_tokens=5000, stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    client = socket.create_connection(("127.0.0.1", there.settings.port))
    client.sendall(head % len(body) + body)
    client.recv(100)
    assert server.unfinished == 1
    client.close()
    until(lambda: server.unfinished == 0, seconds=1)
    assert there.front.open == 0


def test_streams_on_one_connection_do_not_mix_and_one_that_leaves_disturbs_none(house):
    there = house()
    server = there.add("m", "a", step_s=0.005, max_num_seqs=40)

    def stream(number):
        body = chat(f"mark{number}", max_tokens=60, stream=True)
        with httpx.stream("POST", f"{there.url}/v1/chat/completions", json=body) as reply:
            if number % 4 == 0:
                next(reply.iter_lines())
                return None  # it leaves
            events = [json.loads(line[6:]) for line in reply.iter_lines() if "choices" in line]
        deltas = [event["choices"][0]["delta"] for event in events]
        return "".join(delta.get("content", "") for delta in deltas).split()

    with ThreadPoolExecutor(24) as pool:
        answers = dict(enumerate(pool.map(stream, range(24))))
    for number, words in answers.items():
        assert words == (None if number % 4 == 0 else [f"mark{number}"] * 60)
    until(lambda: server.unfinished == 0 and there.front.open == 0)
    assert len(there.replicas["a"][1].connections) == 1


def test_a_client_that_does_not_read_holds_up_no_other_on_its_connection(house, ask):
    there = house(limits={"header_timeout_s": 30})
    there.add("m", "a", step_s=0.0005, max_num_seqs=8)
    large = request_bytes(chat("w" * 20_000, max_tokens=5000, stream=True))
    with socket.create_connection(("127.0.0.1", there.settings.port)) as lazy:
        lazy.sendall(large)
        until(lambda: any(client.is_choked for client in there.front.clients))
        (connection,) = there.replicas["a"][1].connections
        (call,) = connection.calls.values()
        until(lambda: call.is_paused)
        for _ in range(20):
            assert ask(there, chat("x", max_tokens=20)).status_code == 200


def test_who_comes_before_there_is_a_replica_is_answered_when_there_is_one(house, ask):
    there = house()
    asked = []
    there.front.on_empty = asked.append
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, there, chat("early"))
        until(lambda: there.front.figures()["models"]["m"]["waiting"] == 1)
        assert asked == ["m"]
        there.add("m", "a")
        assert reply.result().status_code == 200


def test_who_waits_too_long_for_a_replica_gets_503_and_when_to_come_again(house, ask):
    there = house(wait_s=0.2)
    reply = ask(there, chat("early"))
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert "no replica of m is ready" in reply.json()["error"]["message"]


def test_new_weights_get_all_requests_and_the_old_ones_finish_theirs(house, ask):
    there = house()
    old = there.add("m", "a", step_s=0.02)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(ask, there, chat("begun", max_tokens=150))
        until(lambda: old.unfinished)
        new = there.add("m", "b", generation=1)
        later = ask(there, chat("later", max_tokens=2))
        assert (old.unfinished, new.unfinished) == (1, 0)
        assert later.status_code == begun.result().status_code == 200
    assert there.front.figures()["models"]["m"]["generation"] == 1


def test_a_drained_front_answers_what_is_open_and_lets_nobody_in(house, ask):
    there = house()
    server = there.add("m", "a", step_s=0.02)
    with ThreadPoolExecutor(1) as pool:
        open_one = pool.submit(ask, there, chat("x", max_tokens=30))
        until(lambda: server.unfinished)
        there.call(there.front.drain(10))
        assert open_one.result().status_code == 200
    with pytest.raises(httpx.TransportError):
        ask(there, chat("late"))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1",
        b"GET / HTTP/1.1\r\nhost",
        b"POST /v1/x HTTP/1.1\r\ncontent-length: 9\r\n\r\n{",
    ],
)
def test_slow_and_half_open_clients_are_closed_in_time(house, sent):
    there = house(limits={"header_timeout_s": 0.3})
    started = time.monotonic()
    said = raw(there, sent)
    assert 0.2 < time.monotonic() - started < 3
    assert said == b"" or said.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 40_000), 431),
        (b"GET / HTTP/1.1\r\nx: %s\r\n\r\n" % (b"a" * 40_000), 431),
        (b"POST /v1/x HTTP/1.1\r\ncontent-length: 2000\r\n\r\n", 413),
        (
            b"POST /v1/x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n%s" % (b"a" * 2000),
            413,
        ),
        (b"POST /v1/x HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_of_ours_is_refused_and_closed(house, sent, status):
    there = house(limits={"max_body_bytes": 1000})
    assert raw(there, sent).startswith(b"HTTP/1.1 %d " % status)


def test_requests_that_are_sent_ahead_are_answered_in_their_order(house):
    there = house()
    there.add("m", "a")
    one = b"GET /v1/models/%s HTTP/1.1\r\nhost: x\r\n%s\r\n"
    names = [b"m"] + [b"no%d" % number for number in range(20)]
    sent = b"".join(one % (name, b"") for name in names) + one % (b"m", b"connection: close\r\n")
    said = raw(there, sent)
    codes = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
    assert codes == [200] + [404] * 20 + [200]


def test_a_large_body_is_asked_for_first(house):
    there = house()
    there.add("m", "a")
    body = json.dumps(chat("x", max_tokens=1)).encode()
    with socket.create_connection(("127.0.0.1", there.settings.port), 5) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("allowed", "seen"), [((), None), (("https://a",), "https://a"), (("*",), "https://a")]
)
def test_other_origins_read_nothing_unless_they_were_named(house, ask, allowed, seen):
    there = house(cors_origins=allowed)
    there.add("m", "a")
    asks = {"origin": "https://a", "access-control-request-method": "POST"}
    preflight = httpx.options(f"{there.url}/v1/chat/completions", headers=asks)
    assert preflight.status_code == 204
    reply = ask(there, chat("x"), headers={"origin": "https://a"})
    for each in (preflight, reply):
        assert each.headers.get("access-control-allow-origin") == seen


def test_a_reader_that_is_too_slow_slows_its_replica_and_is_closed(house):
    there = house(limits={"header_timeout_s": 0.5})
    server = there.add("m", "a", step_s=0.001, max_num_seqs=4)
    body = json.dumps(chat("w" * 20_000, max_tokens=5000, stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", there.settings.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(head % len(body) + body)
        until(lambda: not there.front.clients, seconds=20)
    until(lambda: server.unfinished == 0)


def test_one_line_per_request_holds_no_prompt_and_no_key(house, ask, caplog):
    there = house(keys={"ann": "right-key"})
    there.add("m", "a")
    with caplog.at_level("INFO", "engine.serving.access"):
        ask(there, chat("a secret prompt"), headers={"Authorization": "Bearer right-key"})
        time.sleep(0.1)
    (line,) = [record.getMessage() for record in caplog.records if "serving" in record.name]
    assert "model=m key=ann status=200 answered" in line
    assert "secret" not in line
    assert "right-key" not in line


def reads_late(there, sent: bytes, pause_s: float) -> bytes:
    """What comes back where the client does not read for so long."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", there.settings.port))
        client.sendall(sent)
        time.sleep(pause_s)
        client.settimeout(10)
        said = b""
        while b"[DONE]" not in said and (part := client.recv(65536)):
            said += part
        return said


def request_bytes(body) -> bytes:
    content = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    return head % len(content) + content


def test_a_slow_reader_costs_the_next_client_nothing(house, ask):
    there = house()
    there.add("m", "a", step_s=0.001)
    large = chat("w" * 20_000, max_tokens=200, stream=True)
    assert reads_late(there, request_bytes(large), 1.0).count(b"data:") == 202
    assert ask(there, chat("x", max_tokens=2)).status_code == 200
    until(lambda: there.front.open == 0)


def flood(client, seconds: float) -> None:
    """Requests without an end, whose answers nobody reads."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" * 100)


@pytest.mark.parametrize("keys", [{"ann": "right"}, None])
def test_a_client_that_only_sends_is_closed_and_fills_no_memory(house, keys):
    there = house(keys=keys, limits={"header_timeout_s": 0.5})
    with socket.create_connection(("127.0.0.1", there.settings.port)) as client:
        client.settimeout(8)
        with pytest.raises(ConnectionError):
            flood(client, 15)
    until(lambda: not there.front.clients)


def test_a_header_without_an_end_is_refused(house):
    there = house(limits={"header_timeout_s": 30})
    with socket.create_connection(("127.0.0.1", there.settings.port)) as client:
        client.settimeout(5)
        client.sendall(b"GET / HTTP/1.1\r\nx: ")
        with suppress(OSError):
            for _ in range(200):
                client.sendall(b"a" * 10_000)
                time.sleep(0.005)
        assert client.recv(100).startswith(b"HTTP/1.1 431")


def test_who_leaves_while_a_connect_is_under_way_leaves_no_trace(house):
    there = house()
    there.add("m", "a")
    there.kill("a")  # nobody listens, and the front does not know
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", there.settings.port)) as client:
            client.sendall(request_bytes(chat("x")))
    until(lambda: there.front.open == 0 and not there.front.clients)
    assert there.front.figures()["models"]["m"]["waiting"] == 0


def test_a_long_answer_that_breaks_unseen_still_waits_for_a_replica(house, ask):
    there = house(wait_s=1.0)
    server = there.add("m", "a", step_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, there, chat("x", max_tokens=60))
        until(lambda: server.unfinished)
        time.sleep(1.2)  # longer than a request waits for a replica
        there.remove("m", "a", told=False)
        there.kill("a")
        time.sleep(0.3)
        there.add("m", "b")
        assert reply.result().status_code == 200


def test_what_was_written_reaches_a_slow_reader_of_a_front_that_drains(house):
    there = house()
    there.add("m", "a", step_s=0.001)
    sent = request_bytes(chat("w" * 20_000, max_tokens=100, stream=True))
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(reads_late, there, sent, 1.0)
        until(lambda: there.front.open == 1)
        until(lambda: there.front.open == 0)
        there.call(there.front.drain(10))
        assert late.result().count(b"data:") == 102


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere"])
def test_head_is_refused_without_disturbing_what_follows(house, path):
    there = house()
    there.add("m", "a")
    said = raw(there, b"HEAD %s HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
    assert said.startswith(b"HTTP/1.1 405")
    assert b"connection: close" in said


def test_a_trailer_is_no_header(house):
    there = house(keys={"ann": "right"})
    there.add("m", "a")
    sent = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\n"
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nauthorization: Bearer right\r\n\r\n"
    )
    assert raw(there, sent).startswith(b"HTTP/1.1 401")


def test_a_wrong_key_is_said_to_a_client_that_is_still_sending(house):
    there = house(keys={"ann": "right"})
    body = chat("x" * 1_000_000)
    for _ in range(5):
        reply = httpx.post(f"{there.url}/v1/chat/completions", json=body)
        assert reply.status_code == 401


def test_refusals_can_be_read_by_the_pages_that_may_read_answers(house):
    there = house(cors_origins=("https://a",))
    there.add("m", "a")
    headers = {"origin": "https://a"}
    reply = httpx.post(f"{there.url}/v1/x", json={"model": "no"}, headers=headers)
    assert reply.status_code == 404
    assert reply.headers["access-control-allow-origin"] == "https://a"
