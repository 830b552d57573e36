"""Inside the clients of OpenAI and Anthropic: what engine/backends/api_*.py lean on beyond their
documentation."""

from __future__ import annotations

import anthropic
import httpx2
import openai
import pytest

from engine.backends.api_gate import CLIENT_WAIT_S

CLIENTS = {"openai": openai.AsyncOpenAI, "anthropic": anthropic.AsyncAnthropic}
LIBRARIES = {"openai": openai, "anthropic": anthropic}
both = pytest.mark.parametrize("name", list(CLIENTS))


@pytest.fixture
def client(name):
    return CLIENTS[name](api_key="none", http_client=httpx2.AsyncClient())


def reply(status, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx2.Request("POST", "http://127.0.0.1/v1")
    return httpx2.Response(
        status, headers=named, json={"error": {"message": "no"}}, request=request
    )


@both
def test_a_header_of_the_reply_decides_whether_it_is_tried_again(client):
    assert client._should_retry(reply(500))
    assert not client._should_retry(reply(500, x_should_retry="false"))


@both
def test_a_client_sends_through_the_one_it_was_given(client):
    assert isinstance(client._client, httpx2.AsyncClient)
    assert client.with_options(max_retries=0)._client is client._client


@both
def test_an_error_holds_its_status_its_body_and_the_whole_reply(client, name):
    response = reply(429)
    error = client._make_status_error_from_response(response)
    assert isinstance(error, LIBRARIES[name].APIError)
    assert (error.status_code, error.response) == (429, response)
    assert "no" in str(error.body)


def test_openais_client_gives_up_on_a_longer_wait():
    client = CLIENTS["openai"](api_key="none", http_client=httpx2.AsyncClient())
    assert client._should_retry(reply(429, retry_after=f"{CLIENT_WAIT_S:.0f}"))
    assert not client._should_retry(reply(429, retry_after=f"{CLIENT_WAIT_S + 1:.0f}")), (
        "the Gate need not take such a header out"
    )
