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
        self.outbox = SimpleNamespace(put=self._put)
        self.writable = asyncio.Event()
        self.writable.set()
        self.calls = {}

    def _put(self, number, kind, content=b""):
        self.frames.append((number, kind, content))


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
    return [(number, kind) for number, kind, _ in connection.frames]


def test_a_whole_answer_ends_although_its_client_does_not_read():
    assert called(whole_answer, link.PAUSE) == [(7, link.HEAD), (7, link.LAST)]


def test_an_answer_that_is_left_unfinished_is_broken():
    async def fails(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("engine internals")

    assert called(fails) == [(7, link.HEAD), (7, link.BROKEN)]


def test_nothing_is_said_of_an_answer_that_nobody_wants():
    assert called(whole_answer, link.ABORT) == []
