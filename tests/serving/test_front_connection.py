"""A request as a replica's application sees it, without a socket."""

import asyncio
from types import SimpleNamespace

from engine.serving import link
from engine.serving.front_connection import Call
from engine.serving.link import Asked


class Heard:
    """A connection that keeps the frames it is given."""

    def __init__(self):
        self.frames = []
        self.hurried = []  # frames that were there when they had to leave at once
        self.outbox = SimpleNamespace(put=self._put, leave=self._leave)
        self.writable = asyncio.Event()
        self.writable.set()
        self.calls = {}

    def _put(self, number, kind, content=b""):
        self.frames.append((number, kind, content))

    def _leave(self):
        self.hurried.append(len(self.frames))


async def whole_answer(scope, receive, send):
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def called(app, *said):
    """The frames of a call of `app` to which the front said this before; it must end."""

    async def run():
        connection = Heard()
        call = connection.calls[7] = Call(connection, 7, Asked("POST", "/v1/x"))
        for kind in said:
            call.hear(kind)
        await asyncio.wait_for(call.run(app), 5)
        return connection

    connection = asyncio.run(run())
    assert connection.calls == {}
    return connection


def frames_of(app, *said):
    return [(number, kind) for number, kind, _ in called(app, *said).frames]


def test_a_whole_answer_ends_although_its_client_does_not_read():
    assert frames_of(whole_answer, link.PAUSE) == [(7, link.HEAD), (7, link.LAST)]


def test_an_answer_that_is_left_unfinished_is_broken():
    async def fails(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("engine internals")

    assert frames_of(fails) == [(7, link.HEAD), (7, link.BROKEN)]


def test_nothing_is_said_of_an_answer_that_nobody_wants():
    assert frames_of(whole_answer, link.ABORT) == []


def test_the_first_words_of_an_answer_wait_for_nothing():
    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for word in (b"role", b"first", b"second", b"third"):
            await send({"type": "http.response.body", "body": word, "more_body": True})
        await send({"type": "http.response.body"})

    connection = called(stream)
    assert connection.hurried == [2, 3]  # head and role, first
    assert len(connection.frames) == 6
