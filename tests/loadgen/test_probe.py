"""A server that cannot be loaded says so in one sentence, before a level is wasted on it."""

import asyncio
import socket

import pytest
from doubles.raw_server import HEAD, LAST, framed, plain, raw_server
from doubles.sse import END, chunk, event, text

from engine.loadgen.probe import ask, refusal
from engine.loadgen.target import Shape, Target

HELLO = [{"role": "user", "content": "hello"}]
SHAPE = Shape(timeout_s=0.5)


def sized(status, kind, body):
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"

    async def answer(request, writer):
        writer.write(head.encode() + body.encode())

    return answer


COMPLETION = '{"object": "chat.completion", "choices": [{"message": {"content": "a"}}]}'


async def die(request, writer):
    writer.write(HEAD + framed(text("a")))
    await writer.drain()
    writer.transport.abort()


async def sleep(request, writer):
    await asyncio.sleep(10)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (sized("200 OK", "text/html", "<title>Welcome</title>"), "answered text/html: Welcome"),
        (sized("200 OK", "application/json", COMPLETION), "it does not stream"),
        (
            sized("404 Not Found", "application/json", '{"detail": "no model m"}'),
            r"no model m; is the model served there, under this name\?",
        ),
        (sized("401 Unauthorized", "text/plain", "who?"), "who?; give the right key"),
        (die, "cut_stream"),
        (sleep, "no end within 0.5 s; give it more time"),
    ],
)
def test_what_is_no_server_for_it_says_what_it_is(answer, words):
    with raw_server(answer) as server:
        said = refusal(Target(server.url, "m"), SHAPE, HELLO)
    assert said.startswith(server.url)
    assert words.replace("\\", "") in said
    assert "\n" not in said


def test_a_server_that_is_not_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said = refusal(Target(f"http://127.0.0.1:{port}/v1", "m"), SHAPE, HELLO)
    assert "refused" in said
    assert "is it running, at this host and port?" in said


def test_a_missing_version_in_the_path_is_found():
    missing = sized("404 Not Found", "application/json", '{"detail": "Not Found"}')

    async def answer(request, writer):
        has_version = request.head.startswith("post /v1/chat/completions ")
        await (plain if has_version else missing)(request, writer)

    with raw_server(answer) as server:
        said = refusal(Target(server.url.removesuffix("/v1"), "m"), SHAPE, HELLO)
        assert said.endswith(f"it answers at {server.url}, use that")
        assert refusal(Target(server.url, "m"), SHAPE, HELLO) is None


def test_answers_come_with_all_that_was_written():
    async def answer(request, writer):
        prompt = request.body["messages"][0]["content"]
        thinks = event(chunk({"reasoning": "hm "}))
        writer.write(HEAD + framed(thinks + text(prompt)) + framed(b"".join(END)) + LAST)

    with raw_server(answer) as server:
        prompts = [[{"role": "user", "content": name}] for name in ("a", "b", "c")]
        said = ask(Target(server.url, "m"), SHAPE, prompts)
    assert [each.text for each in said] == ["hm a", "hm b", "hm c"]
    assert [each.sample.prompt for each in said] == [0, 1, 2]
    assert {each.sample.output_tokens for each in said} == {3}
