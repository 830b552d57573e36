"""What the load generator costs beside others, how late it sends, and whether its arrivals are what
they claim to be."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from scipy import stats

from benchmarks.loadgen.part import Settings
from benchmarks.result import Found, bounded
from benchmarks.serving import servers
from engine.loadgen.ceiling import measure_ceiling
from engine.loadgen.level import run_level
from engine.loadgen.local import spread_locally
from engine.loadgen.noop_server import MODEL, STEP_MS, noop_server
from engine.loadgen.plans import Open, Plan
from engine.loadgen.samples import Level
from engine.loadgen.target import Shape, Target

CLIENTS = Path(__file__).parent / "clients.py"
EVENTS = 64  # of an answer
REQUESTS_S = 2000  # answers of one event that vLLM's client may get in a second
PROMPTS = [[{"role": "user", "content": "Say something. " * 8}]]
CEILING_S = 4.0
BUSY = 0.5  # of the machine's processors, taken by others
ARRIVALS_RPS, ARRIVALS_S = 50.0, 30.0
LEVEL = 0.01  # of a test


class Client:
    """One of clients.CLIENTS in its process."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    def answer(self) -> str:
        """A line. RuntimeError, with its last words, if it ended."""
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            words = self._log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the client {self.name} ended:\n{words}")
        return line

    def run(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """One run."""
        into = cast("IO[str]", self._process.stdin)
        into.write(json.dumps(wanted) + "\n")
        into.flush()
        return json.loads(self.answer())


@contextmanager
def client(name: str, work: Path) -> Generator[Client]:
    """One of them for the length of the block. `old` has the files of its commit."""
    root = servers.REPOSITORY
    if name == "old":
        root = work / "old"
        servers.check_out(servers.OLD_COMMIT, root)
    log = work / f"client-{name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(CLIENTS), name],
            env=os.environ | servers.VARIABLES | {"PYTHONPATH": str(root)},
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        found = Client(name, process, log)
        found.answer()
        yield found
    finally:
        process.kill()
        process.wait()


def against_others(settings: Settings, work: Path) -> Found:
    """Events and requests per second of processor time, ours to others', round by round."""
    loads = {"events": EVENTS, "requests": 1}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in loads}
    with ExitStack() as stack:
        url, _ = stack.enter_context(noop_server())
        clients = [stack.enter_context(client(name, work)) for name in ("ours", "vllm", "old")]
        for number in range(settings.rounds + 1):
            for load, tokens in loads.items():
                row = _round(clients, url, tokens, settings.seconds, load)
                if number:  # the first is to warm up
                    rows[load].append(row)
                    _tell(number, load, row)
            clients.reverse()
    ratios = {}
    for load, other, at_least in (
        ("events", "vllm", 3.0),
        ("events", "old", 8.0),
        ("requests", "vllm", 3.0),
        ("requests", "old", 0.0),
    ):
        faster = statistics.median(row["ours"] / row[other] for row in rows[load])
        name = "vllm_bench_serve" if other == "vllm" else servers.OLD_COMMIT
        ratios[f"{load}_per_core_s_to_{name}"] = bounded(round(faster, 3), ">=", at_least)
    return ratios, {"per_core_s": rows}


def _round(
    clients: Iterable[Client], url: str, tokens: int, seconds: float, load: str
) -> dict[str, float]:
    """{client: events or requests per second of its processor time}."""
    requests = seconds * REQUESTS_S
    if tokens > 1:
        requests = 32 * seconds / (tokens * STEP_MS / 1000)
    wanted = {
        "url": url,
        "tokens": tokens,
        "seconds": seconds,
        "requests": round(requests),
        "tokenizer": str(servers.TEACHER),
    }
    row = {}
    for each in clients:
        found = each.run(wanted)
        if found["failed"] or not found["requests"]:
            raise RuntimeError(f"{each.name}: requests failed: {found}")
        row[each.name] = found[load] / found["cpu_s"]
    return row


def _tell(number: int, load: str, row: dict[str, float]) -> None:
    words = [f"{name} {value:,.0f}" for name, value in row.items()]
    print(f"round {number} {load:<9} per core-second: {', '.join(words)}", flush=True)


def send_lag(settings: Settings, work: Path) -> Found:
    """How late requests leave at a quarter of the ceiling, Poisson, answers of 64 events."""
    ceiling = measure_ceiling(seconds=CEILING_S)
    rate_rps = ceiling.events_per_core_s / 4 / EVENTS
    runs = []
    with noop_server() as (url, _):
        for seed in range(settings.rounds):
            plan = Plan(Open(rate_rps), settings.seconds, 1.0, seed)
            level = run_level(Target(url, MODEL), Shape(max_tokens=EVENTS), PROMPTS, plan)
            runs.append(_lag(level))
            print(f"send lag {runs[-1]}", flush=True)
    p99 = statistics.median(run["lag_p99_ms"] for run in runs)
    ratios = {
        "send_lag_p99_ms_at_a_quarter_of_the_ceiling": bounded(round(p99, 3), "<=", 2.0),
        "machine_was_busy_with_others": bounded(
            round(statistics.median(run["others_cpu"] for run in runs), 3), ">=", 0.0
        ),
    }
    raw = {
        "ceiling": {
            "events_per_core_s": ceiling.events_per_core_s,
            "requests_per_core_s": ceiling.requests_per_core_s,
        },
        "rate_rps": rate_rps,
        "lag": runs,
    }
    return ratios, raw


def _lag(level: Level) -> dict[str, Any]:
    timed = [sample for sample in level.samples if sample.intended_ms >= 0]
    late = [sample.sent_ms - sample.intended_ms for sample in timed]
    (watch,) = level.watches
    return {
        "requests": len(timed),
        "failed": sum(sample.status != "ok" for sample in timed),
        "lag_p50_ms": round(float(np.percentile(late, 50)), 3),
        "lag_p99_ms": round(float(np.percentile(late, 99)), 3),
        "loop_lag_p99_ms": round(float(np.percentile(watch.loop_lag_ms, 99)), 3),
        "client_cores": round(watch.cpu_s / watch.window_s, 3),
        "others_cpu": round(watch.others_cpu, 3),
        "machine_was_busy": watch.others_cpu > BUSY,
    }


def arrivals(settings: Settings, work: Path) -> Found:
    """Poisson arrivals as a server gets them, from one process and from four: the smallest p of a
    dispersion test and a Kolmogorov-Smirnov test of their gaps, once of requests that were really
    sent."""
    ratios = {}
    raw: dict[str, Any] = {}
    for processes in (1, 4):
        with noop_server() as (url, _):
            plan = Plan(Open(ARRIVALS_RPS), ARRIVALS_S, 1.0, seed=1)
            level = run_level(
                Target(url, MODEL),
                Shape(max_tokens=1),
                PROMPTS,
                plan,
                processes=processes,
                spread=spread_locally,
            )
        sent = np.sort([sample.sent_ms for sample in level.samples if sample.intended_ms >= 0])
        found = p_values(sent / 1000, ARRIVALS_RPS, ARRIVALS_S)
        raw[f"arrivals_{processes}"] = found | {"requests": len(sent)}
        for test, p in found.items():
            name = f"arrivals_{test}_p_{processes}_processes"
            ratios[name] = bounded(round(p, 4), ">=", LEVEL)
    return ratios, raw


def p_values(times_s: np.ndarray, rate_rps: float, seconds: float) -> dict[str, float]:
    """Of the hypothesis that these are times of a Poisson process: by the dispersion of counts in
    100 windows (two-sided), and by their gaps."""
    counts, _ = np.histogram(times_s, bins=100, range=(0, seconds))
    chi2 = (len(counts) - 1) * counts.var(ddof=1) / counts.mean()
    below = float(stats.chi2.cdf(chi2, len(counts) - 1))
    gaps = stats.kstest(np.diff(times_s), "expon", args=(0, 1 / rate_rps))
    return {"dispersion": 2 * min(below, 1 - below), "kolmogorov_smirnov": float(gaps.pvalue)}
