"""More clients than there is room for, on real sockets."""

import json
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from doubles.clients import until
from doubles.house import chat

from engine.serving.connections import TOLD_AT_ONCE, most_connections


def connect(there, stack):
    client = socket.create_connection(("127.0.0.1", there.settings.port), 5)
    return stack.enter_context(client)


def ask_on(client, path=b"/v1/models"):
    """One request on a kept connection; the beginning of what comes back."""
    client.sendall(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
    return client.recv(65536)


def is_closed(client):
    client.settimeout(5)
    return client.recv(100) == b""


def test_who_rested_longest_makes_room_for_one_more(house):
    there = house(limits={"max_connections": 3})
    there.add("m", "a")
    with ExitStack() as stack:
        clients = []
        for _ in range(3):
            clients.append(connect(there, stack))
            assert ask_on(clients[-1]).startswith(b"HTTP/1.1 200")
        first, second, third = clients
        assert ask_on(first).startswith(b"HTTP/1.1 200")  # now the second one rests longest
        newest = connect(there, stack)
        assert ask_on(newest).startswith(b"HTTP/1.1 200")
        assert is_closed(second)
        for kept in (first, third, newest):
            assert ask_on(kept).startswith(b"HTTP/1.1 200")
        assert len(there.front.clients) == 3


def test_where_all_are_busy_a_new_one_hears_503_and_is_closed(house):
    there = house(limits={"max_connections": 2})
    server = there.add("m", "a", step_s=0.02)
    with ThreadPoolExecutor(2) as pool:
        body = chat("x", max_tokens=50)
        post = lambda: httpx.post(f"{there.url}/v1/chat/completions", json=body)  # noqa: E731
        busy = [pool.submit(post) for _ in range(2)]
        until(lambda: server.unfinished == 2)
        refused = httpx.get(f"{there.url}/v1/models")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        assert refused.json()["error"]["type"] == "server_error"
        assert {each.result().status_code for each in busy} == {200}
    until(lambda: not there.front.clients)
    assert httpx.get(f"{there.url}/v1/models").status_code == 200
    assert there.metric("distill_connections_turned_away_total") == 1


def test_who_says_nothing_is_no_idle_client_and_a_flood_of_them_takes_no_files(house):
    there = house(limits={"max_connections": 4, "header_timeout_s": 2.0})
    server = there.add("m", "a", step_s=0.02)
    content = json.dumps(chat("x", max_tokens=200)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    with ExitStack() as stack:
        asking = connect(there, stack)
        asking.sendall(head % len(content) + content)
        until(lambda: server.unfinished == 1)
        flood = [connect(there, stack) for _ in range(4 + TOLD_AT_ONCE + 60)]
        until(lambda: len(there.front.clients) == 4)
        until(lambda: len(there.front.clients) == 1, seconds=10)  # none said anything in time
        assert asking.recv(100).startswith(b"HTTP/1.1 200")
        said = [client.recv(100) for client in flood]
        assert said.count(b"") == len(flood) - TOLD_AT_ONCE
        assert sum(each.startswith(b"HTTP/1.1 503") for each in said) == TOLD_AT_ONCE
        assert ask_on(connect(there, stack)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("wanted", "files", "most"),
    [(100, 1024, 100), (10_000, 1024, 384), (10_000, resource.RLIM_INFINITY, 10_000), (9, 200, 1)],
)
def test_a_process_that_may_open_few_files_takes_fewer(caplog, wanted, files, most):
    assert most_connections(wanted, files) == most
    assert (f"at most {most} connections" in caplog.text) == (most < wanted)
