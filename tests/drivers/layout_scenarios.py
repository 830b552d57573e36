"""Layouts on eight raylets of eight declared GPUs each, with the fake teacher; what was seen goes
to FOLDER/facts.json.

Its own process, because a test session holds a connection to another cluster. Run by
tests/backends/test_ray_placement.py.
"""

import json
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import ray
from conftest import statuses
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from engine import pipeline
from engine.backends import ray_data
from engine.backends.ray_placement import Placements
from engine.errors import CapacityError
from engine.job.spec import JobSpec
from engine.machines.layout import Layout
from engine.run.context import Context
from engine.stages import generate


def groups():
    """Bundles per node of every group that has all its devices."""
    found = {
        key: Counter(row["bundles_to_node_id"].values())
        for key, row in placement_group_table().items()
        if row["state"] == "CREATED"
    }
    return {key: sorted(nodes.values()) for key, nodes in found.items()}, [
        node for nodes in found.values() for node in nodes
    ]


@contextmanager
def watched(on_look=lambda nodes: None):
    """The most groups at a time, their bundles per node, and all nodes that groups were on."""
    seen, stop = {"most": 0, "bundles": [], "nodes": []}, threading.Event()

    def watch():
        while not stop.wait(0.2):
            bundles, nodes = groups()
            if len(bundles) > seen["most"]:
                seen.update(most=len(bundles), bundles=sorted(bundles.values()))
            seen["nodes"] = sorted({*seen["nodes"], *nodes})
            on_look(nodes)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def cluster_gpus():
    return [
        node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")
    ]


def left_after(seconds=10):
    """Groups that are still there when the sweeper and Ray had time to remove them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and groups()[0]:
        time.sleep(0.2)
    return len(groups()[0])


def answer(root, name, prompts, patience_s=60, latency_s=0.05, **teacher):
    """Run the generate stage with one fake teacher; rows by status."""
    path = root / f"{name}.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"What is {n}?", "reference": "1"}) + "\n" for n in range(prompts)
        )
    )
    fake = {
        "name": "t",
        "kind": "fake",
        "model": "fake",
        "fake": {"latency_s": latency_s},
        "concurrency": 2,
    }
    job = JobSpec.model_validate(
        {
            "name": name,
            "task": "math",
            "prompts": {"train": str(path), "validation_fraction": 0.0},
            "generate": {"teachers": [fake | teacher]},
            "train": {"student": "s"},
            "loadtest": {"models": []},
        }
    )
    folder = pipeline.run(job, root / "runs", until="prompts").stages["prompts"]
    out = root / name
    (out / "data").mkdir(parents=True)

    def stream(*args, **kwargs):
        return ray_data.stream(*args, **kwargs, patience_s=patience_s)

    generate.run(
        job.generate,
        {"prompts": folder},
        out,
        Context("job", "math", 0, device="gpu"),
        stream=stream,
    )
    return Counter(statuses(out).values())


def main(root):
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100_000_000},
    )
    nodes = [
        cluster.add_node(
            num_cpus=1,
            num_gpus=8,
            resources={"accelerator_type:H200": 1},
            object_store_memory=80_000_000,
        )
        for _ in range(8)
    ]
    ray.init(address=cluster.address, namespace="distill", log_to_driver=False)
    facts, started = {}, time.monotonic()

    def done(name, **values):
        facts[name] = values | {"seconds": round(time.monotonic() - started, 1)}
        sys.stderr.write(f"{name} {facts[name]}\n")

    with watched() as seen:
        rows = answer(root, "eight", 320, tensor_parallel=8, replicas=8, accelerator_type="H200")
    done("eight", rows=rows, left=left_after(), **seen)

    with watched() as seen:
        rows = answer(root, "two_nodes", 40, tensor_parallel=8, pipeline_parallel=2)
    done("two_nodes", rows=rows, left=left_after(), **seen)

    refused = {}
    for name, teacher in {
        "number": {"tensor_parallel": 8, "replicas": 9},
        "split": {"tensor_parallel": 16},
        "kind": {"tensor_parallel": 8, "accelerator_type": "H100"},
    }.items():
        begun = time.monotonic()
        try:
            answer(root, f"too_big_{name}", 8, **teacher)
        except CapacityError as error:
            refused[name] = [str(error), time.monotonic() - begun]
    done("too_big", **refused)

    @ray.remote
    class Replica:
        def pid(self):
            return 0

    with Placements(Layout(devices=8, tensor_parallel=8)) as places:
        stays, leaves = (Replica.options(**places.remote_args()).remote() for _ in range(2))
        ray.get([stays.pid.remote(), leaves.pid.remote()])
        before = len(groups()[0])
        time.sleep(3)  # a sweep sees both at work
        ray.kill(leaves)
        deadline = time.monotonic() + 20
        while len(groups()[0]) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        after = len(groups()[0])
    done("leaver", before=before, after=after, left=left_after())

    for node in nodes[3:]:
        cluster.remove_node(node)

    def leave_when(at_work):
        """Remove a node with a replica, some seconds after so many nodes had one."""
        since = []

        def look(hosts):
            since.extend([time.monotonic()] * (len(hosts) == at_work and not since))
            if since and time.monotonic() - since[0] > 8 and "left" not in since:
                since.append("left")
                cluster.remove_node(next(node for node in nodes if node.node_id in hosts))

        return look

    with watched(leave_when(3)) as seen:
        rows = answer(
            root, "growth", 1200, patience_s=3, latency_s=0.1, tensor_parallel=8, replicas=[1, 12]
        )
    done("growth", rows=rows, left=left_after(), alive=len(cluster_gpus()), **seen)

    with watched(leave_when(1)) as seen:
        rows = answer(root, "moves", 300, latency_s=0.1, tensor_parallel=8)
    done("moves", rows=rows, left=left_after(), alive=len(cluster_gpus()), **seen)
    (root / "facts.json").write_text(json.dumps(facts))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
