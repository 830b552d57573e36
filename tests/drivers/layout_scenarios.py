"""Layouts on raylets of eight declared GPUs each, with the fake teacher; what was seen goes to
FOLDER/facts.json.

    layout_scenarios.py FOLDER NODES

Its own process, because a test session holds a connection to another cluster. Run by
tests/backends/test_ray_placement.py. Nothing here goes by the clock where it can go by what the
replicas say: they hold their first shards until the scenario lets them go on (`Held`).
"""

import functools
import json
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import ray
from conftest import statuses
from doubles.held import Held, at_work
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

GPUS = 8  # of each node
PATIENCE_S = 3.0


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


def folder_of(root, name):
    """Where the replicas of a scenario say what they do."""
    folder = root / f"{name}-says"
    folder.mkdir(exist_ok=True)
    return folder


def left_after(seconds=10):
    """Groups that are still there when the sweeper and Ray had time to remove them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and groups()[0]:
        time.sleep(0.2)
    return len(groups()[0])


def held_but_only_one_starts(build, folder):
    """The second to start says on which node it is, and starts for ever."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        node = folder / "starting"
        node.with_suffix(".new").write_text(ray.get_runtime_context().get_node_id())
        node.with_suffix(".new").rename(node)
        time.sleep(600)
    return Held(build, folder)


def answer(root, name, prompts, patience_s=60, wrapped=None, **teacher):
    """Run the generate stage with one fake teacher; rows by status. `wrapped` stands around each
    replica's worker, and gets a folder."""
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
        "fake": {"latency_s": 0.05},
        "concurrency": 2,
    }
    job = JobSpec.model_validate(
        {
            "name": name,
            "task": "math",
            "prompts": {"train": str(path), "validation_fraction": 0.0},
            "generate": {"teachers": [fake | teacher], "shard_rows": 10},
            "train": {"student": "s"},
            "loadtest": {"models": []},
        }
    )
    folder = pipeline.run(job, root / "runs", until="prompts").stages["prompts"]
    out = root / name
    (out / "data").mkdir(parents=True)

    def stream(shards, build, **options):
        if wrapped:
            build = functools.partial(wrapped, build, folder_of(root, name))
        return ray_data.stream(shards, build, **options, patience_s=patience_s)

    generate.run(
        job.generate,
        {"prompts": folder},
        out,
        Context("job", "math", 0, device="gpu"),
        stream=stream,
    )
    return Counter(statuses(out).values())


def main(root, count):
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100_000_000},
    )

    def add_node():
        return cluster.add_node(
            num_cpus=1,
            num_gpus=GPUS,
            resources={"accelerator_type:H200": 1},
            object_store_memory=80_000_000,
        )

    nodes = [add_node() for _ in range(count)]
    ray.init(address=cluster.address, namespace="distill", log_to_driver=False)
    facts, started = {"nodes": count}, time.monotonic()

    def done(name, **values):
        facts[name] = values | {"seconds": round(time.monotonic() - started, 1)}
        sys.stderr.write(f"{name} {facts[name]}\n")

    def node_of(hosts):
        return next(node for node in nodes if node.node_id in hosts)

    with watched() as seen:
        rows = answer(
            root, "each", 40 * count, tensor_parallel=8, replicas=count, accelerator_type="H200"
        )
    done("each", rows=rows, left=left_after(), **seen)

    with watched() as seen:
        rows = answer(root, "two_nodes", 40, tensor_parallel=8, pipeline_parallel=2)
    done("two_nodes", rows=rows, left=left_after(), **seen)

    refused = {}
    for name, teacher in {
        "number": {"tensor_parallel": 8, "replicas": count + 1},
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

    with Placements(Layout(devices=8, tensor_parallel=8), list) as places:
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

    def leave_when_at_work(name, replicas):
        """Remove a node with a replica as soon as so many replicas are at work; then they go on."""
        says = folder_of(root, name)

        def look(hosts):
            if not (says / "go").exists() and at_work(says) >= replicas:
                cluster.remove_node(node_of(hosts))
                (says / "go").touch()

        return look

    with watched(leave_when_at_work("growth", 3)) as seen:
        rows = answer(
            root,
            "growth",
            300,
            patience_s=PATIENCE_S,
            wrapped=Held,
            tensor_parallel=8,
            replicas=[1, 12],
        )
    done("growth", rows=rows, left=left_after(), alive=len(cluster_gpus()), **seen)

    def leave_while_it_starts(name):
        """Remove the node of the replica that starts; the other goes on when that one has been
        homeless for longer than anybody's patience."""
        says, homeless = folder_of(root, name), []

        def look(hosts):
            if (says / "starting").exists() and not (says / "removed").exists():
                cluster.remove_node(node_of([(says / "starting").read_text()]))
                (says / "removed").touch()
            states = {row["state"] for row in placement_group_table().values()}
            homeless.extend([time.monotonic()] * ("RESCHEDULING" in states))
            if homeless and time.monotonic() - homeless[0] > PATIENCE_S + 3:  # three sweeps more
                (says / "go").touch()

        return look

    with watched(leave_while_it_starts("starting")) as seen:
        rows = answer(
            root,
            "starting",
            40,
            patience_s=PATIENCE_S,
            wrapped=held_but_only_one_starts,
            tensor_parallel=8,
            replicas=2,
        )
    done("starting", rows=rows, left=left_after(), alive=len(cluster_gpus()), **seen)

    nodes.append(add_node())
    with watched(leave_when_at_work("moves", 1)) as seen:
        rows = answer(root, "moves", 40, wrapped=Held, tensor_parallel=8)
    done("moves", rows=rows, left=left_after(), alive=len(cluster_gpus()), **seen)
    (root / "facts.json").write_text(json.dumps(facts))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
