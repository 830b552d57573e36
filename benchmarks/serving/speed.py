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

from benchmarks.result import bounded
from benchmarks.serving import servers
from benchmarks.serving.servers import Server, beside_engine, spent

PROMPTS = servers.REPOSITORY / "jobs/quickstart/data/validation.jsonl"
IDLE_S = 10.0  # over which the fixed background is measured
WARM_S = 3.0  # of load that nobody counts, before the first round
LEVELS = (1, 8, 32)
EQUAL = {"ignore_eos": True}  # answers of 64 tokens; else they end by themselves
POISSON = {"poisson_third": 1 / 3, "poisson_two_thirds": 2 / 3}  # of the capacity
SHOWN = 0.0  # a ratio that cannot miss


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
    closed loops."""

    rounds: int
    seconds: float
    warmup_s: float = 1.0
    loads: tuple[str, ...] = ()


Rows = dict[str, dict[str, list[dict[str, Any]]]]  # {load: {server: a row per round}}


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
    others: Sequence[Server],
    load: Load,
    timing: Timing,
    seed: int,
    idle: dict[str, dict[str, float]],
    work: Path,
) -> dict[str, Any]:
    """One run, and what it cost per token, from before the client started until it had ended."""
    before, others_before = server.processor_s(), [each.processor_s() for each in others]
    started = time.perf_counter()
    row = drive(server.url, servers.MODEL, load, timing, seed, work)
    seconds = spent(before, server.processor_s())
    wall_s = time.perf_counter() - started
    elsewhere = 0.0
    for each, earlier in zip(others, others_before, strict=True):
        elsewhere += sum(spent(earlier, each.processor_s()).values())
    fixed_s = beside_engine(idle[server.name]) * wall_s
    per_token = 1e6 / max(1, row["tokens_in_all"])
    row["beside_engine_us"] = (beside_engine(seconds) - fixed_s) * per_token
    row["background_us"] = fixed_s * per_token
    row["processes_us"] = {title: value * per_token for title, value in seconds.items() if value}
    row["idle_servers_cores"] = elsewhere / wall_s
    return row


def take_turns(
    running: Sequence[Server],
    loads: Sequence[Load],
    timing: Timing,
    idle: dict[str, dict[str, float]],
    work: Path,
) -> Rows:
    """Every load on every server in every round; who comes first changes each round."""
    rows: Rows = {load.name: {server.name: [] for server in running} for load in loads}
    for number in range(timing.rounds):
        order = list(running)
        if number % 2:
            order.reverse()
        for load in loads:
            for server in order:
                others = [each for each in running if each is not server]
                row = measure(server, others, load, timing, number, idle, work)
                rows[load.name][server.name].append(row)
                tell(number, load.name, server.name, row)
    return rows


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
    with (
        servers.running(servers.ours(work), work) as ours,
        servers.running(servers.own(), work) as own,
    ):
        pair = (own, ours)
        warm_up(pair, work)
        idle = background(pair)
        if timing.loads:
            wanted = [load for load in closed_loads() if load.name in timing.loads]
            rows = take_turns(pair, wanted, timing, idle, work)
            return against_own(rows), {"rounds": rows, "background_cores": idle}
        rows = take_turns(pair, closed_loads(), timing, idle, work)
        at_most = [row["requests_s"] for row in rows["equal_c32"]["own"]]
        capacity_rps = statistics.median(at_most)
        rows |= take_turns(pair, poisson_loads(capacity_rps), timing, idle, work)
    ratios = against_own(rows)
    with (
        servers.running(servers.ours(work), work) as ours,
        servers.running(servers.old(work), work) as old,
    ):
        pair = (old, ours)
        warm_up(pair, work)
        idle_beside_old = background(pair)
        full = [load for load in closed_loads() if load.name == "equal_c32"]
        beside_old = take_turns(pair, full, timing, idle_beside_old, work)
    faster = median_ratio(beside_old["equal_c32"], "old", tokens_per_second)
    ratios["tok_s_to_old_equal_c32"] = bounded(faster, ">=", 3.4)
    raw = {
        "rounds": rows,
        "rounds_beside_old": beside_old,
        "background_cores": idle,
        "background_cores_beside_old": idle_beside_old,
        "capacity_rps": capacity_rps,
    }
    return ratios, raw


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


def median_ratio(
    rows: dict[str, list[dict[str, Any]]], base: str, figure: Callable[[dict[str, Any]], float]
) -> float:
    """Ours to `base`, round by round; the median."""
    ratios = []
    for mine, theirs in zip(rows["ours"], rows[base], strict=True):
        below = figure(theirs)
        ratios.append(figure(mine) / below if below else float("nan"))
    return round(statistics.median(ratios), 3)


def against_own(rows: Rows) -> dict[str, dict[str, Any]]:
    """The ratios to vLLM's API server. In a closed loop of 32 requests the median time to the first
    token jumps with how requests fall into cohorts, so it is shown only."""
    ratios = {}
    for name, found in rows.items():
        is_poisson = name in POISSON
        at_most = 1.2 if name == "poisson_two_thirds" else 1.1
        tok_s = median_ratio(found, "own", tokens_per_second)
        first, whole = median_ratio(found, "own", ttft), median_ratio(found, "own", e2e)
        ratios[f"tok_s_{name}"] = bounded(tok_s, ">=", SHOWN if is_poisson else 0.97)
        if name.endswith("_c32"):
            ratios[f"ttft_{name}"] = bounded(first, ">=", SHOWN)
            ratios[f"e2e_{name}"] = bounded(whole, ">=", SHOWN)
        else:
            ratios[f"ttft_{name}"] = bounded(first, "<=", at_most)
            ratios[f"e2e_{name}"] = bounded(whole, "<=", 1.05)
    if "equal_c32" in rows:
        cost = median_ratio(rows["equal_c32"], "own", beside_engine_us)
        ratios["processor_beside_engine_equal_c32"] = bounded(cost, "<=", 1.3)
    return ratios
