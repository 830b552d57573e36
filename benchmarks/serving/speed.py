"""`distill serve` beside vLLM's own API server and beside its former self, on the quickstart's
teacher: tokens per second, latency, and processor time beside the engine.

Both servers of a comparison are up, and one is loaded at a time: idle they cost little (shown), and
runs that are compared lie seconds apart.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result import bounded
from benchmarks.serving import servers
from benchmarks.serving.servers import Server, beside_engine, spent
from engine.stages.loadtest.intervals import percentile_interval

PROMPTS = servers.REPOSITORY / "jobs/quickstart/data/validation.jsonl"
IDLE_S = 10.0  # over which the fixed background is measured
WARM_S = 3.0  # of load that nobody counts, before the first round
LEVELS = (1, 8, 32)
EQUAL = {"ignore_eos": True}  # answers of 64 tokens; else they end by themselves
POISSON = {"poisson_third": 1 / 3, "poisson_two_thirds": 2 / 3}  # of the capacity
SHOWN = 0.0  # a ratio that cannot miss
BESIDE_OLD = 0.2  # of the time for a closer look, that beside `old`, which has one load


@dataclass(frozen=True)
class Load:
    """What a server is loaded with: arguments of benchmarks.serving.load, and further fields of
    each request."""

    name: str
    arguments: tuple[str, ...]
    body: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """How long each run lasts, and how often; `loads`: of the speed beside vLLM's server only these
    closed loops; `closer_s`: how long at most a closer look takes where the rounds leave it open
    on which side of its bound a ratio is."""

    rounds: int
    seconds: float
    warmup_s: float = 1.0
    loads: tuple[str, ...] = ()
    closer_s: float = 0.0


Rounds = dict[str, list[dict[str, Any]]]  # {server: a row per round}
Rows = dict[str, Rounds]  # by load


@dataclass(frozen=True)
class Ratio:
    """Ours to another server's, and what it has to keep."""

    name: str
    figure: Callable[[dict[str, Any]], float]
    sign: str
    bound: float

    def of_rounds(self, rounds: Rounds) -> list[float]:
        """Of each round; beside `ours` there is one other server."""
        (base,) = rounds.keys() - {"ours"}
        ratios = []
        for mine, theirs in zip(rounds["ours"], rounds[base], strict=True):
            below = self.figure(theirs)
            ratios.append(self.figure(mine) / below if below else float("nan"))
        return ratios

    def is_open(self, rounds: Rounds) -> bool:
        """Whether the bound lies within the 95 % interval of the rounds' median, so that these
        rounds do not tell on which side it is."""
        if self.bound == SHOWN:
            return False
        return percentile_interval(np.array(self.of_rounds(rounds)), 0.5).holds(self.bound)

    def judged(self, rounds: Rounds) -> dict[str, Any]:
        """The median of the rounds beside its bound."""
        median = round(statistics.median(self.of_rounds(rounds)), 3)
        return bounded(median, self.sign, self.bound) | {"rounds": len(rounds["ours"])}


def closed_loads() -> list[Load]:
    """A fixed number of requests in flight: equal answers, and answers that end by themselves."""
    loads = []
    for kind, body in (("equal", EQUAL), ("natural", {})):
        for level in LEVELS:
            loads.append(Load(f"{kind}_c{level}", ("--concurrency", str(level)), body))
    return loads


def poisson_loads(capacity_rps: float) -> list[Load]:
    """Arrivals that wait for nobody, at shares of the capacity."""
    loads = []
    for name, share in POISSON.items():
        loads.append(Load(name, ("--rate", f"{share * capacity_rps:.2f}"), EQUAL))
    return loads


def drive(
    url: str, model: str, load: Load, timing: Timing, seed: int, work: Path
) -> dict[str, Any]:
    """One run of the light client; its summary."""
    target = work / "load.json"
    command = [sys.executable, "-m", "benchmarks.serving.load", url, "--model", model]
    command += [*load.arguments, "--body", json.dumps(load.body), "--prompts", str(PROMPTS)]
    command += ["--seconds", str(timing.seconds), "--warmup", str(timing.warmup_s)]
    command += ["--seed", str(seed), "--json", str(target)]
    subprocess.run(command, check=True, cwd=servers.REPOSITORY)
    return json.loads(target.read_text())


def background(running: Sequence[Server]) -> dict[str, dict[str, float]]:
    """Cores that each process of each server takes while nobody asks: {server: {process: cores}}.
    Under load it is what Ray and an open endpoint cost anyway. RuntimeError where a server's engine
    is not to be told from the rest."""
    before = [server.processor_s() for server in running]
    for server, earlier in zip(running, before, strict=True):
        if not servers.has_engine(earlier):
            raise RuntimeError(f"{server.name} has no process {servers.ENGINE}: {earlier}")
    time.sleep(IDLE_S)
    found = {}
    for server, earlier in zip(running, before, strict=True):
        seconds = spent(earlier, server.processor_s())
        found[server.name] = {title: value / IDLE_S for title, value in seconds.items() if value}
    return found


def measure(
    server: Server,
    other: Server,
    load: Load,
    timing: Timing,
    seed: int,
    idle: dict[str, dict[str, float]],
    work: Path,
) -> dict[str, Any]:
    """One run, and what it cost per token, from before the client started until it had ended."""
    before, other_before = server.processor_s(), other.processor_s()
    started = time.perf_counter()
    row = drive(server.url, servers.MODEL, load, timing, seed, work)
    seconds = spent(before, server.processor_s())
    wall_s = time.perf_counter() - started
    elsewhere = sum(spent(other_before, other.processor_s()).values())
    fixed_s = beside_engine(idle[server.name]) * wall_s
    per_token = 1e6 / max(1, row["tokens_in_all"])
    row["beside_engine_us"] = (beside_engine(seconds) - fixed_s) * per_token
    row["background_us"] = fixed_s * per_token
    row["processes_us"] = {title: value * per_token for title, value in seconds.items() if value}
    row["idle_servers_cores"] = elsewhere / wall_s
    return row


class Turns:
    """Two servers that are loaded in turns; who comes first changes each round."""

    def __init__(self, running: tuple[Server, Server], timing: Timing, work: Path) -> None:
        warm_up(running, work)
        self.idle = background(running)
        self.rows: Rows = {}
        self._running = running
        self._timing = timing
        self._work = work

    def take(self, loads: Sequence[Load]) -> None:
        """All rounds of these loads."""
        for _ in range(self._timing.rounds):
            self._round(loads)

    def look_closer(self, loads: Sequence[Load], seconds: float) -> None:
        """More rounds, for so long at most, of the loads of which a ratio is open."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            left = [load for load in loads if self._is_open(load)]
            if not left:
                return
            self._round(left)

    def _is_open(self, load: Load) -> bool:
        rounds = self.rows[load.name]
        return any(ratio.is_open(rounds) for ratio in ratios_of(load.name, rounds))

    def _round(self, loads: Sequence[Load]) -> None:
        for load in loads:
            rounds = self.rows.setdefault(load.name, {each.name: [] for each in self._running})
            number = len(rounds["ours"])
            order = self._running if number % 2 == 0 else self._running[::-1]
            for server, other in (order, order[::-1]):
                row = measure(server, other, load, self._timing, number, self.idle, self._work)
                rounds[server.name].append(row)
                tell(number, load.name, server.name, row)


def tell(number: int, load: str, server: str, row: dict[str, Any]) -> None:
    """One line for a run."""
    ttft = (row["ttft_ms"] or {}).get("p50", float("nan"))
    print(
        f"round {number + 1} {load:<19} {server:<7} {row['tok_s']:>8,.0f} tok/s"
        f" {row['requests_s']:>7.1f} requests/s  TTFT {ttft:>7.2f} ms"
        f"  client {row['client_cores']:.2f} cores, {row['failed']} failed",
        flush=True,
    )


def run(timing: Timing, work: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """All of it, or the loads that are wanted: (ratios, raw rounds and backgrounds)."""
    loads = closed_loads()
    if timing.loads:
        loads = [load for load in loads if load.name in timing.loads]
    with (
        servers.running(servers.ours(work), work) as ours,
        servers.running(servers.own(), work) as own,
    ):
        turns = Turns((own, ours), timing, work)
        turns.take(loads)
        raw: dict[str, Any] = {"rounds": turns.rows, "background_cores": turns.idle}
        if not timing.loads:
            at_most = [row["requests_s"] for row in turns.rows["equal_c32"]["own"]]
            raw["capacity_rps"] = statistics.median(at_most)
            poisson = poisson_loads(raw["capacity_rps"])
            turns.take(poisson)
            loads += poisson
        turns.look_closer(loads, timing.closer_s)
    ratios = judged(turns.rows)
    if timing.loads:
        return ratios, raw
    with (
        servers.running(servers.ours(work), work) as ours,
        servers.running(servers.old(work), work) as old,
    ):
        turns = Turns((old, ours), timing, work)
        full = [load for load in loads if load.name == "equal_c32"]
        turns.take(full)
        turns.look_closer(full, BESIDE_OLD * timing.closer_s)
    raw |= {"rounds_beside_old": turns.rows, "background_cores_beside_old": turns.idle}
    return ratios | judged(turns.rows), raw


def warm_up(running: Sequence[Server], work: Path) -> None:
    """What a server does only once, it does now."""
    load = Load("warm_up", ("--concurrency", "32"), EQUAL)
    for server in running:
        drive(server.url, servers.MODEL, load, Timing(1, WARM_S), 0, work)


def tokens_per_second(row: dict[str, Any]) -> float:
    """Of one run; 0 where a request failed: an answer that did not come is not made good by the
    others."""
    return 0.0 if row["failed"] else row["tok_s"]


def ttft(row: dict[str, Any]) -> float:
    """Median time to the first token of one run, in ms."""
    return row["ttft_ms"]["p50"]


def e2e(row: dict[str, Any]) -> float:
    """Median time to the end of an answer of one run, in ms."""
    return row["e2e_ms"]["p50"]


def beside_engine_us(row: dict[str, Any]) -> float:
    """Processor time per token beside the engine and the background of one run."""
    return row["beside_engine_us"]


def ratios_of(load: str, rounds: Rounds) -> list[Ratio]:
    """What is said of a load. In a closed loop of 32 requests the median time to the first token
    jumps with how requests fall into cohorts, so it is shown only."""
    if "old" in rounds:
        return [Ratio(f"tok_s_to_old_{load}", tokens_per_second, ">=", 3.4)]
    tok_s = Ratio(f"tok_s_{load}", tokens_per_second, ">=", SHOWN if load in POISSON else 0.97)
    if load.endswith("_c32"):
        found = [
            tok_s,
            Ratio(f"ttft_{load}", ttft, ">=", SHOWN),
            Ratio(f"e2e_{load}", e2e, ">=", SHOWN),
        ]
        if load == "equal_c32":
            found.append(Ratio(f"processor_beside_engine_{load}", beside_engine_us, "<=", 1.3))
        return found
    at_most = 1.2 if load == "poisson_two_thirds" else 1.1
    return [
        tok_s,
        Ratio(f"ttft_{load}", ttft, "<=", at_most),
        Ratio(f"e2e_{load}", e2e, "<=", 1.05),
    ]


def judged(rows: Rows) -> dict[str, dict[str, Any]]:
    """All ratios beside their bounds."""
    found = {}
    for load, rounds in rows.items():
        for ratio in ratios_of(load, rounds):
            found[ratio.name] = ratio.judged(rounds)
    return found
