"""Ray Data streams shards through a pool of replicas: what goes in are descriptors, what comes out
are receipts.

A replica is an actor that holds one costly thing (an engine) and works on many shards at a time, so
that the engine's batch never drains between shards. Rows never travel through Ray: a replica writes
them itself. What each replica is doing goes to a board once a second; the driver reads it for the
live view, and ends a replica that fell silent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
import ray.data
from ray.util import metrics
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.asking.shards import Figures, Receipt, Shard, sum_of
from engine.backends import ray_cluster
from engine.backends.ray_placement import PATIENCE_S, Placements
from engine.errors import EngineError, StageError, Stopped, remedy_of
from engine.machines.layout import Layout

_log = logging.getLogger(__name__)

SLOTS = 64  # shards that one replica may hold: most wait for their slowest answers and cost nothing
BEAT_S = 1.0
LEAST_SILENCE_S = 10 * BEAT_S  # a shorter one would be a late beat of a busy machine
BARREN_DEATHS = 8  # a poison prompt costs three; more without one finished row is a broken engine


class ShardWorker(Protocol):
    """What runs inside a replica: answers shards, and says how far it is."""

    async def __call__(self, shard: Shard) -> Receipt: ...
    def figures(self) -> Figures: ...


@dataclass
class _Life:
    """One process of a replica: an actor that dies is restarted, and begins another one."""

    pid: int
    node: str
    heard: float  # time.monotonic of the board
    figures: Figures | None = None  # what it last said; None before its first shard
    is_built: bool = False
    is_last: bool = True  # of its actor, and not ended by us
    silent_s: float = 0.0  # when it was read

    def is_lost(self, silent_s: float, start_s: float) -> bool:
        """Whether it said nothing for longer than it may. One that waits for its first shard has
        nothing to say."""
        waits = self.is_built and self.figures is None
        longest_s = silent_s if self.is_built else start_s
        return self.is_last and not waits and self.silent_s > longest_s


class _Board:
    """What every replica last said of itself, by actor (its name, where it has one) and process."""

    def __init__(self) -> None:
        self._lives: dict[str, dict[int, _Life]] = {}

    def begin(self, actor: str, pid: int, node: str) -> str | None:
        """A process of a replica starts; a text where it should rather give up."""
        earlier = self._lives.setdefault(actor, {})
        barren = 0  # deaths since the last that had finished a row
        for life in earlier.values():
            has_rows = life.figures is not None and life.figures.rows > 0
            barren = 0 if has_rows else barren + 1
        # One death is no proof where other replicas work: their engine is the same.
        if barren and not any(life.figures is not None for life in self._all()):
            return (
                "its process died while the engine started; its last lines are in the log above, or"
                " in Ray's log of that process"
            )
        if barren >= BARREN_DEATHS:
            return f"its process died {barren} times without finishing a row"
        for life in earlier.values():
            life.is_last = False
        earlier[pid] = _Life(pid, node, heard=time.monotonic())
        return None

    def _all(self) -> Iterator[_Life]:
        for lives in self._lives.values():
            yield from lives.values()

    def built(self, actor: str, pid: int) -> None:
        """A replica waits for its first shard; it says nothing before."""
        self._lives[actor][pid].is_built = True

    def started(self) -> list[str]:
        """Actors that were built at least once: Ray Data gives shards to no other."""
        found = []
        for actor, lives in self._lives.items():
            if any(life.is_built for life in lives.values()):
                found.append(actor)
        return found

    def tell(self, actor: str, pid: int, figures: Figures) -> None:
        life = self._lives[actor][pid]
        life.figures = figures
        life.heard = time.monotonic()

    def read(self) -> list[_Life]:
        """Every life of every replica, with the seconds since it was heard."""
        now = time.monotonic()
        return [replace(life, silent_s=now - life.heard) for life in self._all()]

    def bury(self, pid: int) -> None:
        for life in self._all():
            if life.pid == pid:
                life.is_last = False


class _Replica:
    def __init__(
        self,
        build: Callable[[], ShardWorker],
        board: Any,
        tags: dict[str, str],
    ) -> None:
        context = ray.get_runtime_context()
        self._board = board
        self._me = (context.get_actor_name() or context.get_actor_id(), os.getpid())
        self._tags = tags
        if problem := ray.get(board.begin.remote(*self._me, context.get_node_id())):
            raise StageError(problem)
        self._work = build()
        board.built.remote(*self._me)
        self._beat: asyncio.Task[None] | None = None

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, list[Any]]]:
        self._beat = self._beat or asyncio.ensure_future(self._tell())
        for shard in map(pickle.loads, batch["shard"]):
            try:
                outcome: Any = await self._work(shard)
            except EngineError as error:
                outcome = error
            except Exception as error:  # noqa: BLE001 - raised again in the driver; what Ray itself raises is a lost replica
                outcome = StageError(f"{type(error).__name__}: {error}{remedy_of(error)}")
            yield {"shard": [shard.id], "outcome": [pickle.dumps(outcome)]}

    async def _tell(self) -> None:
        shown = _Metrics(self._tags)
        while True:
            figures = self._work.figures()
            await self._board.tell.remote(*self._me, figures)
            shown.show(figures)
            await asyncio.sleep(BEAT_S)


class _Metrics:
    """A replica's figures as Prometheus metrics of Ray: counters of what only grows, gauges of the
    rest."""

    GAUGES = ("open", "concurrency", "pause_s", "batches")

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags
        self._gauges: dict[str, metrics.Gauge] = {}
        self._counters: dict[str, metrics.Counter] = {}
        self._last: dict[str, float] = {}

    def show(self, figures: Figures) -> None:
        named = figures.by_name()
        for name, value in named.items():
            if name in self.GAUGES:
                self._gauge(name).set(value, tags=self._tags)
            else:
                self._raise_counter(name, value - self._last.get(name, 0))
        self._last = named

    def _gauge(self, name: str) -> metrics.Gauge:
        if name not in self._gauges:
            self._gauges[name] = metrics.Gauge(**self._description(name))
        return self._gauges[name]

    def _raise_counter(self, name: str, grown: float) -> None:
        if name not in self._counters:
            self._counters[name] = metrics.Counter(**self._description(name))
        if grown > 0:
            self._counters[name].inc(grown, tags=self._tags)

    def _description(self, name: str) -> dict[str, Any]:
        return {
            "name": f"distill_{name}",
            "description": f"distill-engine: {name}",
            "tag_keys": tuple(self._tags),
        }


def stream(
    shards: Sequence[Shard],
    build: Callable[[], ShardWorker],
    *,
    what: str,
    layout: Layout,
    tags: Mapping[str, str],
    silent_s: float,
    start_s: float,
    on_figures: Callable[[Figures], None],
    patience_s: float = PATIENCE_S,
) -> Generator[Receipt]:
    """Yield the receipt of each shard as it finishes; `build` makes the worker inside each replica.

    Replicas are placed by `layout`; one that dies, or says nothing for `silent_s` (at least
    LEAST_SILENCE_S, however short a request's deadline), is replaced, and its unfinished shards run
    again; one that is not built after `start_s` is ended. One whose node
    left, with no free devices elsewhere for `patience_s`, is given up, and its shards go to the
    others at the end. `on_figures` hears once a second the sums of what the replicas say. Without
    shards it only asks whether the layout fits. CapacityError if the fewest replicas do not fit;
    StageError with the replica's last words if it cannot be built.
    """
    ray_cluster.require(what, layout)
    if not shards:  # then that was the question
        return
    left = {shard.id: shard for shard in shards}
    # Where the driver is: the board may not leave with a replica's node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0)(_Board).options(scheduling_strategy=here).remote()
    replica = (build, board, dict(tags))
    with _watched(board, max(silent_s, LEAST_SILENCE_S), start_s, on_figures):
        while left:
            before = len(left)
            for name, receipt in _pass(list(left.values()), replica, what, layout, patience_s):
                del left[name]
                yield receipt
            # The shards of replicas that left for good go around again, with one replica if there
            # is no room for more.
            if len(left) == before:
                raise StageError(
                    f"{what} lost all its replicas and finished none of {before} shards; run the"
                    " same command again"
                )
            layout = replace(layout, replicas=(1, layout.replicas[1]))
            if left:
                ray_cluster.require(what, layout)


def _pass(
    shards: list[Shard],
    replica: tuple[Any, ...],
    what: str,
    layout: Layout,
    patience_s: float,
) -> Iterator[tuple[str, Receipt]]:
    """Every shard once, without those of replicas that left for good."""
    stopped: Stopped | None = None
    _, board, _ = replica

    def started() -> list[str]:
        return ray.get(board.started.remote(), timeout=30)

    try:
        with (
            Placements(layout, started, patience_s=patience_s) as places,
            warnings.catch_warnings(),
        ):
            # Ray 2.60 deprecates free remote arguments, but has no named one for calls at a time
            # per async actor yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            for row in _outcomes(shards, replica, layout, places).iter_rows():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, Stopped):
                    stopped = outcome  # the other replicas still commit what they had open
                elif isinstance(outcome, EngineError):
                    raise type(outcome)(f"{what}: {outcome}")
                else:
                    yield row["shard"], outcome
            if stopped:
                raise Stopped(f"{what}: {stopped}")
    except EngineError:
        raise
    except Exception as error:
        raise _as_ours(error, what) from error


def _outcomes(
    shards: list[Shard], replica: tuple[Any, ...], layout: Layout, places: Placements
) -> ray.data.Dataset:
    """Ray Data's plan of a pass: one row per shard, with what came of it pickled."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_errored_blocks = -1  # our own errors come as outcomes
    # The board knows who fell silent; answers of a vendor's batch may take a day.
    context.execution_no_progress_timeout_s = -1
    # one of them asks for an actor's arguments, and so for a group, from time to time
    context.issue_detectors_config.detectors = []
    # One block per shard in, one small block out: nothing is split, merged or retried as a larger
    # unit.
    rows = ray.data.from_items(
        [{"shard": pickle.dumps(shard)} for shard in shards], override_num_blocks=len(shards)
    )
    fewest, most = (min(count, len(shards)) for count in layout.replicas)
    # The first replica to be ready leaves the others their share.
    slots = min(SLOTS, -(-len(shards) // most))
    # Ray adds actors where shards wait for those that are there.
    queue = slots if fewest == most else 2 * slots
    resources = places.resources
    return rows.map_batches(
        _Replica,
        fn_constructor_args=replica,
        batch_size=1,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(
            min_size=fewest, max_size=most, max_tasks_in_flight_per_actor=queue
        ),
        num_cpus=resources["num_cpus"],
        num_gpus=resources.get("num_gpus"),
        max_concurrency=slots,
        ray_remote_args_fn=places.remote_args,
    )


def _as_ours(error: Exception, what: str) -> EngineError:
    """What Ray raised, as an error that says why: ours where one is inside it."""
    cause = ray_cluster.root_cause(error)
    if isinstance(cause, EngineError):
        return type(cause)(f"{what}: {cause}")
    # An error of ours from an actor's start comes as the end of a printed traceback.
    _, ours, words = str(cause).rpartition("engine.errors.StageError: ")
    if ours:
        return StageError(f"{what}: {words.strip()}")
    last = "\n".join(str(cause).strip().splitlines()[-8:])
    return StageError(f"{what} failed: {type(cause).__name__}: {last}")


@contextmanager
def _watched(
    board: Any, silent_s: float, start_s: float, on_figures: Callable[[Figures], None]
) -> Generator[None]:
    """Read the board in a thread of the driver while the block runs."""
    stop = threading.Event()

    def look() -> None:
        lives: list[_Life] = ray.get(board.read.remote(), timeout=30)
        for life in lives:
            if life.is_lost(silent_s, start_s):
                _end(life)
                board.bury.remote(life.pid)
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


def _sums(lives: list[_Life]) -> Figures:
    """Sums over replicas; of a process that is gone only what it had committed counts."""
    said = []
    for life in lives:
        if life.figures is not None:
            said.append(life.figures if life.is_last else life.figures.of_the_dead())
    return sum_of(said)


def _end(life: _Life) -> None:
    _log.warning(
        "replica with pid %d said nothing for %.0f s: it is ended and replaced",
        life.pid,
        life.silent_s,
    )
    there = NodeAffinitySchedulingStrategy(life.node, soft=False)
    # Not waited for: where the node left too this never runs, and the others are watched all the
    # same.
    _kill.options(scheduling_strategy=there).remote(life.pid)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(pid: int) -> None:
    """SIGKILL, because a stopped process takes no other signal and answers no call."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
