"""Whose fault a level's figures are: `ok`, `overloaded`, `client limited` or `failed`, and why.

The first rule of RULES that has a reason decides. What the server itself said (errors, refusals of
every request) stands first, because no client can make that up; then what only the client can have
caused; then a server that dies, which a late client does not excuse; then a late or breathless
client, below which nothing is said of the server's speed; then what the speed says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np

from engine.loadgen.samples import Ceiling, Level
from engine.stages.loadtest.client_watch import ClientFacts, client_facts, p50_and_p99
from engine.stages.loadtest.intervals import wilson
from engine.stages.loadtest.series import Series, series_of
from engine.stages.loadtest.steady import Growth, growth_of

OK = "ok"
OVERLOADED = "overloaded"
CLIENT_LIMITED = "client limited"
FAILED = "failed"

REFUSALS = frozenset({"http_429", "http_503"})
TIMEOUT = "timeout"
# What a lost connection looks like; every other failure is something that the server said.
_LOST = frozenset({"connection", "cut_stream", TIMEOUT})
_OUT_OF = ("too many open files", "cannot assign requested address", "no buffer space")

TOLERATED_SHARE = 0.01  # of the requests may fail; more, beyond chance, is a verdict
MAX_CEILING_SHARE = 0.5
MAX_CLOCK_JUMP_S = 0.25
LAG_FLOOR_MS = 5.0  # what timers and a shared processor cost anyway
LAG_FRACTION = 0.10  # of the time to the first token at the same percentile
MAX_LOOP_LAG_MS = 50.0  # events are timed in that loop, however slow the first token is
MAX_LAG_WITHOUT_ANSWER_MS = 1000.0
BUSY_MACHINE = 0.9  # of its processors, used by others
_FEWEST_AT_THE_END = 3


@dataclass(frozen=True)
class Verdict:
    """One of the four, and its reason in one sentence."""

    name: str
    reason: str

    @property
    def is_on_the_server(self) -> bool:
        """Whether the figures describe the server."""
        return self.name != CLIENT_LIMITED


@dataclass(frozen=True)
class Evidence:
    """What the rules look at: the level, its requests, those of its window, and what came of
    these."""

    level: Level
    series: Series
    measured: Series
    client: ClientFacts
    growth: Growth | None
    failures: Counter[str]

    @property
    def requests(self) -> int:
        """Of the window."""
        return len(self.measured)

    def failed_with(self, *, refusals: bool = False, timeouts: bool = False) -> Counter[str]:
        """The failures of one kind; neither: all others."""
        found: Counter[str] = Counter()
        for status, count in self.failures.items():
            is_refusal = status in REFUSALS
            is_timeout = status == TIMEOUT
            if is_refusal == refusals and is_timeout == timeouts:
                found[status] = count
        return found


def verdict_of(evidence: Evidence) -> Verdict:
    """The first rule that has a reason; without one the level is ok."""
    for name, rule in RULES:
        reason = rule(evidence)
        if reason is not None:
            return Verdict(name, reason)
    return Verdict(OK, _kept_up(evidence))


def evidence_of(level: Level, ceiling: Ceiling | None = None) -> Evidence:
    """Collect it; without a ceiling the client is judged by its processor time alone."""
    series = series_of(level.samples)
    measured = series.within(0.0, level.window_s * 1000)
    statuses = (sample.status for sample in measured.samples)
    failures = Counter(status for status in statuses if status != "ok")
    client = client_facts(level, measured, ceiling)
    return Evidence(level, series, measured, client, growth_of(level, series), failures)


def _nothing_measured(evidence: Evidence) -> str | None:
    if evidence.requests:
        return None
    return (
        f"no request fell into the window of {evidence.level.window_s:g} s: raise its length or the"
        " rate"
    )


def _only_errors(evidence: Evidence) -> str | None:
    """Every answer was an error of the server's own."""
    others = evidence.failed_with()
    said = {status: count for status, count in others.items() if status not in _LOST}
    unavailable = evidence.failures["http_503"]
    if sum(said.values()) + unavailable < evidence.requests:
        return None
    return f"none of {evidence.requests} requests succeeded ({_causes(evidence)})"


def _only_refusals(evidence: Evidence) -> str | None:
    if evidence.failed_with(refusals=True).total() < evidence.requests:
        return None
    return f"every one of {evidence.requests} requests was refused ({_causes(evidence)})"


def _ran_out(evidence: Evidence) -> str | None:
    """The server may run out of them too; then it says so in an answer."""
    for sample in evidence.measured.samples:
        words = (sample.error or "").lower()
        if sample.status == "connection" and any(phrase in words for phrase in _OUT_OF):
            return (
                f"the client ran out of connections ('{sample.error}'): raise its limit of open"
                " files, or use more machines"
            )
    return None


def _clock_jumped(evidence: Evidence) -> str | None:
    jump_s = evidence.client.clock_jump_s
    if jump_s <= MAX_CLOCK_JUMP_S:
        return None
    return (
        f"the client's clock jumped by {jump_s:.2f} s (it slept, or was set): no time of this level"
        " can be trusted; run it again"
    )


def _stopped(evidence: Evidence) -> str | None:
    """From some moment on everything failed, other than for being slow. A server that is only too
    busy still answers some; one that says 503 to all has nobody left who answers."""
    others = evidence.failed_with()
    return _silence(evidence, {*others, "http_503"})


def _hung(evidence: Evidence) -> str | None:
    return _silence(evidence, evidence.failures.keys() - REFUSALS)


def _silence(evidence: Evidence, statuses: Set[str]) -> str | None:
    """Whether all requests after the last good answer came ended so, and that is no run of bad
    luck. The moment counts, not the order: with a long queue late requests time out while earlier
    ones are still being answered."""
    measured = evidence.measured
    silent_ms = -math.inf
    if measured.ok_N.any():
        silent_ms = float(measured.left_ms_N[measured.ok_N].max())
    begin = int(np.searchsorted(measured.intended_ms_N, silent_ms))
    tail = measured.samples[begin:]
    if not tail or any(sample.status not in statuses for sample in tail):
        return None
    if len(tail) < _FEWEST_AT_THE_END and not _is_long(evidence, silent_ms):
        return None
    failed_before = int((~measured.ok_N[:begin]).sum())
    usual = (failed_before + 0.5) / (begin + 1)
    if begin and usual ** len(tail) > TOLERATED_SHARE:
        return None
    since_s = tail[0].intended_ms / 1000
    return (
        f"the server stopped answering: all requests from {since_s:.1f} s on failed,"
        f" {len(tail)} of them"
        f" ({_causes(evidence)})"
    )


def _is_long(evidence: Evidence, silent_ms: float) -> bool:
    """Whether nothing was answered for much longer than answers take: a closed load that waits has
    few requests to show for it."""
    _, slow_ms = p50_and_p99(evidence.measured.e2e_ms_N[evidence.measured.ok_N])
    window_ms = evidence.level.window_s * 1000
    return window_ms - silent_ms > max(0.1 * window_ms, 3 * slow_ms)


def _too_many_failed(evidence: Evidence) -> str | None:
    failed = evidence.failed_with().total()
    if not _exceeds_tolerance(failed, evidence.requests):
        return None
    return f"{failed} of {evidence.requests} requests failed ({_causes(evidence)})"


def _unsent(evidence: Evidence) -> str | None:
    missing = evidence.client.unsent
    if not missing:
        return None
    return (
        f"the client sent {evidence.requests} of the {evidence.level.scheduled} requests that were"
        " scheduled: use more machines"
    )


def _beyond_ceiling(evidence: Evidence) -> str | None:
    share = evidence.client.ceiling_share
    if share <= MAX_CEILING_SHARE:
        return None
    return (
        f"the client did {share:.0%} of what one of its processes can do here, more than"
        f" {MAX_CEILING_SHARE:.0%}: use more processes, or more machines"
    )


def _sent_late(evidence: Evidence) -> str | None:
    client = evidence.client
    typical_ms, slow_ms = _lag_limits_ms(evidence)
    if client.lag_p50_ms <= typical_ms and client.lag_p99_ms <= slow_ms:
        return None
    return (
        f"the client sent late: {client.lag_p50_ms:.1f} ms at the median and"
        f" {client.lag_p99_ms:.1f} ms at p99, where {typical_ms:.1f} and {slow_ms:.1f} ms would"
        f" do{_why_late(client)}"
    )


def _woke_late(evidence: Evidence) -> str | None:
    """On a machine that others fill, slow answers are no excuse: they may be this client's."""
    client = evidence.client
    typical_ms, limit_ms = _lag_limits_ms(evidence)
    if client.others_cpu > BUSY_MACHINE:
        limit_ms = typical_ms
    limit_ms = min(limit_ms, MAX_LOOP_LAG_MS)
    if client.loop_lag_p99_ms <= limit_ms:
        return None
    return (
        f"the client's event loop woke up late: {client.loop_lag_p99_ms:.1f} ms at p99, where"
        f" {limit_ms:.1f} ms would do{_why_late(client)}"
    )


def _lag_limits_ms(evidence: Evidence) -> tuple[float, float]:
    """How late a request may be sent at the median and at p99."""
    answered_N = evidence.measured.ttft_ms_N[evidence.measured.ok_N]
    if not len(answered_N):
        return MAX_LAG_WITHOUT_ANSWER_MS, MAX_LAG_WITHOUT_ANSWER_MS
    typical_ms, slow_ms = p50_and_p99(answered_N)
    return (
        max(LAG_FLOOR_MS, LAG_FRACTION * typical_ms),
        max(LAG_FLOOR_MS, LAG_FRACTION * slow_ms),
    )


def _why_late(client: ClientFacts) -> str:
    if client.others_cpu > BUSY_MACHINE:
        return (
            f"; other processes used {client.others_cpu:.0%} of this machine: give the client one"
            " of its own"
        )
    return "; give it a machine of its own, or more processes"


def _refused(evidence: Evidence) -> str | None:
    refused = evidence.failed_with(refusals=True).total()
    if not _exceeds_tolerance(refused, evidence.requests):
        return None
    return f"{refused} of {evidence.requests} requests were refused ({_causes(evidence)})"


def _timed_out(evidence: Evidence) -> str | None:
    late = evidence.failures[TIMEOUT]
    if not _exceeds_tolerance(late, evidence.requests):
        return None
    return f"{late} of {evidence.requests} requests were not answered in time ({_causes(evidence)})"


def _queue_grew(evidence: Evidence) -> str | None:
    growth = evidence.growth
    if growth is None:
        return None
    offered_rps = evidence.requests / evidence.level.window_s
    served_rps = offered_rps * (1 - growth.unserved)
    return (
        f"about {served_rps:.2f} of {offered_rps:.2f} requests/s were served: those under way grew"
        f" from {growth.first:.0f} to {growth.last:.0f} within the window"
    )


RULES: tuple[tuple[str, Callable[[Evidence], str | None]], ...] = (
    (FAILED, _nothing_measured),
    (FAILED, _only_errors),
    (OVERLOADED, _only_refusals),
    (CLIENT_LIMITED, _ran_out),
    (CLIENT_LIMITED, _clock_jumped),
    (FAILED, _stopped),
    (FAILED, _too_many_failed),
    (CLIENT_LIMITED, _unsent),
    (CLIENT_LIMITED, _beyond_ceiling),
    (CLIENT_LIMITED, _sent_late),
    (CLIENT_LIMITED, _woke_late),
    (OVERLOADED, _refused),
    (FAILED, _hung),
    (OVERLOADED, _timed_out),
    (OVERLOADED, _queue_grew),
)


def _kept_up(evidence: Evidence) -> str:
    level = evidence.level
    rate_rps = evidence.measured.ok_N.sum() / level.window_s
    said = f"{rate_rps:.2f} requests/s were answered"
    if level.concurrency is None:
        offered_rps = evidence.requests / level.window_s
        said = f"{rate_rps:.2f} of {offered_rps:.2f} requests/s were answered, and no queue grew"
    failed = evidence.failures.total()
    if failed:
        said += f"; {failed} of {evidence.requests} failed ({_causes(evidence)})"
    return said


def _exceeds_tolerance(count: int, requests: int) -> bool:
    """Whether more than the tolerated share failed, beyond chance."""
    low = wilson(count / requests, requests).low
    return low is not None and low > TOLERATED_SHARE


def _causes(evidence: Evidence) -> str:
    """Failures by cause, the most frequent first, with the words of the first of these."""
    ranked = evidence.failures.most_common()
    causes = ", ".join(f"{status}: {count}" for status, count in ranked)
    most = ranked[0][0]
    for sample in evidence.measured.samples:
        if sample.status == most and sample.error:
            return f"{causes}; '{sample.error}'"
    return causes
