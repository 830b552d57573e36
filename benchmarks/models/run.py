"""Which architectures go all the way: answered with top-k, trained, exported, served, and equal to
transformers? See README.md beside this file.

    python -m benchmarks.models.run --work WORK [--only NAME ...] [--steps make ...] [--json FILE]

A step that was done is not done again: each leaves WORK/NAME/STEP.json. A process that has imported
everything forks one for each step, so that an engine's imports are paid once and its death is one
step's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.result import bounded, write_result
from engine.machines.tiny_models import FAMILIES

STEPS = ("make", "generate", "train", "serve")
MOST_SECONDS = 420  # of one step
NAMES = tuple(family.name for family in FAMILIES)


def folder_of(work: Path, name: str) -> Path:
    """Where the steps of one architecture leave what they made."""
    return work / re.sub(r"\W+", "-", name.lower())


def run_step(work: Path, name: str, step: str) -> None:
    """One step in a process of its own, unless it was done or what it needs is not there."""
    here = folder_of(work, name)
    here.mkdir(parents=True, exist_ok=True)
    told = here / f"{step}.json"
    if told.exists() or not _may_start(here, step):
        return
    started = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_enter, args=(name, step, here))
    process.start()
    process.join(MOST_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        _write(told, {"failed": f"not done within {MOST_SECONDS} s"})
    elif not told.exists():
        _write(told, {"failed": f"the process ended with exit code {process.exitcode}"})
    found = json.loads(told.read_text()) | {"seconds": round(time.monotonic() - started, 1)}
    _write(told, found)
    shown = found.get("failed") or "done"
    print(f"{name:<16} {step:<9} {found['seconds']:6.1f} s  {shown}", flush=True)


def _may_start(here: Path, step: str) -> bool:
    """Training goes on without the teacher's signal, all else needs what came before."""
    needs = {"generate": ["make"], "train": ["make", "generate"], "serve": ["make", "train"]}
    for before in needs.get(step, []):
        file = here / f"{before}.json"
        if not file.exists():
            return False
        failed = "failed" in json.loads(file.read_text())
        if failed and before != "generate":
            return False
    return True


def _enter(name: str, step: str, here: Path) -> None:
    """In the forked process: its output goes to a file, its figures to another."""
    log = os.open(here / f"{step}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from benchmarks.models import steps

    try:
        found = steps.STEPS[step](name, here)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the result
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"}
    _write(here / f"{step}.json", found)
    os._exit(0)  # an engine's threads know no end


def _write(target: Path, found: dict[str, Any]) -> None:
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(target)


def _import(steps: list[str]) -> None:
    """Everything heavy, once: forked processes have it then."""
    from engine.backends.vllm_settings import engine_environment

    os.environ |= engine_environment(1, "cpu")
    os.environ |= {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    import engine.training.tiny_models

    if "train" in steps:
        import deepspeed  # noqa: F401

        import engine.stages.train  # noqa: F401
    if "generate" in steps or "serve" in steps:
        import vllm.v1.engine.async_llm
        import vllm.v1.engine.llm_engine  # noqa: F401


def collected(work: Path) -> dict[str, dict[str, Any]]:
    """What is known of each architecture, by step; a step that was not run is not there."""
    models: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        models[name] = {}
        for step in STEPS:
            file = folder_of(work, name) / f"{step}.json"
            if file.exists():
                models[name][step] = json.loads(file.read_text())
    return models


def is_equal(steps: dict[str, Any]) -> bool:
    """Whether it went all the way, and each served answer is transformers' or parts at a tie."""
    if len(steps) < len(STEPS) or any("failed" in step for step in steps.values()):
        return False
    served = steps["serve"]
    return bool(served["equal"] + served["ties"] == served["prompts"])


def is_tried(steps: dict[str, Any]) -> bool:
    """Whether it went as far as it can."""
    return "serve" in steps or any("failed" in step for step in steps.values())


def main() -> int:
    """Do what is missing; with --json, write what is there as a result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--only", nargs="*", default=NAMES, choices=NAMES, metavar="NAME")
    options.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS, metavar="STEP")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    if given.steps:
        _import(given.steps)
    for step in given.steps:
        for name in given.only:
            run_step(given.work, name, step)
    if given.json is None:
        return 0
    models = collected(given.work)
    tried = [steps for steps in models.values() if is_tried(steps)]
    whole = sum(is_equal(steps) for steps in tried)
    ratios = {
        "all the way, of those that were tried": bounded(whole / max(1, len(tried)), ">=", 1.0)
    }
    return write_result(given.json, ratios, models=models)


if __name__ == "__main__":
    raise SystemExit(main())
