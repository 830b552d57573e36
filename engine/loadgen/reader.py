"""An answer's bytes and moments -> what a sample says of it. It never raises.

What is a stream is read by streams.py; what is none is named here.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.loadgen.answers import CLOSED, GARBLED, TIMEOUT, WHOLE, Answer
from engine.loadgen.chunks import Told, error_in
from engine.loadgen.events import inflated
from engine.loadgen.streams import Stream

MAX_ERROR_CHARACTERS = 300
MAX_WORDS = 4000  # of a body, in search of a title
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(script|style).*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_PACKING = "content-encoding"
_STREAM_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")


@dataclass(frozen=True)
class Reading:
    """What an answer says. Moments are time.perf_counter's; an answer that failed has none but that
    of its first byte. `status` and `oddities` are as in samples.Sample, and so are the counts."""

    status: str
    first_byte: float | None = None  # of the body
    first: float | None = None  # event with text; an answer without text: its finish
    last: float | None = None
    end: float | None = None
    events: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    text: str = ""  # all that the model wrote, in the order in which it came
    content: str = ""  # of the first choice, without its reasoning
    finish_reason: str | None = None
    oddities: str = ""
    error: str | None = None


def read(answer: Answer) -> Reading:
    """What the answer says, or why it says nothing."""
    steps = _reading(answer)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


async def read_in_turns(answer: Answer) -> Reading:
    """The same, with turns for others while a long answer is read."""
    steps = _reading(answer)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        await asyncio.sleep(0)


def _reading(answer: Answer) -> Generator[None, None, Reading]:
    parts = answer.parts
    if _is_packed(answer):
        unpacked = inflated(parts)
        if unpacked is None:
            return _failed(answer, "bad_stream", f"it is packed: {answer.headers[_PACKING]}")
        parts = unpacked
    failure = _failure_of(answer, parts)
    if failure:
        return _failed(answer, *failure)
    is_whole = answer.end == WHOLE
    stream = Stream(parts, answer.arrived, is_whole=is_whole, oddities=_oddities_of(answer))
    yield from stream.steps()
    return _said_by(stream, answer, parts)


def _is_packed(answer: Answer) -> bool:
    """Although identity was asked for."""
    return answer.headers.get(_PACKING, "identity").lower() != "identity"


def _failed(answer: Answer, status: str, words: str) -> Reading:
    first_byte = answer.arrived[0] if answer.arrived else None
    return Reading(status, first_byte, error=_short(words))


def _failure_of(answer: Answer, parts: Sequence[bytes]) -> tuple[str, str] | None:
    """Status and words of an answer that is no stream."""
    if answer.end == GARBLED:
        return "bad_stream", f"the answer is no HTTP: {answer.fault}"
    if answer.code == 0:
        return "timeout" if answer.end == TIMEOUT else "connection", answer.fault
    if answer.code != 200:
        return f"http_{answer.code}", _refusal(answer, _text(parts))
    if answer.end != WHOLE and not any(parts):
        status = "timeout" if answer.end == TIMEOUT else "cut_stream"
        return status, f"{answer.fault}; nothing but a head had come"
    if not _is_named_a_stream(answer) and not _starts_as_a_stream(parts):
        return "not_a_stream", _kind_of(answer, _text(parts))
    return None


def _oddities_of(answer: Answer) -> Counter[str]:
    """Of its head."""
    oddities: Counter[str] = Counter()
    if _is_packed(answer):
        oddities["packed"] += 1
    if not _is_named_a_stream(answer):
        oddities["content_type"] += 1
    return oddities


def _said_by(stream: Stream, answer: Answer, parts: Sequence[bytes]) -> Reading:
    is_whole = answer.end == WHOLE
    told = stream.told
    if told.is_done and not is_whole:
        told.note("no_end")
    if not told.is_done and is_whole and told.finish_reasons:
        told.note("no_done")
    status, error = _verdict(answer, told, parts)
    first = last = end = None
    if status == "ok":
        first, last = stream.first, stream.last
        end = answer.ended if stream.done is None else stream.done
    listed = [f"{kind}:{count}" for kind, count in sorted(told.oddities.items())]
    return Reading(
        status,
        first_byte=answer.arrived[0] if answer.arrived else None,
        first=first,
        last=last,
        end=end,
        events=stream.with_text,
        prompt_tokens=told.prompt_tokens,
        output_tokens=told.output_tokens,
        text="".join(told.texts),
        content="".join(told.content),
        finish_reason=_finish_reason(told),
        oddities=",".join(listed),
        error=_short(error) if error else None,
    )


def _verdict(answer: Answer, told: Told, parts: Sequence[bytes]) -> tuple[str, str | None]:
    """The status of a stream, and the words of one that failed."""
    came = f"{told.chunks} chunks had come"
    if told.error is not None:
        return "error_event", told.error or "without a word"
    if answer.end == TIMEOUT and not told.is_done:
        return "timeout", f"{answer.fault}; {came}"
    if told.is_plain:
        return "not_a_stream", "answered a plain chat completion in one event; it does not stream"
    if answer.end == CLOSED and not told.is_done:
        return "cut_stream", f"{answer.fault}; {came}"
    if not told.chunks and not told.is_done:
        return _without_chunks(_text(parts).strip())
    if not told.finish_reasons or told.choices - told.finish_reasons.keys():
        return "cut_stream", f"it ended without a finish_reason; {came}"
    if told.output_tokens is None:
        words = "its usage has no completion_tokens" if told.has_usage else "no chunk has usage"
        return "no_usage", words
    return "ok", None


def _without_chunks(body: str) -> tuple[str, str]:
    if not body:
        return "cut_stream", "the stream was empty"
    return "bad_stream", f"no chunk in it: {body[:MAX_WORDS]}"


def _finish_reason(told: Told) -> str | None:
    if not told.finish_reasons:
        return None
    return _without_halves(told.finish_reasons[min(told.finish_reasons)])


def _is_named_a_stream(answer: Answer) -> bool:
    return _media_type(answer) == "text/event-stream"


def _starts_as_a_stream(parts: Sequence[bytes]) -> bool:
    start = b"".join(parts[:8]).removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(_STREAM_STARTS)


def _media_type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refusal(answer: Answer, body: str) -> str:
    """The server's own words where the status is no success."""
    if 300 <= answer.code < 400:
        return f"redirects to {answer.headers.get('location', 'nowhere')}"
    words = error_in(_json(body))
    if words is None and _looks_like_html(answer, body):
        words = _page(body)
    return words or body.strip() or f"HTTP {answer.code} without a word"


def _kind_of(answer: Answer, body: str) -> str:
    """What came where a stream was due."""
    kind = _media_type(answer) or "something without a content-type"
    return f"answered {kind}: {_what(answer, body.strip())}"


def _what(answer: Answer, body: str) -> str:
    content = _json(body)
    words = error_in(content)
    if words:
        return f"an error: {words}"
    if isinstance(content, dict) and isinstance(content.get("choices"), list):
        return "a plain chat completion; it does not stream"
    if _looks_like_html(answer, body):
        return _page(body)
    return body or "nothing"


def _text(parts: Sequence[bytes]) -> str:
    return b"".join(parts).decode(errors="replace")


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _looks_like_html(answer: Answer, body: str) -> bool:
    return _media_type(answer) == "text/html" or body.lstrip().startswith("<")


def _page(body: str) -> str:
    """A page's title, or its first words."""
    body = body[:MAX_WORDS]
    title = _TITLE.search(body)
    words = title[1] if title else _TAG.sub(" ", body)
    return " ".join(html.unescape(words).split())


def _short(words: str) -> str:
    """One line, not too long, that every file and terminal can hold."""
    return " ".join(_without_halves(words).split())[:MAX_ERROR_CHARACTERS]


def _without_halves(words: str) -> str:
    """JSON can spell half of a surrogate pair, which is no text."""
    return words.encode(errors="replace").decode()
