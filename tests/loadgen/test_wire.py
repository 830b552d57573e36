"""A connection gives an answer's bytes their moments, in whatever pieces they come."""

import asyncio
import time

import pytest
from doubles.raw_server import HEAD, LAST, PLAIN, framed
from doubles.sse import END, ROLE, text

from engine.loadgen.reader import read
from engine.loadgen.timer import Timer
from engine.loadgen.wire import Connection


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.written = b""
        self.is_closed = False

    def write(self, data):
        self.written += data

    def abort(self):
        self.is_closed = True


def connected(timer=None):
    wire = Wire()
    connection = Connection(timer or Timer())
    connection.connection_made(wire)
    return connection, wire


def answer_to(pieces, *, lost=None, ends=False):
    """What a connection makes of these pieces; with `ends`, the server closes then (`lost`: with
    this error)."""

    async def settle():
        connection, _ = connected()
        answer = connection.ask(b"request", 60)
        for piece in pieces:
            assert not answer.done()
            connection.data_received(piece)
        if ends:
            connection.connection_lost(lost)
        return await asyncio.wait_for(answer, 1)

    return asyncio.run(settle())


def test_an_answer_is_the_same_in_whatever_pieces_it_comes():
    for cut in range(1, len(PLAIN)):
        answer = answer_to([PLAIN[:cut], PLAIN[cut:]])
        assert (answer.end, answer.code, answer.is_reusable) == ("whole", 200, True)
        found = read(answer)
        assert (found.status, found.text, found.events) == ("ok", "ab", 2)
    one_by_one = answer_to([PLAIN[at : at + 1] for at in range(len(PLAIN))])
    assert read(one_by_one).text == "ab"


def test_each_part_has_the_time_of_its_segment():
    async def settle():
        connection, _ = connected()
        answer = connection.ask(b"request", 60)
        before = []
        for piece in (HEAD + framed(ROLE), framed(text("a")), framed(b"".join(END)) + LAST):
            time.sleep(0.002)
            before.append(time.perf_counter())
            connection.data_received(piece)
        return before, await answer

    before, answer = asyncio.run(settle())
    assert len(answer.arrived) == 3
    for earlier, came in zip(before, answer.arrived, strict=True):
        assert earlier <= came < earlier + 0.002
    assert answer.ended == answer.arrived[-1]


LENGTH = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "code", "body"),
    [
        ([LENGTH + b"{}"], 429, b"{}"),
        ([LENGTH, b"{", b"}"], 429, b"{}"),
        ([LENGTH[:9], LENGTH[9:] + b"{}"], 429, b"{}"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH + b"{}"], 429, b"{}"),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + PLAIN], 200, None),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
        ([HEAD, framed(b"x") + b"0\r\nchecksum: 7\r\n\r\n"], 200, b"x"),
        # the end of a chunk that is the end of an event, too
        ([HEAD, framed(b"data: 1\r\n\r\n"), framed(b"data: 2\r\n\r\n"), LAST], 200, None),
        ([HEAD, framed(b"0"), b"0\r\n", b"\r\n"], 200, b"0"),
    ],
)
def test_a_message_ends_where_http_says(pieces, code, body):
    answer = answer_to(pieces)
    assert (answer.end, answer.code, answer.is_reusable) == ("whole", code, True)
    if body is not None:
        assert b"".join(answer.parts) == body


CLOSING = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def test_a_body_may_end_with_the_connection():
    answer = answer_to([CLOSING, b"data: ", b"x"], ends=True)
    assert (answer.end, answer.parts, answer.is_reusable) == ("whole", [b"data: ", b"x"], False)
    cut = answer_to([CLOSING, b"x"], ends=True, lost=ConnectionResetError("reset by peer"))
    assert (cut.end, cut.fault) == ("closed", "the connection closed: reset by peer")


@pytest.mark.parametrize(
    ("pieces", "end", "code"),
    [
        ([], "nothing", 0),
        ([b"HTTP/1.1 200"], "closed", 0),
        ([HEAD], "closed", 200),
        ([HEAD, framed(ROLE)], "closed", 200),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"data"], "closed", 200),
    ],
)
def test_an_answer_that_is_cut_says_how_far_it_came(pieces, end, code):
    answer = answer_to(pieces, ends=True)
    assert (answer.end, answer.code, answer.is_reusable) == (end, code, False)
    assert answer.fault == "the server closed the connection"


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\x15\x03\x01\x00\x02\x02P", b"+OK hello\r\n"]
)
def test_what_is_no_http_is_said(garbage):
    answer = answer_to([garbage])
    assert (answer.end, answer.is_reusable) == ("garbled", False)
    found = read(answer)
    assert found.status == "bad_stream"
    assert "no HTTP" in found.error


@pytest.mark.parametrize(
    "answer", [PLAIN.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"), PLAIN + PLAIN]
)
def test_a_connection_that_is_not_to_be_used_again_is_not(answer):
    found = answer_to([answer])
    assert (found.end, found.is_reusable) == ("whole", False)
    assert read(found).text == "ab"


def test_one_connection_carries_many_answers():
    async def ask():
        connection, wire = connected()
        for number in range(3):
            answer = connection.ask(b"request %d " % number, 60)
            connection.data_received(PLAIN)
            assert read(await answer).text == "ab"
        return wire.written

    assert asyncio.run(ask()) == b"request 0 request 1 request 2 "


def test_bytes_that_nobody_asked_for_close_the_connection():
    async def wait():
        connection, wire = connected()
        answer = connection.ask(b"request", 60)
        connection.data_received(PLAIN)
        assert connection.is_open
        connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        return connection.is_open, wire.is_closed, (await answer).end

    assert asyncio.run(wait()) == (False, True, "whole")


def test_who_leaves_knows_what_had_come():
    async def leave():
        connection, wire = connected()
        answer = connection.ask(b"request", 0.05)
        connection.data_received(HEAD + framed(ROLE))
        connection.data_received(framed(text("a")))
        return await asyncio.wait_for(answer, 5), wire.is_closed

    answer, is_closed = asyncio.run(leave())
    assert is_closed
    assert (answer.end, answer.is_reusable) == ("timeout", False)
    found = read(answer)
    assert (found.status, found.events) == ("timeout", 1)
    assert found.first is None


def test_an_answer_in_time_has_no_deadline_any_more():
    async def ask():
        connection, wire = connected()
        answer = connection.ask(b"request", 0.02)
        connection.data_received(PLAIN)
        await asyncio.sleep(0.05)
        return (await answer).end, wire.is_closed

    assert asyncio.run(ask()) == ("whole", False)


def test_nothing_is_parsed_while_tokens_come():
    """What a segment costs decides how many a client can take: a parser sees them when the answer
    is over."""

    async def stream():
        connection, _ = connected()
        answer = connection.ask(b"request", 60)
        connection.data_received(HEAD)
        for _ in range(100):
            connection.data_received(framed(text("a")))
        seen = len(connection._arrived)
        connection.data_received(framed(b"".join(END)) + LAST)
        return seen, len((await answer).arrived)

    assert asyncio.run(stream()) == (0, 101)


def test_what_is_due_does_not_wait_until_all_is_read():
    async def read_on():
        with Timer() as timer:
            connection, _ = connected(timer)
            connection.ask(b"request", 60)
            called = []
            timer.call_at(time.perf_counter() + 3600, lambda: called.append("not due"))
            connection.data_received(HEAD)
            assert not called
            timer.call_at(time.perf_counter(), lambda: called.append("due"))
            connection.data_received(framed(text("a")))  # the loop cannot come to its timer
            return called

    assert asyncio.run(read_on()) == ["due"]
