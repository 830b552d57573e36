"""A plan dealt out to processes. What is drawn is drawn here, once: how many processes send a load
changes neither its times nor its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import SpecError
from engine.loadgen.arrivals import arrivals
from engine.loadgen.distributions import Distribution
from engine.loadgen.plans import Closed, Open, Plan, Replay, Sessions
from engine.loadgen.target import Shape, Target
from engine.rows.records import Messages


@dataclass(frozen=True)
class Slots:
    """So many requests in flight, with prompts of the warm-up and of the window in this order."""

    count: int
    warm: list[int]
    timed: list[int]


@dataclass(frozen=True)
class Schedule:
    """Requests at times (s after the window's start, rising), each with its prompt, and with its
    length and its answer's where they are drawn."""

    times_s: np.ndarray
    prompts: np.ndarray
    limits: np.ndarray | None = None
    words: np.ndarray | None = None

    def __getitem__(self, part: slice | np.ndarray) -> Schedule:
        """Those of its requests."""
        return Schedule(
            self.times_s[part],
            self.prompts[part],
            None if self.limits is None else self.limits[part],
            None if self.words is None else self.words[part],
        )


@dataclass(frozen=True)
class Users:
    """Users by number, of so many in all; prompts in this order."""

    numbers: list[int]
    of: int
    order: list[int]
    turns: Distribution
    think_s: Distribution


@dataclass(frozen=True)
class Share:
    """What one process sends, complete: it can be pickled."""

    process: int
    target: Target
    shape: Shape
    prompts: Sequence[Messages]
    work: Slots | Schedule | Users
    seconds: float
    warmup_s: float
    seed: int  # the same for all: what is drawn while it is sent takes a slot's or a user's number


def deal(
    target: Target, shape: Shape, prompts: Sequence[Messages], plan: Plan, processes: int = 1
) -> list[Share]:
    """A share for each process that gets something to do. SpecError without a prompt."""
    if isinstance(plan.load, Replay) and plan.load.trace.prompts:
        prompts = plan.load.trace.prompts
    if not prompts:
        raise SpecError("a load needs prompts; give one at least")
    seeds = np.random.SeedSequence(plan.seed).spawn(4)
    times, order, lengths, own = map(np.random.default_rng, seeds)
    whole = Share(
        process=0,
        target=target,
        shape=shape,
        prompts=prompts,
        work=_work(shape, prompts, plan, times, order, lengths),
        seconds=plan.seconds,
        warmup_s=plan.warmup_s,
        seed=int(own.integers(2**63)),
    )
    shares = []
    for process, work in enumerate(_parts(whole.work, processes)):
        shares.append(replace(whole, process=process, work=work))
    return shares


def _work(
    shape: Shape,
    prompts: Sequence[Messages],
    plan: Plan,
    times: np.random.Generator,
    order: np.random.Generator,
    lengths: np.random.Generator,
) -> Slots | Schedule | Users:
    load = plan.load
    shuffled = order.permutation(len(prompts))
    if isinstance(load, Sessions):
        numbers = list(range(load.users))
        return Users(numbers, load.users, shuffled.tolist(), load.turns, load.think_s)
    warm, timed = _split(shuffled, plan)
    if isinstance(load, Closed):
        return Slots(load.concurrency, warm.tolist(), timed.tolist())
    if isinstance(load, Replay):
        return _replayed(load, plan, warm, timed)
    at = _drawn(load, plan, times)
    return Schedule(
        at,
        _prompts_at(at, warm, timed),
        _counts(shape.output_tokens, lengths, len(at)),
        _counts(shape.input_words, lengths, len(at)),
    )


def _drawn(load: Open, plan: Plan, rng: np.random.Generator) -> np.ndarray:
    lasts_s = plan.warmup_s + plan.seconds
    drawn = arrivals(load.arrivals, rng, load.rate_rps, lasts_s, load.options)
    return drawn - plan.warmup_s


def _counts(lengths: Distribution | None, rng: np.random.Generator, size: int) -> np.ndarray | None:
    return None if lengths is None else lengths.counts(rng, size)


def _split(order: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of the warm-up and of the window; disjoint, or a prefix cache would flatter the
    figures."""
    share = plan.warmup_s / (plan.warmup_s + plan.seconds)
    if not share or len(order) == 1:
        return order, order
    warm = min(max(1, round(len(order) * share)), len(order) - 1)
    return order[:warm], order[warm:]


def _prompts_at(times_s: np.ndarray, warm: np.ndarray, timed: np.ndarray) -> np.ndarray:
    """The prompt of each request: each list in its order, and again from its start."""
    early = int(np.count_nonzero(times_s < 0))
    late = len(times_s) - early
    return np.concatenate([np.resize(warm, early), np.resize(timed, late)])


def _replayed(load: Replay, plan: Plan, warm: np.ndarray, timed: np.ndarray) -> Schedule:
    trace = load.trace
    at = trace.times_s / load.speed - plan.warmup_s
    words = None
    if trace.prompts:
        prompts = np.arange(len(at))
    else:
        prompts = _prompts_at(at, warm, timed)
        if trace.input_tokens is not None:
            words = np.rint(trace.input_tokens / load.tokens_per_word)
            words = np.maximum(1, words).astype(int)
    limits = None
    if trace.output_tokens is not None:
        limits = np.maximum(1, trace.output_tokens)
    return Schedule(at, prompts, limits, words)[at < plan.seconds]


def _parts(work: Slots | Schedule | Users, processes: int) -> list[Slots | Schedule | Users]:
    """Every n-th for each of n processes; fewer parts where there is less to do."""
    if isinstance(work, Schedule):
        return [work[place::processes] for place in range(processes)]
    if isinstance(work, Users):
        used = min(processes, work.of)
        return [replace(work, numbers=work.numbers[place::used]) for place in range(used)]
    used = min(processes, work.count)
    parts = []
    for place in range(used):
        count = len(range(place, work.count, used))
        # with fewer prompts than processes, some have the same
        warm = work.warm[place::used] or work.warm
        timed = work.timed[place::used] or work.timed
        parts.append(Slots(count, warm, timed))
    return parts
