"""What training writes down while it runs: metrics.jsonl and the trackers; and the driver's view of
the former.

Lines of metrics.jsonl: after each step {step, loss, accuracy, lr, grad_norm, tokens, seconds,
tokens_per_second, memory_gib, mfu, blocks}, where tokens are targets, mfu is there on known GPUs
only, and blocks are the numbers of the blocks that the step took (so the file is also the log of
what was seen); {step, validation_loss} now and then.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.run.progress import Progress
from engine.store.files import write_atomic
from engine.training.trackers import TRACKERS

POLL_SECONDS = 1.0
SHOWN = {
    "loss": "loss",
    "validation_loss": "validation loss",
    "accuracy": "accuracy",
    "grad_norm": "grad norm",
    "tokens_per_second": "tok/s",
}


class Metrics:
    """Appends to metrics.jsonl and the trackers; what lies beyond the step of a resume is cut from
    the file first."""

    def __init__(self, out: Path, start: int, trackers: Sequence[str] = ()) -> None:
        self._path = out / "metrics.jsonl"
        kept = [line for line in load_metrics(self._path) if line["step"] <= start]
        write_atomic(self._path, "".join(map(_as_line, kept)))
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._trackers = [TRACKERS[name](out, start) for name in trackers]

    def write(self, step: int, **values: Any) -> None:
        """One line; the trackers get its single numbers."""
        self._file.write(_as_line({"step": step, **values}))
        numbers = {name: value for name, value in values.items() if not isinstance(value, list)}
        for tracker in self._trackers:
            tracker.write(step, numbers)

    def close(self) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _as_line(figures: Mapping[str, Any]) -> str:
    return json.dumps(figures) + "\n"


def load_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a line that a kill cut short is left out."""
    return Tail(path).lines()


class Tail:
    """A growing file of JSON lines, read once each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0  # what was read so far, in bytes
        self._file = 0  # its number on the disk, which a new file in its place does not have

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines since the last call; all of them where a resume has put a new file in its
        place."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if number != self._file:
                self._at = 0
                self._file = number
            file.seek(self._at)
            whole, end, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(end)
        return [json.loads(line) for line in whole.splitlines()]


def curve_summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the manifest says of a finished run's lines."""
    steps = [line for line in lines if "loss" in line]
    validations = [line["validation_loss"] for line in lines if "validation_loss" in line]
    tokens = sum(line["tokens"] for line in steps)
    seconds = sum(line["seconds"] for line in steps)
    figures = {
        "steps": len(steps),
        "tokens": tokens,
        "tokens_per_second": None,
        "final_loss": steps[-1]["loss"],
        "validation_loss": None,
    }
    if seconds:
        figures["tokens_per_second"] = tokens / seconds
    if validations:
        figures["validation_loss"] = validations[-1]
    return figures


@contextmanager
def follow(path: Path, progress: Progress, total: int) -> Generator[None]:
    """While the block runs, a thread shows the newest figures of metrics.jsonl as progress."""
    stop = threading.Event()

    def watch() -> None:
        tail = Tail(path)
        while not stop.wait(POLL_SECONDS):
            newest: dict[str, Any] = {}
            for line in tail.lines():
                newest |= line
            figures = {name: newest[key] for key, name in SHOWN.items() if key in newest}
            if newest:
                progress.update(done=newest["step"], **figures)

    watcher = threading.Thread(target=watch, name="train-progress", daemon=True)
    progress.update(done=0, total=total, unit="steps")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
