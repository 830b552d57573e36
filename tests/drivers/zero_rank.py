"""One rank of tests/backends/test_deepspeed_engine.py: a fresh process that trains a tiny model
as its plan says.

python zero_rank.py PLAN.json RANK: {store, workers, model, blocks, result, runs: [{spec, load,
save, first, last}]}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import distributed

from engine.backends import deepspeed_engine
from engine.job.spec import TrainSpec
from engine.training import checkpoints
from engine.training.blocks import Blocks, rank_batches
from engine.training.checkpoints import Validations, Writer
from engine.training.loop import remaining_steps
from engine.training.schedule import Schedule
from engine.training.student import load_student


def main(plan_file: str, rank: int) -> None:
    torch.set_num_threads(1)
    plan = json.loads(Path(plan_file).read_text())
    workers = plan["workers"]
    distributed.init_process_group(
        "gloo", init_method=f"file://{plan['store']}", rank=rank, world_size=workers
    )
    blocks = Blocks(Path(plan["blocks"]), "train")
    results = []
    for run in plan["runs"]:
        began = time.perf_counter()
        spec = TrainSpec(student=plan["model"], **run["spec"])
        engine = deepspeed_engine.build(
            spec, load_student(plan["model"], spec, "cpu", 0), device="cpu"
        )
        if run["load"]:
            engine.load(checkpoints.newest(Path(run["load"])).load(), run["first"])
        losses, norms = [], []
        for step in remaining_steps(
            blocks,
            Schedule(blocks.shard_sizes, 6, 3, spec),
            run["first"],
            rank=rank,
            workers=workers,
        ):
            if step.number > run["last"]:
                break
            loss, _, norm = engine.step(step.batches, step.tokens, step.learning_rate)
            losses.append(loss)
            norms.append(norm)
        mine = rank_batches(torch.arange(len(blocks)).numpy(), rank, workers, 4)
        validation = engine.validate(
            (blocks.batch(part) for part in mine), int(blocks.targets.sum())
        )
        if run["save"]:
            writer = Writer(Path(run["save"]), 1, {}, rank=rank, workers=workers, keep=2)
            writer.save(run["last"], engine.save(), Validations())
            writer.wait()
        weights = engine.export()
        if weights:
            torch.save(
                weights,
                Path(plan["result"]).with_name(f"{Path(plan['result']).stem}-{len(results)}.pt"),
            )
        results.append(
            {
                "losses": losses,
                "norms": norms,
                "validation": validation,
                "seconds": time.perf_counter() - began,
            }
        )
    if rank == 0:
        Path(plan["result"]).write_text(json.dumps(results))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
