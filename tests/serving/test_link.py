"""Frames between a front and a replica."""

import asyncio
import random

import pytest

from engine.serving import link
from engine.serving.link import Asked, Frames, Outbox


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(data)

    def is_closing(self):
        return False


def written(frames):
    """The writes of one turn of a loop that says these frames."""

    async def say():
        wire = Wire()
        outbox = Outbox(wire)
        for frame in frames:
            outbox.put(*frame)
        await asyncio.sleep(0)
        return wire.writes

    return asyncio.run(say())


def some_frames(count):
    draw = random.Random(count)
    return [
        (draw.randrange(2**32), draw.randrange(9), draw.randbytes(draw.choice((0, 1, 50, 3000))))
        for _ in range(count)
    ]


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 64, 1000, 100_000])
def test_frames_come_back_however_their_bytes_are_cut(size):
    frames = some_frames(40)
    data = b"".join(written(frames))
    reader = Frames()
    read = []
    for start in range(0, len(data), size):
        read += reader.feed(data[start : start + size])
    assert read == frames


def test_what_one_turn_of_the_loop_says_is_one_write():
    assert len(written(some_frames(32))) == 1


def test_a_frame_beyond_the_limit_is_refused_before_it_is_read():
    data = b"".join(written([(1, link.HELLO, b"x" * 2000)]))
    with pytest.raises(ValueError, match="2,000 bytes"):
        list(Frames(1024).feed(data[:20]))


def test_a_reader_that_stops_in_the_middle_loses_nothing():
    frames = some_frames(3)
    reader = Frames()
    first = next(reader.feed(b"".join(written(frames))))
    assert [first, *reader.feed(b"")] == frames


@pytest.mark.parametrize("body", [b"", b'{"model": "m"}', b"\r\n\r\n\x00" * 3])
def test_a_request_is_the_same_at_the_other_end(body):
    asked = Asked("POST", "/v1/x", ((b"x-request-id", b"a: b"), (b"y", b"")), body)
    assert Asked.of(asked.content()) == asked
