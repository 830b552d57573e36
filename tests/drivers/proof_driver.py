"""A driver of tests/training/test_proof_train.py, to be killed: the train stage on Ray workers,
which die where the plan says.

python proof_driver.py PLAN.json: {spec, curated, out, address, pids, crashes: [{place, rank, step,
done}], seconds_per_step} The address `own` means a cluster of its own, whose nodes change.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from doubles.torch_engine import GENERATE

from engine.backends import deepspeed_engine, ray_cluster, ray_train
from engine.job.spec import TrainSpec
from engine.run.context import Context
from engine.run.manifests import finished
from engine.stages import train
from engine.training.metrics import load_metrics


def crash(plan: dict[str, Any], rank: int, place: str, step: int) -> None:
    """SIGKILL to this worker at the first such place from the planned step on, once per crash."""
    for planned in plan["crashes"]:
        if place == planned["place"] and rank == planned["rank"] and step >= planned["step"]:
            try:
                Path(planned["done"]).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)


def build_slowly(seconds: float, *args: Any, **kwargs: Any) -> Any:
    """DeepSpeed's engine, whose steps take time enough for a kill to find them at work."""
    engine = deepspeed_engine.build(*args, **kwargs)
    take = engine.step

    def step(*args: Any) -> tuple[float, float, float]:
        time.sleep(seconds)
        return take(*args)

    engine.step = step
    return engine


def watched(work: Callable[..., Any], plan: dict[str, Any], rank: int, *more: Any) -> Any:
    """The work on one worker, whose process can be found and killed."""
    Path(plan["pids"], str(rank)).write_text(str(os.getpid()))
    return work(
        rank,
        *more,
        on_save=partial(crash, plan, rank),
        build_engine=partial(build_slowly, plan["seconds_per_step"]),
    )


def launch(plan: dict[str, Any], work: Callable[..., Any], **placement: Any) -> Any:
    return ray_train.run_workers(partial(watched, work, plan), **placement)


def main_while_nodes_change(plan: dict[str, Any]) -> None:
    """On two nodes with one CPU each: at step 20 the second is told to go, and goes; from step 40
    on there is another one."""
    from ray.cluster_utils import Cluster

    cluster, out = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}), Path(plan["out"])
    second = cluster.add_node(num_cpus=1)
    training = threading.Thread(
        target=main, args=(plan | {"address": cluster.address},), daemon=True
    )
    training.start()
    wait_for_step(out, 20, training)
    notice = [
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
        "--deadline-remaining-seconds",
        "20",
    ]
    ray = Path(sys.executable).with_name("ray")
    subprocess.run(
        [ray, "drain-node", "--address", cluster.address, "--node-id", second.node_id, *notice],
        check=True,
    )
    time.sleep(20)
    cluster.remove_node(second, allow_graceful=False)
    wait_for_step(out, 40, training)
    cluster.add_node(num_cpus=1)
    training.join()
    cluster.shutdown()


def wait_for_step(out: Path, step: int, training: threading.Thread) -> None:
    while training.is_alive() and not any(
        line["step"] >= step for line in load_metrics(out / "metrics.jsonl")
    ):
        time.sleep(0.2)


def main(plan: dict[str, Any]) -> None:
    out = Path(plan["out"])
    out.mkdir(parents=True, exist_ok=True)
    with ray_cluster.connected(plan["address"], shared=out):
        counts = train.run(
            TrainSpec(**plan["spec"]),
            {"curate": finished(Path(plan["curated"]))},
            out,
            Context("proof", "math", 7),
            GENERATE,
            launch=partial(launch, plan),
        )
    (out / "counts.json").write_text(json.dumps(counts.info))


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text())
    (main_while_nodes_change if told["address"] == "own" else main)(told)
