"""Ray Data streams shards through a pool of replicas: what goes in are descriptors, what comes out
are receipts.

A replica is an actor that holds one costly thing (an engine) and works on many shards at a time, so
that the engine's batch never drains between shards. Rows never travel through Ray: a replica writes
them itself. What each replica is doing goes to a board once a second; the driver reads it for the
live view, and ends a replica that fell silent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import ray
import ray.data
from ray.util import metrics
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.backends import ray_cluster
from engine.backends.ray_placement import PATIENCE_S, Placements
from engine.errors import EngineError, StageError, Stopped, remedy_of
from engine.machines.layout import Layout

_log = logging.getLogger(__name__)

Receipt = dict[str, Any]
Figures = dict[str, float]

SLOTS = 64  # shards that one replica may hold: most wait for their slowest answers and cost nothing
BEAT_S = 1.0
BARREN_DEATHS = 8  # a poison prompt costs three; more without one finished row is a broken engine


class ShardWorker(Protocol):
    """What runs inside a replica: answers shards, and says how far it is."""

    async def __call__(self, shard: dict[str, Any]) -> Receipt: ...
    def figures(self) -> Figures: ...


class _Board:
    """What every replica last said of itself, by actor and process."""

    def __init__(self) -> None:
        self._said: dict[str, dict[int, dict[str, Any]]] = {}

    def begin(self, actor: str, pid: int, node: str) -> str | None:
        """A process of a replica starts; a text where it should rather give up."""
        lives = self._said.setdefault(actor, {})
        ready = any(
            life["figures"] is not None for said in self._said.values() for life in said.values()
        )
        barren = 0
        for life in lives.values():
            barren = 0 if (life["figures"] or {}).get("rows") else barren + 1
        if barren and not ready:
            return (
                "its process died while the engine started; its last lines are in the log above, or"
                " in Ray's log of that process"
            )
        if barren >= BARREN_DEATHS:
            return f"its process died {barren} times without finishing a row"
        lives[pid] = {
            "node": node,
            "figures": None,
            "built": False,
            "heard": time.monotonic(),
            "alive": True,
        }
        for other, life in lives.items():
            life["alive"] = other == pid
        return None

    def built(self, actor: str, pid: int) -> None:
        """A replica waits for its first shard; it says nothing before."""
        self._said[actor][pid]["built"] = True

    def tell(self, actor: str, pid: int, figures: Figures) -> None:
        self._said[actor][pid] |= {"figures": figures, "heard": time.monotonic()}

    def read(self) -> list[dict[str, Any]]:
        """Every life of every replica: pid, node, figures, built, seconds since it was heard, and
        whether it is its actor's last."""
        now = time.monotonic()
        return [
            {"pid": pid, **life, "silent_s": now - life["heard"]}
            for lives in self._said.values()
            for pid, life in lives.items()
        ]

    def bury(self, pid: int) -> None:
        for lives in self._said.values():
            if pid in lives:
                lives[pid]["alive"] = False


class _Replica:
    def __init__(self, build: Callable[[], ShardWorker], board: Any, tags: dict[str, str]) -> None:
        context = ray.get_runtime_context()
        self._board, self._me, self._tags = board, (context.get_actor_id(), os.getpid()), tags
        if problem := ray.get(board.begin.remote(*self._me, context.get_node_id())):
            raise StageError(problem)
        self._work = build()
        board.built.remote(*self._me)
        self._beat: asyncio.Task[None] | None = None

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, list[Any]]]:
        self._beat = self._beat or asyncio.ensure_future(self._tell())
        for shard in map(json.loads, batch["shard"]):
            try:
                outcome: Any = await self._work(shard)
            except Exception as error:  # noqa: BLE001 - raised again in the driver; what Ray itself raises is a lost replica
                outcome = (
                    error
                    if isinstance(error, EngineError)
                    else StageError(f"{type(error).__name__}: {error}{remedy_of(error)}")
                )
            yield {"shard": [shard["id"]], "outcome": [pickle.dumps(outcome)]}

    async def _tell(self) -> None:
        gauges, last = _Metrics(self._tags), Counter[str]()
        while True:
            figures = self._work.figures()
            await self._board.tell.remote(*self._me, figures)
            gauges.show(figures, last)
            last = Counter(figures)
            await asyncio.sleep(BEAT_S)


class _Metrics:
    """A replica's figures as Prometheus metrics of Ray: counters of what only grows, gauges of the
    rest."""

    GAUGES = ("open", "concurrency", "pause_s")

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags, self._known = tags, {}

    def show(self, figures: Figures, last: Figures) -> None:
        for name, value in figures.items():
            kind = metrics.Gauge if name in self.GAUGES else metrics.Counter
            metric = self._known.get(name) or kind(
                f"distill_{name}", description=f"distill-engine: {name}", tag_keys=tuple(self._tags)
            )
            self._known[name] = metric
            if name in self.GAUGES:
                metric.set(value, tags=self._tags)
            elif value > last.get(name, 0):
                metric.inc(value - last.get(name, 0), tags=self._tags)


def stream(
    shards: Sequence[dict[str, Any]],
    build: Callable[[], ShardWorker],
    *,
    what: str,
    layout: Layout,
    tags: Mapping[str, str],
    silent_s: float,
    start_s: float,
    on_figures: Callable[[Figures], None],
    patience_s: float = PATIENCE_S,
) -> Iterator[Receipt]:
    """Yield the receipt of each shard as it finishes; `build` makes the worker inside each replica.

    Replicas are placed by `layout`; one that dies, or says nothing for `silent_s`, is replaced, and
    its unfinished shards run again; one that is not built after `start_s` is ended. One whose node
    left, with no free devices elsewhere for `patience_s`, is given up, and its shards go to the
    others at the end. `on_figures` hears once a second the sums of what the replicas say. Without
    shards it only asks whether the layout fits. CapacityError if the fewest replicas do not fit;
    StageError with the replica's last words if it cannot be built.
    """
    ray_cluster.require(what, layout)
    if not shards:  # then that was the question
        return
    left = {shard["id"]: shard for shard in shards}
    # Where the driver is: the board may not leave with a replica's node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
    with _watched(board, silent_s, start_s, on_figures):
        while left:
            before = len(left)
            for name, receipt in _pass(
                list(left.values()), (build, board, dict(tags)), what, layout, patience_s
            ):
                del left[name]
                yield receipt
            if len(left) == before:
                raise StageError(
                    f"{what} lost all its replicas and finished none of {before} shards; run the"
                    " same command again"
                )
            layout = replace(layout, replicas=(1, layout.replicas[1]))
            if left:
                ray_cluster.require(what, layout)


def _pass(
    shards: list[dict[str, Any]],
    replica: tuple[Any, ...],
    what: str,
    layout: Layout,
    patience_s: float,
) -> Iterator[tuple[str, Receipt]]:
    """Every shard once, without those of replicas that left for good."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_errored_blocks = -1  # our own errors come as outcomes
    # one of them asks for an actor's arguments, and so for a group, from time to time
    context.issue_detectors_config.detectors = []
    # One block per shard in, one small block out: nothing is split, merged or retried as a larger
    # unit.
    rows = ray.data.from_items(
        [{"shard": json.dumps(shard)} for shard in shards], override_num_blocks=len(shards)
    )
    fewest, most = (min(count, len(shards)) for count in layout.replicas)
    slots = min(
        SLOTS, -(-len(shards) // most)
    )  # the first replica to be ready leaves the others their share
    queue = (
        slots if fewest == most else 2 * slots
    )  # Ray adds actors where shards wait for those that are there
    try:
        with Placements(layout, patience_s=patience_s) as places, warnings.catch_warnings():
            # Ray 2.60 deprecates free remote arguments, but has no named one for calls at a time
            # per async actor yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            outcomes = rows.map_batches(
                _Replica,
                fn_constructor_args=replica,
                batch_size=1,
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(
                    min_size=fewest, max_size=most, max_tasks_in_flight_per_actor=queue
                ),
                max_concurrency=slots,
                ray_remote_args_fn=places.remote_args,
                **places.resources,
            )
            stopped: Stopped | None = None
            for row in outcomes.iter_rows():
                outcome = pickle.loads(row["outcome"])
                if isinstance(
                    outcome, Stopped
                ):  # the other replicas still commit what they had open
                    stopped = outcome
                elif isinstance(outcome, EngineError):
                    raise type(outcome)(f"{what}: {outcome}")
                else:
                    yield row["shard"], outcome
            if stopped:
                raise Stopped(f"{what}: {stopped}")
    except EngineError:
        raise
    except Exception as error:
        cause = ray_cluster.root_cause(error)
        if isinstance(cause, EngineError):
            raise type(cause)(f"{what}: {cause}") from error
        # An error of ours from an actor's start comes as the end of a printed traceback.
        _, ours, words = str(cause).rpartition("engine.errors.StageError: ")
        if ours:
            raise StageError(f"{what}: {words.strip()}") from error
        last = "\n".join(str(cause).strip().splitlines()[-8:])
        raise StageError(f"{what} failed: {type(cause).__name__}: {last}") from error


@contextmanager
def _watched(
    board: Any, silent_s: float, start_s: float, on_figures: Callable[[Figures], None]
) -> Iterator[None]:
    """Read the board in a thread of the driver while the block runs."""
    stop = threading.Event()

    def look() -> None:
        lives = ray.get(board.read.remote(), timeout=30)
        for life in lives:
            waits = life["built"] and life["figures"] is None
            if (
                life["alive"]
                and not waits
                and life["silent_s"] > (silent_s if life["built"] else start_s)
            ):
                _log.warning(
                    "replica with pid %d said nothing for %.0f s: it is ended and replaced",
                    life["pid"],
                    life["silent_s"],
                )
                there = NodeAffinitySchedulingStrategy(life["node"], soft=False)
                # Not waited for: where the node left too this never runs, and the others are
                # watched all the same.
                _kill.options(scheduling_strategy=there).remote(life["pid"])
                board.bury.remote(life["pid"])
        on_figures(_sums(lives))

    def watch() -> None:
        while not stop.wait(BEAT_S):
            try:
                look()
            except Exception as error:  # noqa: BLE001 - a watch that a full disk or a lost connection could end would guard nobody
                _log.warning("no figures: %s: %s", type(error).__name__, error)

    thread = threading.Thread(target=watch, daemon=True, name="distill-watch")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)
        ray.kill(board)


def _sums(lives: list[dict[str, Any]]) -> Figures:
    """Sums over replicas; of a process that is gone only what it had committed counts."""
    sums: Counter[str] = Counter()
    for life in lives:
        figures = life["figures"] or {}
        if not life["alive"]:
            figures = {"rows": figures.get("committed", 0)} | {
                name: rows for name, rows in figures.items() if name.startswith("rows_")
            }
        sums.update(figures)
    return dict(sums)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(pid: int) -> None:
    """SIGKILL, because a stopped process takes no other signal and answers no call."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
