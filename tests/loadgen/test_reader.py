"""What the reader makes of streams as servers send them, and of what is no stream."""

import asyncio
import gzip
import json
import random
import zlib

import pytest
from doubles.sse import DONE, END, ROLE, STOP, STREAM, answered, chunk, event, text, usage

from engine.loadgen.answers import Answer
from engine.loadgen.reader import MAX_ERROR_CHARACTERS, Reading, read, read_in_turns
from engine.loadgen.samples import Sample
from engine.loadgen.streams import SLICE

PLAIN = [ROLE, text("a"), text("b"), text("c"), *END]  # at 1, 2, 3, 4; 5, 6, 7


def test_a_plain_stream_is_read_as_it_was_sent():
    found = read(answered(PLAIN))
    assert found == Reading(
        status="ok",
        first_byte=1.0,
        first=2.0,
        last=4.0,
        end=7.0,
        events=3,
        prompt_tokens=7,
        output_tokens=3,
        text="abc",
        content="abc",
        finish_reason="stop",
    )


def test_an_answer_without_text_counts_to_its_finish():
    found = read(answered([ROLE, STOP, usage(output=0), DONE]))
    assert (found.status, found.first, found.last, found.events) == ("ok", 2.0, 2.0, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_pieces_and_line_ends_do_not_matter(size, newline):
    body = b"".join(PLAIN).replace(b"\n", newline)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    found = read(answered(pieces))
    assert (found.status, found.text, found.events, found.oddities) == ("ok", "abc", 3, "")
    assert found.output_tokens == 3


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_text_has_the_time_at_which_its_event_was_whole(newline):
    body = b"".join(PLAIN).replace(b"\n", newline)
    pieces = [body[at : at + 1] for at in range(len(body))]  # one byte each second, from 1.0 on
    found = read(answered(pieces))
    first = body.index(b'"content": "a"')
    assert found.first == 1.0 + body.index(newline, first) - 1
    last = body.index(b'"content": "c"')
    assert found.last == 1.0 + body.index(newline, last) - 1


NOTE = {"index": 0, "finish_reason": None, "content_filter_results": {}}
PRELUDE = event(chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}]))
ANNOTATION = event(chunk(choices=[NOTE], usage=None, id="", model=""))


@pytest.mark.parametrize(
    "events",
    [
        [PRELUDE, *PLAIN],
        [*PLAIN[:2], ANNOTATION, *PLAIN[2:]],
        [*PLAIN[:5], ANNOTATION, *PLAIN[5:]],
        [*PLAIN[:2], event(chunk(choices=None)), *PLAIN[2:]],
        [*PLAIN[:2], event(chunk(choices=[])), *PLAIN[2:]],
        [*PLAIN[:2], event(chunk(None, choices=[NOTE | {"delta": None}])), *PLAIN[2:]],
        [b": ping\n\n", *PLAIN[:3], b":\n\n", *PLAIN[3:]],
        [event({"type": "ping"}, before="event: ping\ndata: "), *PLAIN],
        [b"\xef\xbb\xbf" + ROLE, *PLAIN[1:]],
        [b"\n\n\n" + ROLE, *PLAIN[1:], b"\n\n"],
        [b"id: 4\nretry: 100\n" + ROLE, *PLAIN[1:]],
        [each.replace(b"data: ", b"data:") for each in PLAIN],
        [each.replace(b'": ', b'":') for each in PLAIN],
        [each.replace(b'"choices"', b'\ndata: "choices"') for each in PLAIN],  # two lines of data
        [each.replace(b'"logprobs": null', b'"logprobs": {"content": []}') for each in PLAIN],
        [event(chunk({"content": "a"}, error=None)), text("b"), text("c"), *END],
    ],
)
def test_what_says_nothing_changes_nothing(events):
    found = read(answered(events))
    assert (found.status, found.text, found.events, found.oddities) == ("ok", "abc", 3, "")


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ({"reasoning_content": "thinks"}, "thinks"),
        ({"reasoning": "thinks"}, "thinks"),
        ({"reasoning": "thinks", "reasoning_content": "thinks"}, "thinks"),
        ({"reasoning": [{"type": "text", "text": "thin"}, {"text": "ks"}]}, "thinks"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "thinks"}]}, "thinks"),
        ({"content": [{"type": "text", "text": "says"}]}, "says"),
        ({"content": ["sa", "ys"]}, "says"),
        ({"content": {"type": "text", "text": "says"}}, "says"),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "thinks"}]}]},
            "thinks",
        ),
        ({"refusal": "no"}, "no"),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}, "f"),
        ({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}, '{"a": 1}'),
        ({"function_call": {"name": None, "arguments": "{}"}}, "{}"),
        ({"audio": {"transcript": "says", "data": "AAAA"}}, "says"),
    ],
)
def test_text_is_found_where_a_server_puts_it(delta, words):
    found = read(answered([ROLE, event(chunk(delta)), text("b"), *END]))
    assert (found.status, found.first, found.last) == ("ok", 2.0, 3.0)
    assert (found.text, found.events, found.oddities) == (words + "b", 2, "")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thinking_is_text_and_is_no_part_of_what_is_said(name):
    """Tokens 1 s apart: the time per token is 1 s, not that of the two tokens after thinking."""
    thinks = [event(chunk({name: "t"})) for _ in range(18)]
    found = read(answered([ROLE, *thinks, text("b"), text("c"), STOP, usage(output=20), DONE]))
    assert (found.first, found.last, found.events) == (2.0, 21.0, 20)
    assert (found.last - found.first) / (found.output_tokens - 1) == 1.0
    assert (found.content, found.text) == ("bc", "t" * 18 + "bc")


def test_the_older_form_and_whole_messages_are_text():
    old = {"index": 0, "text": "a", "finish_reason": None}
    found = read(answered([event(chunk(choices=[old])), text("b"), *END]))
    assert (found.text, found.content, found.oddities) == ("ab", "ab", "")
    message = {"index": 0, "message": {"content": "a"}, "finish_reason": None}
    found = read(answered([event(chunk(choices=[message])), text("b"), *END]))
    assert (found.text, found.oddities) == ("ab", "message_for_delta:1")


def test_several_tokens_in_an_event_are_the_servers_to_count():
    found = read(answered([ROLE, text("a b c d"), text(" e f g h"), STOP, usage(output=8), DONE]))
    assert (found.events, found.output_tokens) == (2, 8)


def several(*choices):
    """A chunk of several choices: (index, text, finish)."""
    listed = []
    for index, words, finish in choices:
        listed.append({"index": index, "delta": {"content": words}, "finish_reason": finish})
    return event(chunk(choices=listed))


def test_several_choices_are_one_answer():
    events = [
        several((0, "a", None), (1, "x", None)),
        several((1, "y", None)),
        several((0, "b", "stop")),
        several((1, "z", "length")),
        usage(output=5),
        DONE,
    ]
    found = read(answered(events))
    assert (found.status, found.text, found.content) == ("ok", "axybz", "ab")
    assert (found.finish_reason, found.events, found.last) == ("stop", 4, 4.0)
    cut = read(answered([*events[:3], *events[4:]]))
    assert cut.status == "cut_stream"


def test_escaped_and_odd_text_is_whole():
    words = ['say "hi"', "back\\slash", "new\nline", "\u00e9\u4e16\U0001f642", "\\u0041", "{}[]"]
    raw = []
    for each in words:
        raw.append(event(json.dumps(chunk({"content": each}), ensure_ascii=False)))
    found = read(answered([ROLE, *raw, *END]))
    assert (found.text, found.events, found.oddities) == ("".join(words), len(words), "")


def test_text_that_looks_like_a_chunk_is_text():
    words = '"content": "x"'
    found = read(answered([text("a"), text(words), text(words), text("b"), *END]))
    assert found.text == f"a{words}{words}b"


def test_half_characters_do_no_harm():
    lone = event(chunk({"content": "?"})).replace(b"?", b"\\ud800")
    broken = text("?").replace(b"?", b"\xff\xfe")
    found = read(answered([lone, broken, text("b"), *END]))
    assert (found.status, found.events) == ("ok", 3)
    assert found.text == "\ud800\ufffd\ufffdb"
    assert found.oddities == "invalid_utf8:1"
    reason = event(chunk({}, "?")).replace(b"?", b"\\udfff")
    found = read(answered([text("a"), reason, usage(), DONE]))
    assert found.finish_reason.encode() == b"?"
    failed = read(answered([event({"error": {"message": "?"}}).replace(b"?", b"\\ud800")]))
    assert failed.error.encode() == b"?"


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ([usage(1, 1), usage(7, 3)], (7, 3)),
        ([usage(7, 3), event(chunk(choices=[], usage=None))], (7, 3)),
        ([usage(7, 3), event(chunk(choices=[], usage={}))], (7, 3)),
        ([event(chunk(choices=[], usage={"prompt_tokens": 7})), usage(None, 3)], (7, 3)),
        ([event(chunk(choices=[], usage={"completion_tokens": 3}))], (None, 3)),
        ([usage(7.0, 3.0)], (7, 3)),
        ([event({"usage": {"prompt_tokens": 7, "completion_tokens": 3}})], (7, 3)),
        (
            [event({"choices": [], "x_groq": {"usage": {"completion_tokens": 3}}})],
            (None, 3),
        ),
        (
            [event(chunk(choices=[NOTE | {"delta": {}, "usage": {"completion_tokens": 3}}]))],
            (None, 3),
        ),
    ],
)
def test_the_last_count_that_is_one_counts(told, counts):
    found = read(answered([text("a"), STOP, *told, DONE]))
    assert (found.status, found.oddities) == ("ok", "")
    assert (found.prompt_tokens, found.output_tokens) == counts


def test_usage_in_every_chunk_is_no_obstacle():
    events = []
    for number in range(1, 6):
        counts = {"prompt_tokens": 7, "completion_tokens": number}
        events.append(text("a", usage=counts))
    found = read(answered([ROLE, *events, STOP, DONE]))
    assert (found.status, found.output_tokens, found.events) == ("ok", 5, 5)


@pytest.mark.parametrize(
    ("told", "oddities"),
    [
        ([], ""),
        ([event(chunk(choices=[], usage=None))], ""),
        ([usage(7, None)], ""),
        ([event(chunk(choices=[], usage={"prompt_tokens": 7, "total_tokens": 10}))], ""),
        ([usage(7, "3")], "usage.completion_tokens:1"),
        ([usage(7, True)], "usage.completion_tokens:1"),
        ([usage(7, -3)], "usage.completion_tokens:1"),
        ([usage(7, float("inf"))], "usage.completion_tokens:1"),
        ([usage(7, float("nan"))], "usage.completion_tokens:1"),
        ([event(chunk(choices=[], usage=[1, 2]))], "usage:1"),
    ],
)
def test_an_answer_without_a_count_says_so(told, oddities):
    found = read(answered([text("a"), STOP, *told, DONE]))
    assert (found.status, found.output_tokens, found.oddities) == ("no_usage", None, oddities)
    assert "usage" in found.error
    assert found.first is found.end is None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (event({"error": {"message": "out of memory", "code": 500}}), "out of memory"),
        (event({"error": "out of memory"}), "out of memory"),
        (event({"object": "error", "message": "out of memory"}), "out of memory"),
        (event({"detail": "out of memory"}), "out of memory"),
        (event({"error": {"code": 7}}), '{"code": 7}'),
        (event("out of memory", before="event: error\ndata: "), "out of memory"),
        (event({"message": "out of memory"}, before="event: error\ndata: "), "out of memory"),
        (event({"code": 7}, before="event: error\r\ndata: "), '{"code": 7}'),
        (event({"error": {"message": "out of memory"}}, before=""), "out of memory"),  # no field
    ],
)
@pytest.mark.parametrize("rest", [[], [DONE], END])
def test_an_error_in_a_stream_is_told_in_its_own_words(failure, words, rest):
    found = read(answered([ROLE, text("a"), failure, *rest]))
    assert (found.status, found.error) == ("error_event", words)
    assert found.events == 1
    assert found.first is None


@pytest.mark.parametrize(
    ("events", "end", "status"),
    [
        (PLAIN[:3], "closed", "cut_stream"),
        (PLAIN[:5], "closed", "cut_stream"),  # finished, but who knows the count
        ([*PLAIN[:3], PLAIN[3][:40]], "closed", "cut_stream"),
        (PLAIN[:3], "whole", "cut_stream"),
        ([ROLE, text("a"), DONE], "whole", "cut_stream"),
        ([], "whole", "cut_stream"),
        ([], "closed", "cut_stream"),
        ([DONE], "whole", "cut_stream"),
        (PLAIN[:3], "timeout", "timeout"),
        ([], "timeout", "timeout"),
        (PLAIN, "closed", "ok"),
        (PLAIN, "timeout", "ok"),  # the server keeps an answer open that has ended
        (PLAIN[:-1], "whole", "ok"),  # no [DONE]
        ([b"<html><title>Wait</title></html>"], "whole", "bad_stream"),
        ([event([1, 2]), event("x")], "whole", "bad_stream"),
    ],
)
def test_the_end_decides(events, end, status):
    found = read(answered(events, end=end))
    assert found.status == status
    assert (found.error is None) == (status == "ok")
    assert (found.end is None) == (status != "ok")


def test_an_end_that_is_not_the_usual_one_is_counted():
    assert read(answered(PLAIN, end="closed")).oddities == "no_end:1"
    assert read(answered(PLAIN[:-1])).oddities == "no_done:1"
    assert read(answered(PLAIN[:-1])).end == 7.0  # the body's end
    assert read(answered([*PLAIN, text("more"), b"\n"])).oddities == "after_done:1"
    assert read(answered([*PLAIN, text("more")])).text == "abc"


def test_an_answer_without_a_body_names_the_head():
    found = read(Answer(2.0, end="timeout", code=200, headers=STREAM, fault="no end within 5 s"))
    assert (found.status, found.first_byte) == ("timeout", None)
    assert found.error == "no end within 5 s; nothing but a head had come"


@pytest.mark.parametrize(
    ("kind", "body", "error"),
    [
        (
            "text/html; charset=utf-8",
            "<html><head><title>Sign\n in &amp; wait</title></head></html>",
            "answered text/html: Sign in & wait",
        ),
        (
            "text/html",
            "<style>b{}</style><p>Nothing <b>here</b></p>",
            "answered text/html: Nothing here",
        ),
        (
            "application/json",
            '{"object": "chat.completion", "choices": [{"message": {"content": "a"}}]}',
            "answered application/json: a plain chat completion; it does not stream",
        ),
        (
            "application/json",
            '{"error": {"message": "no such model"}}',
            "answered application/json: an error: no such model",
        ),
        ("application/json", '{"detail": "Not Found"}', "an error: Not Found"),
        ("application/json", "[]", "answered application/json: []"),
        ("text/plain", "hello", "answered text/plain: hello"),
        ("text/plain", "", "answered text/plain: nothing"),
        ("", "hello", "answered something without a content-type: hello"),
    ],
)
def test_what_is_no_stream_is_named(kind, body, error):
    found = read(answered([body.encode()], headers={"content-type": kind}))
    assert found.status == "not_a_stream"
    assert error in found.error


def test_a_stream_under_a_wrong_type_is_read_and_counted():
    for kind in ("application/json", "text/plain", ""):
        found = read(answered(PLAIN, headers={"content-type": kind}))
        assert (found.status, found.text, found.oddities) == ("ok", "abc", "content_type:1")


def test_a_completion_inside_of_a_stream_does_not_stream():
    message = {"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}
    whole = chunk(choices=[message], object="chat.completion", usage={"completion_tokens": 3})
    found = read(answered([event(whole), DONE]))
    assert found.status == "not_a_stream"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "too many"}}', "too many"),
        ('{"detail": [{"msg": "field required"}]}', '{"detail": [{"msg": "field required"}]}'),
        ("<html><title>502 Bad Gateway</title></html>", "502 Bad Gateway"),
        ("upstream is down", "upstream is down"),
        ("", "HTTP 503 without a word"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(body, words):
    found = read(answered([body.encode()], headers={}, code=503))
    assert (found.status, found.error) == ("http_503", words)


def test_a_redirect_says_where_to():
    found = read(answered([b""], headers={"location": "https://elsewhere/v1"}, code=307))
    assert (found.status, found.error) == ("http_307", "redirects to https://elsewhere/v1")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_packed_stream_is_unpacked_and_counted(pack):
    headers = STREAM | {"content-encoding": "gzip"}
    packed = pack(b"".join(PLAIN))
    found = read(answered([packed[:30], packed[30:]], headers=headers))
    assert (found.status, found.text, found.oddities) == ("ok", "abc", "packed:1")
    assert found.first == 2.0
    assert read(answered(PLAIN, headers=headers)).status == "bad_stream"


def test_lines_without_blank_lines_are_events_of_their_own():
    events = [each[:-1] for each in PLAIN]
    found = read(answered(events))
    assert (found.status, found.text, found.oddities) == ("ok", "abc", "no_blank_lines:1")
    assert (found.first, found.last, found.end) == (2.0, 4.0, 7.0)


@pytest.mark.parametrize(
    ("odd", "kinds"),
    [
        (event("{nonsense"), "bad_json:1"),
        (event([1]), "not_a_chunk:1"),
        (event("null"), "not_a_chunk:1"),
        (event({"hello": 1}), "not_a_chunk:1"),
        (event("[" * 100_000), "too_deep:1"),
        (event("1" * 10_000), "bad_json:1"),
        (event(chunk(choices={"a": 1})), "choices:1"),
        (event(chunk(choices=["a"])), "choice:1"),
        (event(chunk(choices=[{"index": "0", "delta": "a"}])), "delta:1"),
        (event(chunk({"content": 7})), "part_of_content:1"),
        (event(chunk({"content": [{"type": "image"}, 3]})), "part_of_content:2"),
        (event(chunk({"hologram": "x", "nothing": None})), "delta.hologram:1"),
        (event(chunk({"tool_calls": ["a", {"function": {"arguments": {}}}]})), "tool_call:1"),
        (b"what: ever\nis this\n\n", "line:2"),
        (b" x \n\n", "line:1"),
        (b"event: \xff\ndata: \xff\n\n", "bad_json:1,invalid_utf8:1"),
    ],
)
def test_what_is_not_understood_is_counted_and_stops_nothing(odd, kinds):
    found = read(answered([*PLAIN[:2], odd, *PLAIN[2:]]))
    assert (found.status, found.output_tokens) == ("ok", 3)
    assert "abc" in found.text.replace("{}", "")
    assert kinds in found.oddities


@pytest.mark.parametrize("reason", [7, {"why": "so"}])
def test_a_finish_reason_of_another_kind_is_one(reason):
    found = read(answered([text("a"), event(chunk({}, reason)), usage(), DONE]))
    assert (found.status, found.finish_reason) == ("ok", str(reason))
    assert found.oddities == "finish_reason:1"


def test_an_error_fits_a_table():
    found = read(answered([b"a\x00\n\tb " * 1000], headers={}, code=500))
    assert len(found.error) == MAX_ERROR_CHARACTERS
    assert found.error.startswith("a\x00 b a\x00 b ")


def test_connections_that_failed_have_their_words():
    refused = Answer(1.0, end="nothing", fault="connection refused")
    assert read(refused) == Reading("connection", error="connection refused")
    late = Answer(1.0, end="timeout", fault="no end within 3 s")
    assert read(late) == Reading("timeout", error="no end within 3 s")
    garbled = Answer(1.0, end="garbled", fault="invalid version")
    assert read(garbled).status == "bad_stream"


STATUSES = {
    "ok",
    "timeout",
    "connection",
    "cut_stream",
    "error_event",
    "bad_stream",
    "no_usage",
    "not_a_stream",
}
ODD = [
    *PLAIN,
    ANNOTATION,
    b": ping\n\n",
    event({"error": {"message": "no"}}),
    event(chunk({"tool_calls": [{"function": {"arguments": "{}"}}]})),
    event(chunk({"content": [{"text": "x"}]}, usage={"completion_tokens": 1})),
    several((0, "a", None), (1, "x", "stop")),
    event("[" * 2000 + "]" * 2000),
    b"\xef\xbb\xbf\xff\x00data",
]


def mangled(rng):
    """Some events of every kind, with bytes that are changed, gone, doubled, or cut elsewhere."""
    body = bytearray(b"".join(rng.choices(ODD, k=rng.randrange(1, 12))))
    for _ in range(rng.choice([0, 1, 5, 40])):
        at = rng.randrange(len(body))
        change = rng.randrange(4)
        if change == 0:
            body[at] = rng.randrange(256)
        elif change == 1:
            del body[at : at + rng.randrange(30)]
        elif change == 2:
            body[at:at] = body[at : at + rng.randrange(60)]
        else:
            body[at:at] = rng.choice([b'"', b"\\", b"\n\n", b"\r", b"{", b"null", b"data:"])
        body = body or bytearray(b"x")
    size = rng.choice([1, 3, 17, 200])
    return [bytes(body[at : at + size]) for at in range(0, len(body), size)]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_comes_raises(seed):
    rng = random.Random(seed)
    for _ in range(200):
        parts = mangled(rng)
        headers = rng.choice([STREAM, {}, {"content-type": "text/html", "content-encoding": "x"}])
        code = rng.choice([200, 200, 200, 429])
        end = rng.choice(["whole", "closed", "timeout"])
        found = read(answered(parts, headers=headers, end=end, code=code))
        assert found.status in STATUSES | {"http_429"}
        assert (found.error is None) == (found.status == "ok")
        if found.status == "ok":
            assert 1.0 <= found.first <= found.last
            assert found.last <= found.end or found.events == 0 or "after_done" in found.oddities
            assert found.output_tokens >= 0
        json.dumps(found.oddities)
        (found.error or "").encode()  # a file can hold it


@pytest.mark.parametrize("seed", range(5))
def test_the_short_way_reads_what_the_long_way_reads(seed):
    """Events of one kind are told by the bytes around their text; a field that changes each time
    makes each be read as JSON."""
    rng = random.Random(seed)
    words = ["a", '"', "\\", "\n", "é", "}", '"}', "data: [DONE]", '","finish_reason":"stop', " "]
    said = [rng.choice(words) * rng.randrange(1, 3) for _ in range(200)]
    short = read(answered([ROLE, *map(text, said), *END]))
    each_new = [text(each, obfuscation=str(number)) for number, each in enumerate(said)]
    long = read(answered([ROLE, *each_new, *END]))
    assert short == long
    assert short.text == "".join(said)


def test_a_long_answer_is_read_in_turns():
    """Others run meanwhile, and what is read is the same."""
    said = ["a", "\n", "b"] * 1000
    answer = answered([ROLE, *map(text, said), *END])

    async def read_beside():
        turns = 0
        reading = asyncio.create_task(read_in_turns(answer))
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        return turns, await reading

    turns, found = asyncio.run(read_beside())
    assert turns >= len(said) / SLICE - 1
    assert found == read(answer)
    assert (found.events, found.text) == (3000, "a\nb" * 1000)
    assert (found.first, found.last) == (2.0, 3001.0)


def test_a_reading_has_what_a_sample_takes():
    shared = {"status", "events", "prompt_tokens", "output_tokens", "finish_reason", "oddities"}
    assert shared | {"error"} <= set(Reading.__annotations__) & set(Sample.__annotations__)
