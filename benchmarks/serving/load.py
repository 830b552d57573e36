"""One run of the load generator (engine/loadgen) in a process of its own, and what it saw.

    python -m benchmarks.serving.load URL --model M --concurrency 32 | --rate 20

Where client and server share two cores, a client that works for each token measures itself; its
share of a core stands in what is printed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.loadgen.level import run_level
from engine.loadgen.plans import Closed, Open, Plan
from engine.loadgen.samples import Level, Sample
from engine.loadgen.target import Shape, Target
from engine.rows.records import Messages

MAX_TOKENS = 64


def summary(level: Level) -> dict[str, Any]:
    """What was measured, of the requests that were due in the window; the latency of one that
    failed is infinite."""
    seconds = level.window_s
    timed = [sample for sample in level.samples if 0 <= sample.intended_ms < 1000 * seconds]
    failed = [sample for sample in timed if sample.status != "ok"]
    refused = [_first_byte(sample) for sample in failed if sample.status == "http_429"]
    ok = [sample for sample in level.samples if sample.status == "ok"]
    shares = [share_within(sample, 1000 * seconds) for sample in ok]
    tokens = [sample.output_tokens or 0 for sample in ok]
    return {
        "requests": len(timed),
        "failed": len(failed),
        "statuses": Counter(sample.status for sample in timed),
        "words": {sample.status: sample.error for sample in failed},
        "requests_s": sum(shares) / seconds,
        "tok_s": float(np.dot(shares, tokens)) / seconds,
        "ttft_ms": _percentiles([_latency(sample, sample.ttft_ms) for sample in timed]),
        "e2e_ms": _percentiles([_latency(sample, sample.e2e_ms) for sample in timed]),
        "refused_ms": _percentiles(refused),
        "lag_ms": _percentiles([sample.sent_ms - sample.intended_ms for sample in timed]),
        "tokens_in_all": sum(tokens),  # also before and after the window
        "events_in_all": sum(sample.events for sample in ok),
        "client_cores": round(sum(watch.cpu_s for watch in level.watches) / seconds, 4),
    }


def _first_byte(sample: Sample) -> float:
    return float("inf") if sample.first_byte_ms is None else sample.first_byte_ms


def _latency(sample: Sample, latency_ms: float | None) -> float:
    return float("inf") if latency_ms is None or sample.status != "ok" else latency_ms


def share_within(sample: Sample, window_ms: float) -> float:
    """How much of an answer came in the window, as if its tokens had come evenly between the first
    and the last: equal answers end in batches, and whole ones would jump by that many."""
    first = sample.intended_ms + (sample.ttft_ms or 0.0)
    last = sample.intended_ms + (sample.last_ms or 0.0)
    if last <= first:  # all at once
        return float(0 <= first < window_ms)
    return max(0.0, min(last, window_ms) - max(first, 0.0)) / (last - first)


def _percentiles(milliseconds: Sequence[float]) -> dict[str, float] | None:
    """None without a value."""
    if not milliseconds:
        return None
    found = np.percentile(milliseconds, (50, 95, 99), method="inverted_cdf")
    p50, p95, p99 = np.round(found, 3).tolist()
    return {"p50": p50, "p95": p95, "p99": p99}


def _prompts(path: Path) -> list[Messages]:
    prompts: list[Messages] = []
    for line in path.read_text().splitlines():
        prompts.append([{"role": "user", "content": json.loads(line)["prompt"]}])
    return prompts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="base URL; ends in /v1")
    parser.add_argument("--model", required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--concurrency", type=int, help="requests in flight at any time")
    how.add_argument("--rate", type=float, help="requests per second, Poisson")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before the window")
    parser.add_argument("--body", type=json.loads, default={}, help="further fields, as JSON")
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL with `prompt`")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and the prompts' order")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one request")
    parser.add_argument("--json", type=Path, help="file of the summary; none: it is printed")
    return parser.parse_args()


def main() -> None:
    """Load the server, and say what was seen."""
    options = _arguments()
    load = Open(options.rate) if options.rate else Closed(options.concurrency)
    level = run_level(
        Target(options.url, options.model),
        Shape(max_tokens=MAX_TOKENS, body=options.body, timeout_s=options.timeout),
        _prompts(options.prompts),
        Plan(load, options.seconds, options.warmup, options.seed),
    )
    text = json.dumps(summary(level), indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
