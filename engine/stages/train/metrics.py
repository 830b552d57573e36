"""What training writes down while it runs: metrics.jsonl and TensorBoard events; and the driver's view of the former.

Lines of metrics.jsonl: {step, loss, accuracy, lr, grad_norm, tokens, seconds} after each step, {step, validation_loss} now and then.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.progress import Progress
from engine.rundir import write_atomic

POLL_SECONDS = 1.0


class Metrics:
    """Appends to metrics.jsonl and TensorBoard under `out`; what lies beyond the step of a resume is cut first."""

    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import: rank 0 alone pays it

        self._path = out / "metrics.jsonl"
        kept = [line for line in load_metrics(self._path) if line["step"] <= start]
        write_atomic(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, **values: float) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def load_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a line that a kill cut short is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@contextmanager
def follow(path: Path, progress: Progress, total: int) -> Iterator[None]:
    """While the block runs, a thread shows the last line of metrics.jsonl as progress."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            steps = [line for line in load_metrics(path) if "loss" in line]
            if steps:
                last = steps[-1]
                progress.update(done=last["step"], loss=last["loss"], **{"tok/s": last["tokens"] / last["seconds"]})

    watcher = threading.Thread(target=watch, name="train-progress", daemon=True)
    progress.update(done=0, total=total, unit="steps")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
