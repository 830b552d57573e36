"""One layout of the train stage in a process of its own, with the product's worker function and
DeepSpeed; no Ray.

    python -m benchmarks.gpu.train_layout NAME --pack PACK --out FOLDER --result FILE
        --device cpu|gpu [--kill]

It imports, then waits for a line on stdin, so that the next layout's imports overlap with this
one's steps.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  its import takes seconds, which overlap with another layout's steps
import torch
from torch import distributed

from benchmarks.gpu.cases import load_case
from benchmarks.gpu.layouts import LAYOUTS, STEPS, TRAINED, slug
from engine.backends import deepspeed_engine
from engine.job.spec import JobSpec
from engine.machines.architectures import facts
from engine.machines.planner import state_gb
from engine.run.context import Context
from engine.run.manifests import finished
from engine.stages import train
from engine.training.checkpoints import complete
from engine.training.metrics import load_metrics

DIES_AFTER = 9  # steps; the job saves after eight


class Watched:
    """The engine, with what it holds between steps and where it went on from; ends its process
    after the first checkpoint if told so."""

    def __init__(self, engine: Any, dies_after: Path | None) -> None:
        self._engine, self._dies_after = engine, dies_after
        self.steps, self.state_bytes, self.resumed_from = 0, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        self.resumed_from = step
        self._engine.load(tensors, step)

    def step(
        self, batches: Iterable[Any], tokens: int, learning_rate: float
    ) -> tuple[float, float, float]:
        if self._dies_after and self.steps > DIES_AFTER:
            while not complete(self._dies_after):  # it is written while training goes on
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        values = self._engine.step(batches, tokens, learning_rate)
        if torch.cuda.is_available():
            self.state_bytes = max(self.state_bytes, torch.cuda.memory_allocated())
        return values


def launch_here(work: Callable[..., Any], *, device: str, folder: Path, **placement: Any) -> Any:
    """The one worker, in this process, as Ray Train would start it: with a process group, here of
    one rank."""
    meeting = folder.with_name("rendezvous")
    meeting.unlink(missing_ok=True)
    distributed.init_process_group(
        "nccl" if device == "gpu" else "gloo", init_method=f"file://{meeting}", rank=0, world_size=1
    )
    try:
        return work(0, 1, lambda: False)
    finally:
        distributed.destroy_process_group()


def run(job: JobSpec, curated: Path, out: Path, *, kill: bool) -> dict[str, Any]:
    """Train as the pipeline does, up to the exported student; losses of the first STEPS steps, and
    memory."""
    engines: list[Watched] = []

    def build(*arguments: Any, **more: Any) -> Watched:
        engines.append(
            Watched(
                deepspeed_engine.build(*arguments, **more), out / "checkpoints" if kill else None
            )
        )
        return engines[-1]

    out.mkdir(parents=True, exist_ok=True)
    context = Context(job.name, job.task, job.seed, job.device)
    counts = train.run(
        job.train,
        {"curate": finished(curated)},
        out,
        context,
        job.generate,
        launch=launch_here,
        build_engine=build,
    )
    lines = [line for line in load_metrics(out / "metrics.jsonl") if "loss" in line]
    gigabyte = 1e9  # as the planner counts
    shape = facts(job.train.student)
    return {
        "losses": [line["loss"] for line in lines][:STEPS],
        "steps": len(lines),
        "seconds_per_step": lines[-1]["seconds"],
        "tokens_per_second": counts.info.tokens_per_second,
        "resumed_from": engines[-1].resumed_from,
        "state_gb": engines[-1].state_bytes / gigabyte,
        "peak_gb": lines[-1]["memory_gib"] * 2**30 / gigabyte,
        "planned_state_gb": state_gb(job.train, shape) if shape else None,
        "gates": counts.info.gates,
    }


def main() -> None:
    """Wait for the line that says go, train, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=LAYOUTS)
    for name in ("pack", "out", "result"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "gpu"), required=True)
    parser.add_argument(
        "--kill", action="store_true", help="end by SIGKILL after the first checkpoint"
    )
    options = parser.parse_args()
    if not sys.stdin.readline():
        return  # who should have said so is gone
    layout = LAYOUTS[options.name]
    fields = {f"train.{key}": value for key, value in layout.fields.items()}
    if layout.fields.get("init") == "pretrained":
        fields["train.student"] = str(options.out.with_name(slug(TRAINED)) / "student")
    if not layout.killed:
        fields["train.checkpoint_steps"] = 1000  # one at the end
    case = load_case(options.pack, "wide", options.device, fields)
    seen = run(case.job, case.folder("curate"), options.out, kill=options.kill)
    options.result.write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
