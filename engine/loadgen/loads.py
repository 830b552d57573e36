"""When the requests of a share leave. One of an open loop never waits for another; the next one of
a slot leaves when its last one ended, and a user's when its answer was thought about."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import numpy as np

from engine.loadgen.sender import Sender
from engine.loadgen.shares import Schedule, Slots, Users
from engine.rows.records import Messages

# a slot that is refused at once would otherwise send thousands of requests a second
FAILURE_PAUSE_S = 0.1
AHEAD = 32  # requests that are ready before they are due


async def keep_in_flight(sender: Sender, slots: Slots) -> None:
    """A closed loop."""
    warm = itertools.cycle(slots.warm)
    timed = itertools.cycle(slots.timed)

    async def keep_one() -> None:
        await sender.timer.until(sender.begin)
        while (now := time.perf_counter()) < sender.end:
            prompt = next(warm if now < sender.zero else timed)
            tokens, words = sender.lengths(sender.rng)
            request = sender.requests.render(prompt, tokens, words)
            reading = await sender.send(time.perf_counter(), request, prompt)
            if reading.status != "ok":
                await asyncio.sleep(FAILURE_PAUSE_S)

    await asyncio.gather(*(keep_one() for _ in range(slots.count)))


async def follow(sender: Sender, schedule: Schedule) -> None:
    """An open loop. Requests are rendered before they are due, and leave from wherever the loop is
    at that moment."""
    prompts = schedule.prompts.tolist()
    ahead = asyncio.Semaphore(AHEAD)
    async with asyncio.TaskGroup() as tasks:

        def leave(intended: float, request: bytes, prompt: int) -> None:
            tasks.create_task(sender.send(intended, request, prompt))
            ahead.release()

        for place, at_s in enumerate(schedule.times_s.tolist()):
            tokens = words = None
            if schedule.limits is not None:
                tokens = int(schedule.limits[place])
            if schedule.words is not None:
                words = int(schedule.words[place])
            await ahead.acquire()
            request = sender.requests.render(prompts[place], tokens, words)
            intended = sender.zero + at_s
            sender.timer.call_at(intended, partial(leave, intended, request, prompts[place]))
        for _ in range(AHEAD):  # until the last has left
            await ahead.acquire()


async def converse(sender: Sender, users: Users) -> None:
    """Sessions."""
    await asyncio.gather(*(_use(sender, users, number) for number in users.numbers))


async def _use(sender: Sender, users: Users, number: int) -> None:
    """One user, session after session. What it draws depends on its number alone, so that it is the
    same in whatever process; it begins somewhere within its first thinking."""
    rng = np.random.default_rng([sender.share.seed, number])
    prompts = _prompts_of(users, number)
    intended = sender.begin + _thinking(users, rng) * rng.uniform()
    for session in itertools.count():
        turns = int(users.turns.counts(rng, 1)[0])
        said: Messages = []
        for turn in range(turns):
            prompt = next(prompts)
            tokens, words = sender.lengths(rng)
            asked = sender.requests.messages(prompt, words)
            said += asked[-1:] if turn else asked
            request = sender.requests.render_messages(said, tokens)
            if intended >= sender.end:
                return
            await sender.timer.until(intended)
            reading = await sender.send(
                intended, request, prompt, session * users.of + number, turn
            )
            thinks_s = _thinking(users, rng)
            if reading.status != "ok":  # there is nothing to go on from
                intended = time.perf_counter() + max(thinks_s, FAILURE_PAUSE_S)
                break
            intended = (reading.end or time.perf_counter()) + thinks_s
            said.append({"role": "assistant", "content": reading.content})


def _thinking(users: Users, rng: np.random.Generator) -> float:
    return float(users.think_s.draw(rng, 1)[0])


def _prompts_of(users: Users, number: int) -> Iterator[int]:
    """All users take turns with the prompts, each time round by one further."""
    total = len(users.order)

    def prompt_at(place: int) -> int:
        return users.order[(place + place // total) % total]

    return map(prompt_at, itertools.count(number, users.of))


# by what a share has to send
LOADS: dict[type, Callable[[Sender, Any], Coroutine[Any, Any, None]]] = {
    Slots: keep_in_flight,
    Schedule: follow,
    Users: converse,
}
