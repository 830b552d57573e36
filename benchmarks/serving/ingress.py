"""The product's front without a model behind it: what it adds to a request, how it shares work out,
and what it does when there is too much."""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path
from typing import Any

import psutil

from benchmarks.result import Found, bounded
from benchmarks.serving.speed import Load, Timing, drive, tell
from benchmarks.serving.stand_ins import HOST, MODEL, stand_in

UNLIMITED = 1024  # answers at a time, of a server that only streams
BATCH, STEP_MS, TOKENS = 4, 10, 16  # of a fake engine: about 25 requests/s
QUEUED = 8  # under overload
OVERLOAD = 3  # times the capacity
ONE_TOKEN = {"max_tokens": 1}


def url_of(port: int) -> str:
    """Where a stand-in answers."""
    return f"http://{HOST}:{port}/v1"


def take_turns(
    targets: dict[str, int], load: Load, timing: Timing, work: Path
) -> dict[str, list[dict[str, Any]]]:
    """The load on each port in each round; who comes first changes each round."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in targets}
    for number in range(timing.rounds):
        order = list(targets.items())
        if number % 2:
            order.reverse()
        for name, port in order:
            row = drive(url_of(port), MODEL, load, timing, number, work)
            rows[name].append(row)
            tell(number, load.name, name, row)
    return rows


def added_latency(timing: Timing, work: Path) -> Found:
    """One hop: through a front, and directly. One token comes at once, so all of the difference is
    the hop's."""
    raw: dict[str, Any] = {}
    ratios = {}
    with (
        stand_in("noop", log=work / "noop.log") as (_, noop),
        stand_in("replica", log=work / "replica.log") as (_, replica),
        stand_in("front", "--replica", f"{replica}:{UNLIMITED}", log=work / "front.log") as front,
    ):
        process, port = front
        targets = {"direct": noop, "front": port}
        for level in (1, 8):
            load = Load(f"one_token_c{level}", ("--concurrency", str(level)), ONE_TOKEN)
            rows = raw[load.name] = take_turns(targets, load, timing, work)
            for what in ("ttft", "e2e"):
                sign, bound = ("<=", 1.0) if level == 1 else (">=", 0.0)
                added = _median_difference(rows, f"{what}_ms")
                ratios[f"ingress_added_{what}_ms_c{level}"] = bounded(added, sign, bound)
        raw["front_us_per_event"] = _cost(process, port, timing, work)
    return ratios, raw


def _median_difference(rows: dict[str, list[dict[str, Any]]], figure: str) -> float:
    added = []
    for through, direct in zip(rows["front"], rows["direct"], strict=True):
        added.append(through[figure]["p50"] - direct[figure]["p50"])
    return round(statistics.median(added), 3)


def _cost(process: subprocess.Popen[str], port: int, timing: Timing, work: Path) -> float:
    """Processor time of the front per event, with 32 streams of 64 events, each in a segment of its
    own."""
    load = Load("events", ("--concurrency", "32"), {"max_tokens": 64})
    front = psutil.Process(process.pid)
    before = front.cpu_times()
    row = drive(url_of(port), MODEL, load, timing, 0, work)
    after = front.cpu_times()
    seconds = after.user + after.system - before.user - before.system
    return round(1e6 * seconds / max(1, row["events_in_all"]), 2)


def two_replicas(timing: Timing, work: Path) -> Found:
    """Requests per second of two fake engines behind a front to those of one."""
    engine = ("fake", "--batch", str(BATCH), "--step-ms", str(STEP_MS))
    with (
        stand_in(*engine, log=work / "a.log") as (_, a),
        stand_in(*engine, log=work / "b.log") as (_, b),
        stand_in("front", "--replica", f"{a}:{BATCH}", log=work / "one.log") as (_, one),
        stand_in(
            *("front", "--replica", f"{a}:{BATCH}", "--replica", f"{b}:{BATCH}"),
            log=work / "two.log",
        ) as (_, two),
    ):
        load = Load("replicas", ("--concurrency", str(4 * BATCH)), {"max_tokens": TOKENS})
        rows = take_turns({"one": one, "two": two}, load, timing, work)
    ratios = []
    for fewer, more in zip(rows["one"], rows["two"], strict=True):
        ratios.append(more["requests_s"] / max(fewer["requests_s"], 1e-9))
    faster = round(statistics.median(ratios), 3)
    return {"two_replicas_to_one": bounded(faster, ">=", 1.6)}, {"replicas": rows}


def overload(timing: Timing, work: Path) -> Found:
    """Three times the requests that it can answer: as many are answered as ever, and the others
    hear so at once. The peak is measured with every place of the batch taken."""
    batch = 2 * BATCH
    steps_s = 1000 / STEP_MS
    built_for = batch * steps_s / TOKENS  # requests/s; a busy machine may reach less
    engine = ("fake", "--batch", str(batch), "--step-ms", str(STEP_MS))
    goodput, refused_ms, raw = [], [], []
    with (
        stand_in(*engine, log=work / "fake.log") as (_, fake),
        stand_in(
            *("front", "--replica", f"{fake}:{batch}", "--max-queued", str(QUEUED)),
            log=work / "limited.log",
        ) as (_, port),
    ):
        body = {"max_tokens": TOKENS}
        at_peak = Load("peak", ("--concurrency", str(batch + QUEUED)), body)
        for number in range(timing.rounds):
            peak = drive(url_of(port), MODEL, at_peak, timing, number, work)
            tell(number, at_peak.name, "front", peak)
            rate = OVERLOAD * max(built_for, peak["requests_s"])
            too_much = Load("overload", ("--rate", f"{rate:.2f}"), body)
            over = drive(url_of(port), MODEL, too_much, timing, number, work)
            tell(number, too_much.name, "front", over)
            goodput.append(over["requests_s"] / max(peak["requests_s"], 1e-9))
            refused = over["refused_ms"] or {"p99": float("inf")}  # nobody was: no overload
            refused_ms.append(refused["p99"])
            raw.append({"peak": peak, "overload": over})
    ratios = {
        "overload_goodput_to_peak": bounded(round(statistics.median(goodput), 3), ">=", 0.9),
        "overload_429_p99_ms": bounded(round(statistics.median(refused_ms), 2), "<=", 50),
    }
    return ratios, {"overload": raw}
