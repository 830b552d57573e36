"""The most users, or requests per second, within an SLO: a search that is sure of its answer or
says that it is not.

The load rises fourfold while the server is at ease, then twofold, until a level breaks the SLO;
from there on every level is put where the knee is believed to be (knee_fit.py), until its interval
is narrow enough or the levels are spent. A level at which the client was the limit says nothing and
is tried once again; two levels in a row that failed end the search.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.loadgen.samples import Ceiling, Level
from engine.stages.loadtest.goodput import Slo, strain
from engine.stages.loadtest.intervals import UNKNOWN, Interval, inflation, inflation_at
from engine.stages.loadtest.knee_fit import Belief, Seen, fit, half_width
from engine.stages.loadtest.verdict import CLIENT_LIMITED, FAILED, evidence_of, verdict_of

MAX_LEVELS = 12
PRECISION = 0.03  # half of the interval's width, relative: the knee itself is nearer than that
_LEAP, _STEP = 4.0, 2.0
_STRAINED = 0.5
_LOWEST = 1 / 256  # of the first load: below, the search gives up
# However much a level's requests hang together, it is worth as many independent ones.
_FEWEST_BURSTS = 8
# A level sees few bursts, and rarely the largest ones: measured, so that 95 % intervals hold.
_MARGIN = 1.5
_FAR = 10.0  # times as many bad requests as the SLO allows: not near the knee
_APART = 1.5  # times: both sides of the knee
_NEAR = 1.1
_SERVED_LESS = 0.9
_OF_CAPACITY = (0.9, 1.0)
# Where in the belief the levels are put, in turn: a little beyond the knee more requests are bad,
# and each of them says more.
_PLACES = (0.5, 0.8, 0.65)


@dataclass(frozen=True)
class Trial:
    """One level as the search sees it. `strain`: the share of the SLO's bounds that its percentile
    took. `inflation`: of the variance of the share of bad requests, which come in bursts."""

    load: float
    good: int
    requests: int
    strain: float
    inflation: float
    served_rps: float
    verdict: str
    reason: str

    @property
    def share(self) -> float:
        """Of good requests; 0 of none."""
        return self.good / max(1, self.requests)


@dataclass(frozen=True)
class Knee:
    """`load`: users or requests/s, None: unknown. `interval`: 95 %; an end that is None is unknown.
    `decided`: it is as narrow as was asked for. `reason`: one sentence."""

    load: float | None
    interval: Interval
    decided: bool
    reason: str
    trials: tuple[Trial, ...]


@dataclass
class _Search:
    """What is known so far."""

    wanted: float  # share of good requests
    whole: bool
    trials: list[Trial] = field(default_factory=list)

    @property
    def useful(self) -> list[Trial]:
        """Those that say something of what the server can do: of one that died, those before."""
        trials = self.trials
        if [trial.verdict for trial in trials[-2:]] == [FAILED] * 2:
            trials = trials[:-2]
        return [trial for trial in trials if trial.verdict != CLIENT_LIMITED]

    @property
    def kept(self) -> float | None:
        """The largest load that kept the SLO, of those below the smallest that broke it."""
        broken = self.broken or math.inf
        loads = []
        for trial in self.useful:
            if trial.share >= self.wanted and trial.load < broken:
                loads.append(trial.load)
        return max(loads, default=None)

    @property
    def broken(self) -> float | None:
        """The smallest load that broke it."""
        loads = [trial.load for trial in self.useful if trial.share < self.wanted]
        return min(loads, default=None)


def trial_of(load: float, level: Level, slo: Slo, ceiling: Ceiling | None = None) -> Trial:
    """What a level says of a load."""
    evidence = evidence_of(level, ceiling)
    verdict = verdict_of(evidence)
    strain_N = strain(evidence.measured, slo)
    good_N = strain_N <= 1
    window_ms = level.window_s * 1000
    ended_N = evidence.series.left_ms_N[evidence.series.ok_N]
    served = int(((ended_N >= 0) & (ended_N < window_ms)).sum())
    wanted = slo.percentile / 100
    bursts = max(inflation(good_N), inflation_at(strain_N, wanted))
    strained = 0.0
    if len(strain_N):
        strained = float(np.quantile(strain_N, wanted, method="inverted_cdf"))
    return Trial(
        load=load,
        good=int(good_N.sum()),
        requests=len(good_N),
        strain=strained,
        inflation=min(bursts, max(1.0, len(good_N) / _FEWEST_BURSTS)),
        served_rps=served / level.window_s,
        verdict=verdict.name,
        reason=verdict.reason,
    )


def search(
    measure: Callable[[float], Trial],
    slo: Slo,
    *,
    start: float = 1.0,
    most: float = math.inf,
    whole: bool = False,
    max_levels: int = MAX_LEVELS,
    precision: float = PRECISION,
) -> Knee:
    """Measure at most so many levels, each at a load that the search chooses from `start` to
    `most`; `whole`: users, not requests/s. The same load may be asked for twice: draw anew."""
    found = _Search(slo.percentile / 100, whole)
    load = min(start, most)
    while load is not None and len(found.trials) < max_levels:
        found.trials.append(measure(load))
        if _broke_off(found) or _is_decided(found, precision):
            break
        load = _next(found, load, most, start)
    return knee_of(found.trials, slo, whole=whole, precision=precision)


def knee_of(
    trials: Sequence[Trial],
    slo: Slo,
    *,
    whole: bool = False,
    precision: float = PRECISION,
) -> Knee:
    """What levels say of the knee, in whatever way their loads were chosen."""
    found = _Search(slo.percentile / 100, whole, list(trials))
    kept, broken = found.kept, found.broken
    why = _broke_off(found)
    ending = f"{len(trials)} levels"
    if why:
        ending += f"; {why}"
    knee = functools.partial(Knee, trials=tuple(trials))
    if kept is not None and broken is not None:
        belief = _belief(found)
        load = belief.quantile(0.5)
        if whole:
            load = float(math.floor(load))
        decided = _is_decided(found, precision)
        if not decided:
            ending += f": its interval is wider than {precision:.0%} to either side"
        return knee(load, belief.interval, decided, ending)
    if kept is not None:
        reason = f"no load broke the SLO, the largest was {kept:g}; {ending}"
        return knee(None, Interval(kept, None), False, reason)
    if broken is not None:
        share = next(trial.share for trial in found.useful if trial.load == broken)
        reason = f"already at {broken:g} only {share:.1%} of the requests kept the SLO; {ending}"
        return knee(None, Interval(0.0, broken), False, reason)
    return knee(None, UNKNOWN, False, f"no level says anything of the server; {ending}")


def _broke_off(found: _Search) -> str | None:
    """Why no further level can help; None: one may."""
    if not found.trials:
        return None
    last = found.trials[-1]
    verdicts = [trial.verdict for trial in found.trials[-2:]]
    if verdicts in ([CLIENT_LIMITED] * 2, [FAILED] * 2):
        return f"at {last.load:g}, as at the level before, {last.reason}"
    if last.verdict == FAILED and last.good == 0 and found.kept is None:
        return f"at {last.load:g} {last.reason}"
    return None


def _next(found: _Search, load: float, most: float, start: float) -> float | None:
    """The load of the next level; None: there is none."""
    if found.trials[-1].verdict == CLIENT_LIMITED:
        return load
    if found.kept is None or found.broken is None:
        return _climb(found, load, most, start)
    return _place(found, _belief(found))


def _climb(found: _Search, load: float, most: float, start: float) -> float | None:
    """The next load while only one side of the knee was seen; None: there is none."""
    last = found.trials[-1]
    if found.kept is None:
        lower = load / _LEAP
        if found.whole:
            lower = math.floor(lower)
        return lower if lower >= max(start * _LOWEST, found.whole) else None
    factor = _LEAP
    if last.strain > _STRAINED:
        factor = _STEP
    higher = min(load * factor, most)
    return higher if higher > load else None


def _belief(found: _Search) -> Belief:
    """From a little below the largest load that was kept to a little beyond the smallest that was
    not: noise may have put either on the wrong side."""
    kept = found.kept or 0.0
    broken = found.broken or 0.0
    usual = _usual_inflation(found)
    seen = []
    for trial in found.useful:
        bad = trial.requests - trial.good
        weight = 1 / min(usual, max(1.0, trial.requests / _FEWEST_BURSTS))
        if 1 - trial.share > _FAR * (1 - found.wanted):
            weight = 1 / max(usual, trial.inflation)
        seen.append(Seen(trial.load, bad * weight, trial.good * weight))
    return fit(seen, 1 - found.wanted, kept / _STEP, broken * _STEP)


def _usual_inflation(found: _Search) -> float:
    """In how large bursts bad requests come near the knee, the same for all levels there: one with
    many bad requests by chance shows large bursts too, and would count for less if it were weighed
    by its own."""
    near = []
    for trial in found.useful:
        if 0 < 1 - trial.share <= _FAR * (1 - found.wanted):
            near.append(trial.inflation)
    if near:
        return _MARGIN * statistics.mean(near)
    return max(trial.inflation for trial in found.useful if trial.share >= found.wanted)


def _is_decided(found: _Search, precision: float) -> bool:
    if found.kept is None or found.broken is None:
        return False
    interval = _belief(found).interval
    if half_width(interval) <= precision:
        return True
    if not found.whole or interval.low is None or interval.high is None:
        return False
    return math.floor(interval.low) == math.floor(interval.high)


def _place(found: _Search, belief: Belief) -> float:
    """The next load: around where the knee is believed to be, or, while both sides are far apart,
    between them."""
    kept, broken = found.kept or 0.0, found.broken or 0.0
    load = belief.quantile(_PLACES[len(found.trials) % len(_PLACES)])
    highest = max(trial.load for trial in found.useful if trial.share >= found.wanted)
    load = min(max(load, kept / _NEAR), max(broken, highest) * _NEAR)
    if broken > _APART * kept:
        load = _between(found, kept, broken)
    if found.whole:
        return float(max(1, round(load)))
    return float(f"{load:.4g}")


def _between(found: _Search, kept: float, broken: float) -> float:
    """What a level served of much more is what the server can do: most knees lie a little below."""
    capacities = []
    for trial in found.useful:
        if trial.served_rps < _SERVED_LESS * trial.load:
            capacities.append(trial.served_rps)
    if capacities and not found.whole:
        for part in _OF_CAPACITY:
            load = part * max(capacities)
            if 1.02 * kept < load < broken:
                return load
    return math.sqrt(kept * broken)
