"""Does a real server get the same throughput from this client as from `vllm bench serve`? Both ask
vLLM's own API server the same questions, eight at a time, in pairs that lie seconds apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.loadgen.part import Settings
from benchmarks.result import Found, bounded
from benchmarks.serving import servers
from benchmarks.serving.speed import EQUAL, PROMPTS, warm_up
from engine.loadgen.level import run_level
from engine.loadgen.plans import Closed, Plan
from engine.loadgen.target import Shape, Target
from engine.rows.records import Messages
from engine.stages.loadtest.figures import figures_of

IN_FLIGHT = 8
TOKENS = 64
SECONDS, WARMUP_S = 15.0, 1.0
LOWEST, HIGHEST = 0.95, 1.05  # the interval must reach into it


def endpoint(settings: Settings, work: Path, seconds: float = SECONDS) -> Found:
    """Tokens per second by this client to those by vLLM's, a pair a round, with the interval of
    their geometric mean (t, on logarithms)."""
    questions = [json.loads(line)["prompt"] for line in PROMPTS.read_text().splitlines()]
    prompts = [[{"role": "user", "content": text}] for text in questions]
    rows = []
    with servers.running(servers.own(), work) as server:
        warm_up([server], work)
        for number in range(settings.rounds):
            row = {}
            row["ours"] = ours(server.url, prompts, seconds, number)
            requests = round(row["ours"] * seconds / TOKENS)
            row["vllm"] = vllm_bench(server.url, questions, max(requests, IN_FLIGHT), work)
            rows.append(row)
            print(f"round {number + 1} tok/s: ours {row['ours']:,.0f}, vllm {row['vllm']:,.0f}")
    logs = np.log([row["ours"] / row["vllm"] for row in rows])
    spread = stats.sem(logs) * stats.t.ppf(0.975, len(logs) - 1)
    low, high = np.exp([logs.mean() - spread, logs.mean() + spread]).round(4).tolist()
    ratios = {
        "endpoint_tok_s_to_vllm_bench_serve_lower_end": bounded(low, "<=", HIGHEST),
        "endpoint_tok_s_to_vllm_bench_serve_upper_end": bounded(high, ">=", LOWEST),
    }
    mean = float(np.exp(logs.mean()))
    return ratios, {"endpoint": {"rounds": rows, "mean": mean, "interval": [low, high]}}


def ours(url: str, prompts: list[Messages], seconds: float, seed: int) -> float:
    """Tokens per second within the window. RuntimeError where a request failed."""
    plan = Plan(Closed(IN_FLIGHT), seconds, WARMUP_S, seed)
    shape = Shape(max_tokens=TOKENS, temperature=0.0, body=EQUAL)
    found = figures_of(run_level(Target(url, servers.MODEL), shape, prompts, plan))
    if found["failed"] or found["output_tokens_per_second"] is None:
        raise RuntimeError(f"requests failed: {found['failures']}")
    return found["output_tokens_per_second"]


def vllm_bench(url: str, questions: list[str], requests: int, work: Path) -> float:
    """Tokens per second from its first request to its last answer. RuntimeError where one
    failed."""
    asked = work / "questions.jsonl"
    lines = [json.dumps({"prompt": questions[n % len(questions)]}) for n in range(requests)]
    asked.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve"]
    command += ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", url.removesuffix("/v1"), "--model", servers.MODEL]
    command += ["--tokenizer", str(servers.TEACHER), "--dataset-name", "custom"]
    command += ["--dataset-path", str(asked), "--skip-chat-template", "--disable-shuffle"]
    command += ["--custom-output-len", str(TOKENS), "--ignore-eos", "--temperature", "0"]
    command += ["--num-prompts", str(requests), "--max-concurrency", str(IN_FLIGHT)]
    command += ["--disable-tqdm", "--save-result", "--result-dir", str(work)]
    command += ["--result-filename", "bench.json"]
    with (work / "bench.log").open("wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    found = json.loads((work / "bench.json").read_text())
    if found["completed"] < requests:
        raise RuntimeError(f"vllm bench serve: {found['completed']} of {requests} came to an end")
    return found["output_throughput"]
