"""Tokens per second of the generate stage beside vLLM's own offline call and ray.data.llm. See
README.md beside this file."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generation import tiny_model
from benchmarks.generation.variants import job
from benchmarks.result import bounded, write_result

REPOSITORY = Path(__file__).parents[2]

VARIANTS = ("ours", "llm", "ray_data_llm", "llm_default", "ray_data_llm_lean")
SEED, TEMPERATURE, MAX_TOKENS = 0, 0.7, 64
# (baseline, k) -> least ratio; without one the ratio is shown and cannot miss
BOUNDS = {
    ("llm", 0): 0.95,
    ("llm", 16): 0.95,
    ("llm", 64): 0.95,
    ("ray_data_llm", 0): 0.95,
    ("ray_data_llm", 16): 4.0,
}


def prepare(work: Path, rows: int) -> None:
    """Model, prompts with the ids that our prompts stage gives them, and the seeds of our requests,
    for all variants."""
    from transformers import AutoTokenizer

    import engine
    from engine.rows.ids import derive_seed
    from engine.rows.tables import read_tables

    prompts = tiny_model.make_prompts(tiny_model.make_model(work / "model"), rows)
    (work / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    )
    task: dict[str, Any] = {
        "model": str(work / "model"),
        "prompts": str(work / "prompts.jsonl"),
        "temperature": TEMPERATURE,
        "max_tokens": MAX_TOKENS,
        "environment": {},
    }
    folder = engine.run(job(task, 0), work / "prepare", until="prompts").stages["prompts"]
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    task["rows"] = [
        {
            "prompt_id": prompt_id,
            "ids": tokenizer(messages[-1]["content"])["input_ids"],
            "seed": derive_seed(SEED, prompt_id, "tiny", 0),
        }
        for table in read_tables(folder.files(), ["prompt_id", "messages"])
        for prompt_id, messages in zip(
            table["prompt_id"].to_pylist(), table["messages"].to_pylist(), strict=True
        )
    ]
    assert {len(row["ids"]) for row in task["rows"]} == {tiny_model.PROMPT_TOKENS}
    assert len(task["rows"]) == rows
    (work / "task.json").write_text(json.dumps(task))


def measure(variant: str, k: int, work: Path) -> float:
    """Tokens per second of one variant in a fresh process; CalledProcessError, with its last lines
    shown, if it fails."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.generation.variants",
        variant,
        str(k),
        str(work),
    ]
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    environment["RAY_worker_niceness"] = (
        "0"  # Ray's 15 would measure its variants with what other work leaves over, `llm` without
    )
    with (work / f"log-{variant}-{k}.txt").open("w+") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
        if done.returncode:
            log.seek(0)
            print("\n".join(log.read().splitlines()[-30:]), file=sys.stderr)
        done.check_returncode()
    return json.loads((work / "result.json").read_text())["tokens_per_second"]


def same_answers(work: Path, variant: str, k: int) -> float | None:
    """Share of answers whose tokens are those of `llm`; a batch composed otherwise can flip a
    near-tie."""
    files = [work / f"tokens-{name}-{k}.npy" for name in (variant, "llm")]
    if not all(file.exists() for file in files):
        return None
    return round(float((np.load(files[0]) == np.load(files[1])).all(axis=1).mean()), 4)


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--k", type=int, nargs="+", default=[0, 16, 64])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    speeds: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        prepare(work, options.rows)
        for k in options.k:
            measure(
                "llm",
                k,
                work,
                # not counted: vLLM compiles its code for log-probabilities once per machine, which
                # takes seconds
            )
            for _ in range(options.repeats):
                for variant in options.variants:
                    if k == 64 and variant.startswith("ray_data_llm"):
                        continue  # minutes each, and no bound
                    speeds[variant, k].append(round(measure(variant, k, work), 1))
                    print(
                        f"k={k:<3} {variant:<18} {speeds[variant, k][-1]:>9,.1f} tok/s", flush=True
                    )
        same = {f"{variant}_k{k}": same_answers(work, variant, k) for variant, k in speeds}
    medians = {key: statistics.median(found) for key, found in speeds.items()}
    ratios = {
        f"ours_to_{variant}_k{k}": bounded(
            round(medians["ours", k] / speed, 3), ">=", BOUNDS.get((variant, k), 0.0)
        )
        for (variant, k), speed in medians.items()
        if variant != "ours" and ("ours", k) in medians
    }
    seen = {f"{variant}_k{k}": found for (variant, k), found in speeds.items()}
    return write_result(
        options.json,
        ratios,
        tokens_per_second=seen,
        same_answers_as_llm=same,
        rows=options.rows,
        max_tokens=MAX_TOKENS,
    )


if __name__ == "__main__":
    sys.exit(main())
