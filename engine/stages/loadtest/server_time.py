"""Where a request's time goes: the client's clock and the server's own metrics, laid end to end.

Means, because a server's histograms give sums and counts. They are over the requests that ended
between the first and the last look at the metrics within the window, on both sides alike, so that
the parts add up to what the client saw. What is not known is said, and never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.loadgen.observer import Observation, Observed
from engine.loadgen.samples import Level

PARTS = ("late", "network", "ingress", "handling", "queue", "prefill", "decode")
_FRONT = "front_request"
_ENGINE = "engine_request"
_STRANGERS = 0.05  # of the requests that the server ended may be none of this client's


@dataclass(frozen=True)
class _Window:
    """The looks that fell into a level's window; there are two at least."""

    seen: Sequence[Observation]

    @property
    def seconds(self) -> float:
        return (self.seen[-1].at_ms - self.seen[0].at_ms) / 1000

    def grown(self, name: str) -> float | None:
        """By how much a count grew; None: the server does not say. What was not there at the first
        look began at 0."""
        if name not in self.seen[-1].values:
            return None
        return self.seen[-1].values[name] - self.seen[0].values.get(name, 0.0)

    def mean_ms(self, histogram: str) -> float | None:
        """Of what a histogram saw; None: nothing, or it is not there."""
        seconds = self.grown(f"{histogram}_s")
        count = self.grown(f"{histogram}_n")
        if seconds is None or not count:
            return None
        return seconds / count * 1000

    def gauge(self, *names: str) -> list[float]:
        """The sums of these at each look that has one of them."""
        found = []
        for seen in self.seen:
            known = [seen.values[name] for name in names if name in seen.values]
            if known:
                found.append(sum(known))
        return found


@dataclass(frozen=True)
class _Client:
    """What the client saw of its good answers that ended in the window: means in ms."""

    answers: int
    late: float
    ttft: float
    e2e: float


def server_time(level: Level, observed: Observed) -> dict[str, Any]:
    """The entry `server` of a level. `parts_ms` by the names of PARTS; null: unknown, and `unknown`
    says why. The parts add up to `e2e_ms`:

    late: sent after it was due, the client's own fault. network: between the client and the front,
    or the engine where there is no front. ingress: the front, and the API server before and after
    the engine. handling: the engine's own process around its scheduler. queue: for a place in the
    batch. prefill: to the first token. decode: from the first token to the last.
    """
    window_ms = level.window_s * 1000
    seen = [each for each in observed.observations if 0 <= each.at_ms < window_ms]
    entry: dict[str, Any] = {
        "url": observed.url,
        "looks": observed.looks,
        "missed_looks": observed.missed,
        "look_cpu_s": round(observed.cpu_s, 4),
        "slowest_look_ms": round(observed.slowest_ms, 1),
        "parts_ms": dict.fromkeys(PARTS),
        "unknown": list(observed.notes),
    }
    if len(seen) < 2:
        if not observed.notes:
            entry["unknown"].append(
                f"{len(seen)} looks at the server's metrics fell into the window, and it takes two"
            )
        return entry
    window = _Window(seen)
    entry |= {
        "from_s": round(seen[0].at_ms / 1000, 3),
        "to_s": round(seen[-1].at_ms / 1000, 3),
        "said": _said(window),
    }
    client = _client(level, window)
    if client is None:
        entry["unknown"].append("no answer ended well between two looks at the server's metrics")
        return entry
    parts = _parts(client, window)
    rounded = {name: _rounded(value) for name, value in parts.items()}
    return entry | {
        "parts_ms": rounded,
        "ttft_ms": _rounded(client.ttft),
        "e2e_ms": _rounded(client.e2e),
        "engine_ttft_ms": _rounded(window.mean_ms("engine_first_token")),
        "answers": client.answers,
        "unknown": [*entry["unknown"], *_unknown(client, window, parts)],
    }


def _client(level: Level, window: _Window) -> _Client | None:
    from_ms = window.seen[0].at_ms
    to_ms = window.seen[-1].at_ms
    answers = 0
    late = ttft = e2e = 0.0
    for sample in level.samples:
        if sample.status != "ok" or sample.e2e_ms is None or sample.ttft_ms is None:
            continue
        if from_ms <= sample.intended_ms + sample.e2e_ms < to_ms:
            answers += 1
            late += sample.sent_ms - sample.intended_ms
            ttft += sample.ttft_ms
            e2e += sample.e2e_ms
    if not answers:
        return None
    return _Client(answers, late / answers, ttft / answers, e2e / answers)


def _parts(client: _Client, window: _Window) -> dict[str, float | None]:
    """Each is what lies between two clocks, the outer one first."""
    sent_to_end = client.e2e - client.late
    front = window.mean_ms(_FRONT)
    engine = window.mean_ms(_ENGINE)
    inside = {name: window.mean_ms(f"engine_{name}") for name in ("queue", "prefill", "decode")}
    nearest = engine if front is None else front
    return {
        "late": client.late,
        "network": _minus(sent_to_end, [nearest]),
        "ingress": _minus(front, [engine]),
        "handling": _minus(engine, inside.values()),
        **inside,
    }


def _minus(whole: float | None, parts: Iterable[float | None]) -> float | None:
    """None if one of them is unknown."""
    rest = whole
    for part in parts:
        if rest is None or part is None:
            return None
        rest -= part
    return rest


def _unknown(client: _Client, window: _Window, parts: dict[str, float | None]) -> list[str]:
    """What the parts do not tell, or tell of others too."""
    said = []
    if window.mean_ms(_FRONT) is None and window.mean_ms(_ENGINE) is not None:
        said.append(
            "no front shows metrics: `network` includes the API server, and what stands before it"
        )
    if window.mean_ms(_ENGINE) is None:
        said.append("no engine shows metrics: what lies behind `network` is not told apart")
    counted = window.grown(f"{_ENGINE}_n") or window.grown(f"{_FRONT}_n") or 0.0
    if counted > client.answers * (1 + _STRANGERS) + 1:
        said.append(
            f"the server ended {counted:.0f} requests meanwhile, and {client.answers} of them well"
            " for this client: the parts are also those of the others"
        )
    negative = [name for name, value in parts.items() if value is not None and value < -1.0]
    if negative:
        said.append(
            f"{' and '.join(negative)} cannot be less than 0: the clocks of client and server saw"
            " other requests"
        )
    return said


def _said(window: _Window) -> dict[str, Any]:
    """What else the server told of itself; null: it did not."""
    tokens = window.grown("output_tokens")
    hits = window.grown("prefix_hits")
    queries = window.grown("prefix_queries")
    hit_share = None
    if hits is not None and queries:
        hit_share = hits / queries
    return {
        "output_tokens_per_second": _rounded(tokens and tokens / window.seconds),
        "prefix_hit_share": _rounded(hit_share),
        "kv_usage_max": _most(window.gauge("kv_usage")),
        "running_max": _most(window.gauge("running")),
        "queued_max": _most(window.gauge("front_queued", "waiting")),
        "replicas_min": _least(window.gauge("replicas")),
        "replicas_max": _most(window.gauge("replicas")),
        "preemptions": _rounded(window.grown("preemptions")),
        "retries": _rounded(window.grown("front_retries")),
        "faults": _rounded(window.grown("front_faults")),
    }


def _most(values: Sequence[float]) -> float | None:
    return _rounded(max(values)) if values else None


def _least(values: Sequence[float]) -> float | None:
    return _rounded(min(values)) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
