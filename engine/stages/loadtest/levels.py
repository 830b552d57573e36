"""The block `loadtest` -> the loads that it asks for, in the words of the wing that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.job.spec.loadtest import DistributionSpec, LoadtestSpec, SloSpec
from engine.loadgen.distributions import Distribution
from engine.loadgen.plans import Closed, Load, Open, Plan, Replay, Sessions
from engine.loadgen.target import Shape
from engine.loadgen.traces import load_trace
from engine.rows.ids import derive_seed
from engine.stages.loadtest.goodput import Slo


def loads_of(spec: LoadtestSpec) -> list[Load]:
    """Every level of a job: closed loops, rates, sessions, and a trace. InputError for a trace that
    cannot be read."""
    loads: list[Load] = [Closed(in_flight) for in_flight in spec.closed_levels]
    loads += [open_load(spec, rate_rps) for rate_rps in spec.rates]
    if spec.sessions:
        turns = _distribution(spec.sessions.turns)
        think_s = _distribution(spec.sessions.think_s)
        loads += [Sessions(users, turns, think_s) for users in spec.sessions.users]
    if spec.trace:
        loads.append(Replay(load_trace(Path(spec.trace.path)), spec.trace.speed))
    return loads


def open_load(spec: LoadtestSpec, rate_rps: float) -> Open:
    """Requests at that rate, with the job's arrivals."""
    options: Mapping[str, float] = {}
    if spec.arrivals == "gamma":
        options = {"burstiness": spec.burstiness}
    return Open(rate_rps, spec.arrivals, options)


def plan_of(load: Load, spec: LoadtestSpec, seed: int) -> Plan:
    """The level of a load. Its seed knows the load, not the model: teacher and student get the same
    prompts at the same times."""
    level_seed = derive_seed(seed, "loadtest", name_of(load))
    return Plan(load, spec.seconds, spec.warmup_seconds, level_seed)


def name_of(load: Load) -> str:
    """What is asked, for people and for seeds: `concurrency=4`."""
    name, size = load.size
    return f"{name}={size:g}"


def shape_of(spec: LoadtestSpec) -> Shape:
    """What each request asks for."""
    return Shape(
        max_tokens=spec.max_tokens,
        temperature=spec.temperature,
        body=spec.body,
        timeout_s=spec.timeout_s,
        output_tokens=_if_given(spec.output_tokens),
        input_words=_if_given(spec.input_words),
    )


def slo_of(spec: SloSpec | None) -> Slo | None:
    """What an answer must keep."""
    return Slo(**spec.model_dump()) if spec else None


def _if_given(spec: DistributionSpec | None) -> Distribution | None:
    return None if spec is None else _distribution(spec)


def _distribution(spec: DistributionSpec) -> Distribution:
    return Distribution(**spec.model_dump())
