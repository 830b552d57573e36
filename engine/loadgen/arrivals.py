"""When requests are meant to leave, if they wait for nobody: absolute times, drawn whole and once.

An arrival process is one function and one line in ARRIVALS.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping

import numpy as np

from engine.errors import SpecError

_MANY_GAPS = 20  # mean gaps before the window begins, times the squared spread: until it is steady


def poisson(rng: np.random.Generator, rate_rps: float, seconds: float) -> np.ndarray:
    """Users who know nothing of each other. Given their number, which is left to chance, times are
    uniform."""
    count = rng.poisson(rate_rps * seconds)
    return np.sort(rng.uniform(0, seconds, size=count))


def gamma(
    rng: np.random.Generator, rate_rps: float, seconds: float, burstiness: float = 0.25
) -> np.ndarray:
    """Independent gaps of a gamma distribution with this shape: below 1 they come in bursts (the
    variance of gaps is 1 / burstiness times that of Poisson's), above 1 they are more even. The
    process has run for long when the window opens, so that the rate holds from its first second."""
    if not burstiness > 0:
        raise SpecError(f"arrivals gamma: burstiness={burstiness:g}; give more than 0 (1: Poisson)")
    before = _MANY_GAPS * max(1.0, 1 / burstiness) / rate_rps
    at, times = -before, [np.empty(0)]
    while at < seconds:
        size = math.ceil((seconds - at) * rate_rps) + 16
        gaps = rng.gamma(burstiness, 1 / (rate_rps * burstiness), size)
        drawn = at + np.cumsum(gaps)
        times.append(drawn)
        at = drawn[-1]
    found = np.concatenate(times)
    return found[(found >= 0) & (found < seconds)]


def constant(rng: np.random.Generator, rate_rps: float, seconds: float) -> np.ndarray:
    """Times k / rate."""
    times = np.arange(math.ceil(rate_rps * seconds)) / rate_rps
    return times[times < seconds]


def ramp(
    rng: np.random.Generator, rate_rps: float, seconds: float, from_rps: float = 0.0
) -> np.ndarray:
    """A Poisson process whose rate goes in a straight line from `from_rps` to `rate_rps`: uniform
    shares of the area below that line, each at the time at which the area is that large."""
    if from_rps < 0:
        raise SpecError(f"arrivals ramp: from_rps={from_rps:g}; give 0 or more")
    area = (from_rps + rate_rps) / 2 * seconds
    shares = np.sort(rng.uniform(0, area, size=rng.poisson(area)))
    slope = (rate_rps - from_rps) / seconds
    # from_rps t + slope t² / 2 = share, without the difference of two almost equal numbers
    root = np.sqrt(from_rps**2 + 2 * slope * shares)
    return 2 * shares / (from_rps + root)


# by name: (generator, requests/s, seconds, options by keyword) -> times (s) on [0, seconds), rising
ARRIVALS: dict[str, Callable[..., np.ndarray]] = {
    "poisson": poisson,
    "gamma": gamma,
    "constant": constant,
    "ramp": ramp,
}


def arrivals(
    name: str,
    rng: np.random.Generator,
    rate_rps: float,
    seconds: float,
    options: Mapping[str, float],
) -> np.ndarray:
    """Times (s) on [0, seconds) of a row of ARRIVALS. SpecError for an unknown name, option or
    rate."""
    if name not in ARRIVALS:
        raise SpecError(f"arrivals '{name}': choose one of {', '.join(ARRIVALS)}")
    if not 0 < rate_rps < math.inf:
        raise SpecError(f"arrivals {name}: rate {rate_rps:g} must be greater than 0")
    _, _, _, *known = inspect.signature(ARRIVALS[name]).parameters
    unknown = sorted(options.keys() - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise SpecError(f"arrivals {name}: unknown option {unknown[0]}; its options: {allowed}")
    return ARRIVALS[name](rng, rate_rps, seconds, **options)
