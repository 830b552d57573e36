"""The load generators that are compared, each in a process of its own that is started once:

    python benchmarks/loadgen/clients.py ours|vllm|old

A line of JSON in is a run ({"url", "tokens", "seconds", "requests"}), a line out what it took
({"cpu_s", "events", "requests", "failed"}) while load was on: within the window, or of vLLM's from
its first request to its last answer, so without its reading of prompts and its table. This file
imports nothing of the repository at its head: `old` runs it on another commit's engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

STREAMS = 32
WARMUP_S = 0.3
PROMPT = "Say something. " * 8
MODEL = "noop"

Run = Callable[[dict[str, Any]], dict[str, Any]]


def ours() -> Run:
    """engine.loadgen."""
    from engine.loadgen.ceiling import ended_in, events_in
    from engine.loadgen.level import run_level
    from engine.loadgen.plans import Closed, Plan
    from engine.loadgen.target import Shape, Target

    prompts = [[{"role": "user", "content": PROMPT}]]

    def run(wanted: dict[str, Any]) -> dict[str, Any]:
        target = Target(wanted["url"], MODEL)
        plan = Plan(Closed(STREAMS), wanted["seconds"], WARMUP_S)
        level = run_level(target, Shape(max_tokens=wanted["tokens"]), prompts, plan)
        return {
            "cpu_s": level.watches[0].cpu_s,
            "events": events_in(level),
            "requests": ended_in(level),
            "failed": sum(sample.status != "ok" for sample in level.samples),
        }

    return run


def old() -> Run:
    """The client on OpenAI's SDK that the engine had at servers.OLD_COMMIT."""
    from engine.spec import LoadtestSpec

    from engine.stages.loadtest.arrivals import Level
    from engine.stages.loadtest.client import measure

    prompts = [[{"role": "user", "content": PROMPT}]] * 2

    def run(wanted: dict[str, Any]) -> dict[str, Any]:
        spec = LoadtestSpec(
            concurrency=[STREAMS],
            seconds=wanted["seconds"],
            warmup_seconds=WARMUP_S,
            max_tokens=wanted["tokens"],
        )
        level = Level(concurrency=STREAMS)
        found = asyncio.run(measure(wanted["url"], MODEL, prompts, level, spec, 0))
        samples = [*found.warmup, *found.samples]
        good = [sample for sample in samples if sample.status == "ok"]
        window_ms = 1000 * wanted["seconds"]
        events, requests = 0.0, 0
        for sample in good:
            begin = sample.intended_ms + sample.ttft_ms
            end = sample.intended_ms + sample.e2e_ms
            inside = max(0.0, min(end, window_ms) - max(begin, 0.0))
            share = inside / (end - begin) if end > begin else float(0 <= end < window_ms)
            events += sample.output_tokens * share
            requests += 0 <= end < window_ms
        return {
            "cpu_s": found.cpu_fraction * found.window_s,
            "events": events,
            "requests": requests,
            "failed": len(samples) - len(good),
        }

    return run


def vllm() -> Run:
    """`vllm bench serve --backend openai-chat`."""
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    ask = ASYNC_REQUEST_FUNCS["openai-chat"]
    seen: list[tuple[float, float, int, bool]] = []  # processor time before and after, events, ok

    async def timed(*arguments: Any, **more: Any) -> Any:
        before = time.process_time()
        output = await ask(*arguments, **more)
        seen.append((before, time.process_time(), output.output_tokens or 0, output.success))
        return output

    ASYNC_REQUEST_FUNCS["openai-chat"] = timed
    parser = FlexibleArgumentParser()
    add_cli_args(parser)

    def run(wanted: dict[str, Any]) -> dict[str, Any]:
        seen.clear()
        words = ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
        words += ["--base-url", wanted["url"].removesuffix("/v1"), "--model", MODEL]
        words += ["--tokenizer", wanted["tokenizer"], "--dataset-name", "random"]
        words += ["--random-input-len", "24", "--random-output-len", str(wanted["tokens"])]
        words += ["--num-prompts", str(wanted["requests"]), "--max-concurrency", str(STREAMS)]
        words += ["--request-rate", "inf", "--disable-tqdm", "--ready-check-timeout-sec", "0"]
        asyncio.run(main_async(parser.parse_args(words)))
        begun = min(before for before, *_ in seen)
        ended = max(after for _, after, *_ in seen)
        return {
            "cpu_s": ended - begun,
            "events": sum(events for _, _, events, is_ok in seen if is_ok),
            "requests": sum(is_ok for *_, is_ok in seen),
            "failed": sum(not is_ok for *_, is_ok in seen),
        }

    return run


CLIENTS = {"ours": ours, "vllm": vllm, "old": old}


def main() -> None:
    """Run what comes in until nothing more does."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    run = CLIENTS[sys.argv[1]]()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
