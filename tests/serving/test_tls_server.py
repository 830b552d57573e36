"""A front that speaks TLS, to those that shake hands and those that never do."""

import socket
import ssl
import time
from contextlib import ExitStack

import httpx
import pytest
from doubles.certificate import self_signed
from doubles.clients import until
from doubles.house import chat


def silent(there):
    """A client that says nothing."""
    return socket.create_connection(("127.0.0.1", there.settings.port), 10)


def test_with_a_certificate_it_speaks_https_and_nothing_else(house, tmp_path):
    certificate, key = self_signed(tmp_path)
    there = house(keys={"ann": "right"}, tls_cert=certificate, tls_key=key)
    there.add("m", "a")
    url = there.url.replace("http:", "https:")
    trusting = httpx.Client(verify=ssl.create_default_context(cafile=certificate))
    headers = {"Authorization": "Bearer right"}
    reply = trusting.post(f"{url}/v1/chat/completions", json=chat("x"), headers=headers)
    assert reply.status_code == 200
    assert trusting.get(f"{url}/v1/models").status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(there.url)
    with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
        httpx.get(url)


def test_a_client_that_never_shakes_hands_is_closed_in_time(house, tmp_path):
    certificate, key = self_signed(tmp_path)
    there = house(tls_cert=certificate, tls_key=key, limits={"header_timeout_s": 0.3})
    started = time.monotonic()
    with silent(there) as client:
        assert client.recv(100) == b""
    assert time.monotonic() - started < 3


def test_clients_that_never_shake_hands_make_room_for_those_that_do(house, tmp_path):
    certificate, key = self_signed(tmp_path)
    limits = {"header_timeout_s": 60, "max_connections": 4}
    there = house(tls_cert=certificate, tls_key=key, limits=limits)
    there.add("m", "a")
    url = there.url.replace("http:", "https:")
    trusting = ssl.create_default_context(cafile=certificate)
    with ExitStack() as stack:
        flood = [stack.enter_context(silent(there)) for _ in range(20)]
        for _ in range(3):
            assert httpx.get(f"{url}/v1/models", verify=trusting).status_code == 200
        for client in flood[:16]:
            assert client.recv(100) == b"", "the longest first"
        until(lambda: len(there.front.clients) == 0)


def test_more_that_shook_hands_than_there_is_room_for_hear_it_over_tls(house, tmp_path):
    certificate, key = self_signed(tmp_path)
    there = house(tls_cert=certificate, tls_key=key, limits={"max_connections": 1})
    trusting = ssl.create_default_context(cafile=certificate)
    url = there.url.replace("http:", "https:")
    with trusting.wrap_socket(silent(there), server_hostname="127.0.0.1"):
        until(lambda: len(there.front.clients) == 1)
        assert httpx.get(f"{url}/v1/models", verify=trusting).status_code == 503
    until(lambda: not there.front.clients)
    assert httpx.get(f"{url}/v1/models", verify=trusting).status_code == 200
