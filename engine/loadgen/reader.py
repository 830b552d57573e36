"""An answer's bytes and moments -> what a sample says of it. It never raises.

What is a stream is read by streams.py; what is none is named here.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from engine.loadgen.answers import CLOSED, GARBLED, NOTHING, TIMEOUT, WHOLE, Answer
from engine.loadgen.chunks import Told, error_in
from engine.loadgen.events import inflated
from engine.loadgen.streams import Stream

MAX_ERROR_CHARACTERS = 300
MAX_WORDS = 4000  # of a body, in search of a title
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(script|style).*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
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
    reading = _read(answer)
    if answer.arrived:
        reading = replace(reading, first_byte=answer.arrived[0])
    if reading.error:
        reading = replace(reading, error=_short(reading.error))
    return reading


def _read(answer: Answer) -> Reading:
    if answer.end == GARBLED:
        return Reading("bad_stream", error=f"the answer is no HTTP: {answer.fault}")
    if answer.code == 0:
        status = "timeout" if answer.end == TIMEOUT else "connection"
        return Reading(status, error=answer.fault)
    oddities: Counter[str] = Counter()
    coding = answer.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        oddities["packed"] += 1  # though identity was asked for
        parts = inflated(answer.parts)
        if parts is None:
            return Reading("bad_stream", error=f"the answer is packed ({coding})")
        answer = replace(answer, parts=parts)
    if answer.code != 200:
        return Reading(f"http_{answer.code}", error=_refusal(answer))
    if answer.end != WHOLE and not any(answer.parts):
        status = "timeout" if answer.end == TIMEOUT else "cut_stream"
        return Reading(status, error=f"{answer.fault}; nothing but a head had come")
    if not _is_stream(answer, oddities):
        return Reading("not_a_stream", error=_kind_of(answer))
    return _read_stream(answer, oddities)


def _read_stream(answer: Answer, oddities: Counter[str]) -> Reading:
    is_whole = answer.end == WHOLE
    stream = Stream(answer.parts, answer.arrived, is_whole=is_whole, oddities=oddities)
    told = stream.told
    if told.is_done and not is_whole:
        told.note("no_end")
    if not told.is_done and is_whole and told.finish_reasons:
        told.note("no_done")
    status, error = _verdict(answer, told)
    listed = [f"{kind}:{count}" for kind, count in sorted(oddities.items())]
    reading = Reading(
        status,
        events=stream.with_text,
        prompt_tokens=told.prompt_tokens,
        output_tokens=told.output_tokens,
        text="".join(told.texts),
        content="".join(told.content),
        finish_reason=_finish_reason(told),
        oddities=",".join(listed),
        error=error,
    )
    if status != "ok":
        return reading
    end = answer.ended if stream.done is None else stream.done
    return replace(reading, first=stream.first, last=stream.last, end=end)


def _verdict(answer: Answer, told: Told) -> tuple[str, str | None]:
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
        return _without_chunks(_body(answer).strip())
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


def _is_stream(answer: Answer, oddities: Counter[str]) -> bool:
    if _media_type(answer) == "text/event-stream":
        return True
    start = b"".join(answer.parts[:8]).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_STREAM_STARTS):
        oddities["content_type"] += 1
        return True
    return False


def _media_type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refusal(answer: Answer) -> str:
    """The server's own words where the status is no success."""
    if 300 <= answer.code < 400:
        return f"redirects to {answer.headers.get('location', 'nowhere')}"
    body = _body(answer)
    words = error_in(_json(body))
    if words is None and _looks_like_html(answer, body):
        words = _page(body)
    return words or body.strip() or f"HTTP {answer.code} without a word"


def _kind_of(answer: Answer) -> str:
    """What came where a stream was due."""
    body = _body(answer).strip()
    kind = _media_type(answer) or "something without a content-type"
    return f"answered {kind}: {_what(answer, body)}"


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


def _body(answer: Answer) -> str:
    return b"".join(answer.parts).decode(errors="replace")


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
