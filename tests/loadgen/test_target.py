"""Addresses as people write them, and requests as servers get them."""

import json

import pytest

from engine.errors import SpecError
from engine.loadgen.requests import Requests, resized
from engine.loadgen.target import Address, Shape, Target

PROMPTS = [[{"role": "system", "content": "s"}, {"role": "user", "content": "one two three"}]]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (
            "http://localhost:8000/v1",
            Address("localhost", 8000, "/v1/chat/completions", False, "localhost:8000"),
        ),
        (
            "https://api.example/v1/",
            Address("api.example", 443, "/v1/chat/completions", True, "api.example"),
        ),
        (
            "http://api.example",
            Address("api.example", 80, "/chat/completions", False, "api.example"),
        ),
        (
            "http://[::1]:81/v1/chat/completions",
            Address("::1", 81, "/v1/chat/completions", False, "[::1]:81"),
        ),
        (
            "https://u:p@x.example/openai/deployments/m?api-version=2",
            Address(
                "x.example",
                443,
                "/openai/deployments/m/chat/completions?api-version=2",
                True,
                "x.example",
            ),
        ),
    ],
)
def test_an_address_has_its_parts(url, address):
    assert Target(url, "m").address() == address


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "localhost:8000/v1",
        "ftp://x/v1",
        "http://",
        "http://:80/v1",
        "http://x:port/v1",
        "http://x/a b",
        "http://x..y/v1",
        "",
    ],
)
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(SpecError, match="url"):
        Target(url, "m")


def test_a_line_break_in_a_key_is_refused():
    with pytest.raises(SpecError, match="line break"):
        Target("http://x/v1", "m", api_key="secret\n")


def test_a_key_is_not_shown():
    target = Target("http://x/v1", "m", api_key="abc123", headers={"api-key": "hidden-key-7"})
    assert "abc123" not in repr(target)
    assert "hidden" not in repr(target)
    words = "wrong key abc123 or hidden-key-7; Bearer zzzzzzzzz; sk-live-1234567"
    assert target.masked(words) == "wrong key *** or ***; Bearer ***; sk-***"


def rendered(shape=None, target=None, **how):
    target = target or Target("http://x:81/v1", "m", api_key="k", headers={"X-Team": "t"})
    request = Requests(target, shape or Shape(), PROMPTS).render(0, **how)
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert int(headers[-1].removeprefix("content-length: ")) == len(body)
    return line, headers, json.loads(body)


def test_a_request_is_what_openai_documents():
    line, headers, body = rendered()
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert {"host: x:81", "authorization: Bearer k", "x-team: t"} < set(headers)
    assert "accept-encoding: identity" in headers
    assert body == {
        "messages": PROMPTS[0],
        "model": "m",
        "max_tokens": 128,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_fields_are_added_replaced_and_taken_away():
    extra = {"ignore_eos": True, "temperature": None, "stream_options": None, "messages": []}
    _, _, body = rendered(Shape(body=extra))
    assert (body["ignore_eos"], body["messages"]) == (True, PROMPTS[0])
    assert not {"temperature", "stream_options"} & body.keys()
    _, _, body = rendered(Shape(body={"max_tokens": None}))
    assert "max_tokens" not in body
    _, _, body = rendered(Shape(max_tokens=7, limit_field="max_completion_tokens"))
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


def test_lengths_that_are_drawn_win():
    _, _, body = rendered(Shape(max_tokens=7), limit=9, words=5)
    assert body["max_tokens"] == 9
    assert body["messages"][1]["content"] == "one two three one two"
    assert body["messages"][0]["content"] == "s"


def test_words_are_cut_and_repeated():
    def of(count):
        return resized(PROMPTS[0], count)[-1]["content"]

    assert (of(1), of(3), of(4)) == ("one", "one two three", "one two three one")
    assert resized([{"role": "user", "content": "  "}], 2)[0]["content"] == "word word"
    assert PROMPTS[0][1]["content"] == "one two three"


def test_a_prompt_is_rendered_once():
    requests = Requests(Target("http://x/v1", "m"), Shape(), PROMPTS)
    first = requests.render(0)
    PROMPTS[0][1]["content"] = "changed"
    again = requests.render(0)
    PROMPTS[0][1]["content"] = "one two three"
    assert first == again
    assert b"changed" not in again
