"""Some answers without a level: whether there is a server that can be loaded, before a level is
wasted on it, and how its tokens count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import uvloop

from engine.loadgen.generator import samples_of
from engine.loadgen.samples import Sample
from engine.loadgen.sender import Sender
from engine.loadgen.shares import Share, Slots
from engine.loadgen.target import Shape, Target
from engine.loadgen.timer import Timer
from engine.rows.records import Messages

_WRONG_PATH = {"http_404", "http_405", "not_a_stream", "http_301", "http_307", "http_308"}
_NEXT_STEPS = {
    "http_401": "give the right key",
    "http_403": "give a key that may use this model",
    "http_404": "is the model served there, under this name?",
    "http_429": "it has too much to do already, or a limit for this key",
    "connection": "is it running, at this host and port?",
    "timeout": "give it more time, or look at its log",
    "no_usage": "its tokens cannot be counted; let it send usage (stream_options.include_usage)",
}


@dataclass(frozen=True)
class Said:
    """One answer: its figures, and all that the model wrote (reasoning and tool calls too)."""

    sample: Sample
    text: str


def ask(target: Target, shape: Shape, prompts: Sequence[Messages]) -> list[Said]:
    """The answers to these prompts, which are asked at the same time."""
    return uvloop.run(_ask(target, shape, prompts))


async def _ask(target: Target, shape: Shape, prompts: Sequence[Messages]) -> list[Said]:
    share = Share(0, target, shape, prompts, Slots(len(prompts), [], []), 1.0, 0.0, seed=0)
    texts = {}
    with Timer() as timer:
        sender = Sender(share, timer)
        now = time.perf_counter()
        sender.open_window(now)

        async def send(prompt: int) -> None:
            reading = await sender.send(now, sender.requests.render(prompt), prompt)
            texts[prompt] = reading.text

        await asyncio.gather(*(send(prompt) for prompt in range(len(prompts))))
        sender.connections.close()
    samples = sorted(samples_of(sender.rows), key=lambda sample: sample.prompt)
    return [Said(sample, texts[sample.prompt]) for sample in samples]


def refusal(target: Target, shape: Shape, prompt: Messages) -> str | None:
    """Why this target cannot be loaded, in one sentence with what to do next; None: it answers."""
    (said,) = ask(target, shape, [prompt])
    status = said.sample.status
    if status == "ok":
        return None
    words = f"{target.url} ({status}): {said.sample.error}"
    other = _with_version(target)
    if other and status in _WRONG_PATH:
        (elsewhere,) = ask(other, shape, [prompt])
        if elsewhere.sample.status == "ok":
            return f"{words}; it answers at {other.url}, use that"
    step = _NEXT_STEPS.get(status)
    return f"{words}; {step}" if step else words


def _with_version(target: Target) -> Target | None:
    """The target with /v1 behind its address, where it has no path."""
    parts = urlsplit(target.url)
    if parts.path.strip("/"):
        return None
    return replace(target, url=parts._replace(path="/v1").geturl())
