"""Streams as servers send them, byte by byte: what the load generator's reader is tried against."""

import json

from engine.loadgen.answers import Answer

STREAM = {"content-type": "text/event-stream; charset=utf-8"}
DONE = b"data: [DONE]\n\n"


def event(payload, before="data: ", after="\n\n"):
    """One event; text is sent as it is."""
    if not isinstance(payload, str | bytes):
        payload = json.dumps(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    return before.encode() + payload + after.encode()


def chunk(delta=None, finish=None, **more):
    """A chunk with one choice."""
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "choices": [choice],
    } | more


def text(words, **more):
    """An event with content."""
    return event(chunk({"content": words}, **more))


def usage(prompt=7, output=3, **more):
    """An event with the server's counts."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": 10} | more
    return event(chunk(choices=[], usage=counts))


ROLE = event(chunk({"role": "assistant", "content": ""}))
STOP = event(chunk({}, "stop"))
END = [STOP, usage(), DONE]


def answered(events, *, headers=STREAM, end="whole", code=200, step=1.0, fault="it closed"):
    """An answer whose events came in a part each, `step` apart from 1.0 on."""
    arrived = [1.0 + step * place for place in range(len(events))]
    return Answer(
        ended=arrived[-1] + step if arrived else 1.0,
        end=end,
        code=code,
        headers=headers,
        parts=list(events),
        arrived=arrived,
        fault=fault,
    )
