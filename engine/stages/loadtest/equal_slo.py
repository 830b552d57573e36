"""Two models at the same SLO: how many users each carries, how fast it answers them, what its good
tokens cost, and by how much the second is better.

Every figure says how it was measured; what was not measured stays unknown, with the reason. A ratio
is above 1 where the second model (the student) is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.loadgen.samples import Level
from engine.stages.loadtest.figures import PERCENTILES, ends
from engine.stages.loadtest.files import Measured, label_of
from engine.stages.loadtest.goodput import Slo, goodput_of
from engine.stages.loadtest.intervals import UNKNOWN, Interval, percentile_interval
from engine.stages.loadtest.knee import Knee, knee_of, trial_of
from engine.stages.loadtest.series import series_of
from engine.stages.loadtest.verdict import OK, evidence_of, verdict_of

_LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and how it came about; without a value: why there is none."""

    value: float | None
    interval: Interval
    how: str

    def as_fields(self) -> dict[str, Any]:
        """The entry in report.json."""
        value = None if self.value is None else round(self.value, 4)
        return {"value": value, "ci": ends(self.interval, digits=4), "how": self.how}


@dataclass(frozen=True)
class Side:
    """One model: its levels of one kind, and its knee."""

    name: str
    measured: tuple[Measured, ...]
    knee: Knee
    usd_per_hour: float | None

    def at_knee(self, slo: Slo) -> Measured | None:
        """The level with the largest load that kept the SLO and is no larger than the knee."""
        found = None
        most = -math.inf
        for each, trial in zip(self.measured, self.knee.trials, strict=True):
            is_kept = trial.verdict == OK and trial.share >= slo.percentile / 100
            is_below = self.knee.load is None or trial.load <= 1.001 * self.knee.load
            if is_kept and is_below and trial.load > most:
                found, most = each, trial.load
        return found


def compare(
    measured: Sequence[Measured],
    first: str,
    second: str,
    slo: Slo,
    usd_per_hour: Mapping[str, float],
) -> dict[str, Any]:
    """Teacher (`first`) against student, from the levels of both: of the first kind of UNITS that
    both have."""
    unit = _common_unit(measured, first, second)
    sides = [_side(measured, name, unit, slo, usd_per_hour.get(name)) for name in (first, second)]
    load = [_knee(side) for side in sides]
    tokens = [_good_tokens(side, slo) for side in sides]
    cost = [_cost(side, rate) for side, rate in zip(sides, tokens, strict=True)]
    return {
        "first": first,
        "second": second,
        "slo": {**slo.bounds, "percentile": slo.percentile},
        "unit": unit,
        "load": _pair(*load, _ratio(load[1], load[0])),
        "good_tokens_per_second": _pair(*tokens, _ratio(tokens[1], tokens[0])),
        "usd_per_million_good_tokens": _pair(*cost, _ratio(cost[0], cost[1])),
        "latency": _latency(*sides),
    }


def _pair(first: Estimate, second: Estimate, ratio: Estimate) -> dict[str, Any]:
    return {
        "first": first.as_fields(),
        "second": second.as_fields(),
        "ratio": ratio.as_fields(),
    }


def _users(level: Level) -> float | None:
    return level.concurrency if level.kind == "sessions" else None


def _in_flight(level: Level) -> float | None:
    return level.concurrency if level.kind == "closed" else None


def _rate_rps(level: Level) -> float | None:
    return None if level.kind == "trace" else level.rate


UNITS: dict[str, Callable[[Level], float | None]] = {
    "users": _users,
    "requests in flight": _in_flight,
    "requests/s": _rate_rps,
}


def _common_unit(measured: Sequence[Measured], first: str, second: str) -> str | None:
    for unit, load_of in UNITS.items():
        loaded = {each.model for each in measured if load_of(each.level) is not None}
        if {first, second} <= loaded:
            return unit
    return None


def _side(
    measured: Sequence[Measured],
    name: str,
    unit: str | None,
    slo: Slo,
    usd_per_hour: float | None,
) -> Side:
    own = []
    trials = []
    for each in measured:
        load = None if unit is None else UNITS[unit](each.level)
        if each.model == name and load is not None:
            own.append(each)
            trials.append(trial_of(float(load), each.level, slo, each.ceiling))
    knee = knee_of(trials, slo, whole=unit != "requests/s")
    return Side(name, tuple(own), knee, usd_per_hour)


def _knee(side: Side) -> Estimate:
    if not side.measured:
        return Estimate(None, UNKNOWN, "there is no kind of load that both models had")
    return Estimate(side.knee.load, side.knee.interval, side.knee.reason)


def _good_tokens(side: Side, slo: Slo) -> Estimate:
    at = side.at_knee(slo)
    if at is None:
        return Estimate(None, UNKNOWN, f"no level of '{side.name}' kept the SLO")
    window_s = at.level.window_s
    within = series_of(at.level.samples).within(0.0, window_s * 1000)
    found = goodput_of(within, slo, window_s)
    how = f"at {label_of(at.level)}, the largest load of '{side.name}' that kept the SLO"
    if found.tokens_per_second is None:
        return Estimate(None, UNKNOWN, f"'{side.name}' does not say how long its answers are")
    return Estimate(found.tokens_per_second, found.tokens_interval, how)


def _cost(side: Side, tokens_per_second: Estimate) -> Estimate:
    if side.usd_per_hour is None:
        return Estimate(None, UNKNOWN, f"no price per hour was given for '{side.name}'")
    if not tokens_per_second.value:
        return Estimate(None, UNKNOWN, tokens_per_second.how)
    usd_per_million = side.usd_per_hour / 3600 * 1e6
    low, high = tokens_per_second.interval.low, tokens_per_second.interval.high
    least = usd_per_million / high if high else None
    most = usd_per_million / low if low else None
    how = f"{side.usd_per_hour:g} USD per hour, {tokens_per_second.how}"
    return Estimate(usd_per_million / tokens_per_second.value, Interval(least, most), how)


def _latency(first: Side, second: Side) -> dict[str, Any]:
    """At the largest load at which both were ok: what a user feels who does not care how many
    others there are."""
    load = _largest_common_load(first, second)
    if load is None:
        reason = f"no load at which both '{first.name}' and '{second.name}' were ok"
        return {"load": None, "how": reason}
    found: dict[str, Any] = {"load": load, "how": f"both at {load}"}
    for name in _LATENCIES:
        for percentile, share in PERCENTILES.items():
            pair = [_percentile(side, load, name, share) for side in (first, second)]
            found[f"{name}_{percentile}"] = _pair(*pair, _ratio(pair[0], pair[1]))
    return found


def _largest_common_load(first: Side, second: Side) -> str | None:
    fine: list[dict[str, float]] = []
    for side in (first, second):
        loads = {}
        for each, trial in zip(side.measured, side.knee.trials, strict=True):
            if trial.verdict == OK:
                loads[label_of(each.level)] = trial.load
        fine.append(loads)
    common = fine[0].keys() & fine[1].keys()
    return max(common, key=lambda label: fine[0][label], default=None)


def _percentile(side: Side, label: str, name: str, share: float) -> Estimate:
    """Of the last level at this load that was ok."""
    for each in reversed(side.measured):
        if label_of(each.level) != label:
            continue
        evidence = evidence_of(each.level, each.ceiling)
        if verdict_of(evidence).name != OK:
            continue
        column = {
            "ttft_ms": evidence.measured.ttft_ms_N,
            "tpot_ms": evidence.measured.tpot_ms_N,
            "e2e_ms": evidence.measured.e2e_ms_N,
        }[name]
        return _quantile(side, column[~np.isnan(column)], label, share)
    return Estimate(None, UNKNOWN, f"'{side.name}' has no {name} at {label}")


def _quantile(side: Side, values_N: np.ndarray, label: str, share: float) -> Estimate:
    if not len(values_N):
        return Estimate(None, UNKNOWN, f"'{side.name}' has no such latency at {label}")
    value = float(np.quantile(values_N, share, method="inverted_cdf"))
    if math.isinf(value):
        return Estimate(None, UNKNOWN, f"so many requests of '{side.name}' failed at {label}")
    return Estimate(value, percentile_interval(values_N, share), f"{len(values_N)} requests")


def _ratio(above: Estimate, below: Estimate) -> Estimate:
    """Of two independent estimates; the interval by the method of variance estimates recovery, on
    logarithms (Zou and Donner, "Construction of confidence limits about effect measures",
    Statistics in Medicine 27, 2008)."""
    for side in (above, below):
        if side.value is None:
            return Estimate(None, UNKNOWN, side.how)
    if not above.value or not below.value:
        return Estimate(None, UNKNOWN, "one of both is 0")
    ratio = above.value / below.value
    down = _distance(above.value, above.interval.low), _distance(below.value, below.interval.high)
    up = _distance(above.value, above.interval.high), _distance(below.value, below.interval.low)
    interval = Interval(ratio * math.exp(-math.hypot(*down)), ratio * math.exp(math.hypot(*up)))
    return Estimate(ratio, _known(interval), "the two beside it")


def _distance(value: float, end: float | None) -> float:
    """How far an end lies from the value, in logarithms; infinite: it is unknown."""
    if end is None or end <= 0:
        return math.inf
    return math.log(end / value)


def _known(interval: Interval) -> Interval:
    """What is 0 or infinite because an end of one of both is unknown, is unknown."""
    low, high = interval.low, interval.high
    if not low:
        low = None
    if high is None or math.isinf(high):
        high = None
    return Interval(low, high)
