"""Ray Train's launcher without Ray: the ranks are forked processes with a gloo group, and a death
starts all of them again."""

from __future__ import annotations

import multiprocessing.connection
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed

from engine.errors import EngineError, StageError

TIMEOUT_S = 300


def run_forked(
    work: Callable[..., Any], *, workers: tuple[int, int], max_failures: int, **placement: object
) -> Any:
    """As ray_train.run_workers: rank 0's return value; an EngineError of a rank is raised, other
    deaths are tried again."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401  once here, not in every process

    for _ in range(max_failures + 1):
        with tempfile.TemporaryDirectory() as folder:
            said = _attempt(work, workers[1], Path(folder))
        for end in said:
            if isinstance(end, EngineError):
                raise end
        if all(end is not None for end in said):
            return said[0]["returned"]
    raise StageError(f"workers died {max_failures + 1} times")


def _attempt(work: Callable[..., Any], workers: int, folder: Path) -> list[Any]:
    """Per rank: {"returned": value}, its EngineError, or None for a death."""
    ranks = [
        multiprocessing.get_context("fork").Process(
            target=_rank, args=(work, rank, workers, folder)
        )
        for rank in range(workers)
    ]
    for rank in ranks:
        rank.start()
    waiting = {rank.sentinel: rank for rank in ranks}
    while waiting:
        ended = multiprocessing.connection.wait(list(waiting), TIMEOUT_S)
        for sentinel in ended:
            rank = waiting.pop(sentinel)
            rank.join()
        if not ended or any(
            not (folder / str(at)).exists()
            for at, rank in enumerate(ranks)
            if rank.exitcode is not None
        ):
            for rank in waiting.values():
                rank.kill()
    files = [folder / str(rank) for rank in range(workers)]
    return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]


def _rank(work: Callable[..., Any], rank: int, workers: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers
    )
    end: Any = None
    try:
        end = {"returned": work(rank, workers, lambda: False)}
    except EngineError as error:
        end = error
    finally:
        if end is None:
            traceback.print_exc()
        else:
            (folder / str(rank)).write_bytes(pickle.dumps(end))
        os._exit(0)  # what the parent opened is its own to close
