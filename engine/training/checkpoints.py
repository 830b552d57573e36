"""Checkpoints that any layout can read: fp32 weights and AdamW moments by parameter name, complete
or ignored.

    checkpoints/step-000200/
        share-<attempt>-00000-of-00002.safetensors   what one rank wrote: "<part>/<parameter>"
        complete.json                                written last: the facts, and files with sizes

A thread per rank writes while training goes on. It makes no collective call: rank 0's waits until
the files of all ranks are there. Shares carry the number of their attempt, so those that a dead
attempt left behind are never taken for one of this.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import StageError
from engine.store.files import write_atomic

_log = logging.getLogger(__name__)
MARKER = "complete.json"
# Other ranks write as much as rank 0 does, but their disks and networks may be slower.
SHARES_TIMEOUT_S = 1800.0
_POLL_S = 0.02
Tensors = Mapping[str, Tensor]  # by "<part>/<parameter>"


@dataclass(frozen=True)
class Validations:
    """What early stopping and `export: best` know after some steps; it lies in each checkpoint's
    marker, so a resume knows it too."""

    least: float | None = None  # of all validation losses
    since_least: int = 0  # validations after that one
    best_step: int | None = None  # the checkpoint with the least validation loss
    best_loss: float | None = None

    def seen(self, loss: float) -> Validations:
        """After one more validation."""
        if self.least is None or loss < self.least:
            return replace(self, least=loss, since_least=0)
        return replace(self, since_least=self.since_least + 1)

    def saved(self, step: int, loss: float | None) -> Validations:
        """After a checkpoint, whose weights have this validation loss; None: they were not
        validated."""
        if loss is None:
            return self
        if self.best_loss is not None and loss >= self.best_loss:
            return self
        return replace(self, best_step=step, best_loss=loss)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: steps done, where it lies, and the facts in its marker."""

    step: int
    folder: Path
    facts: Mapping[str, Any]

    @property
    def validations(self) -> Validations:
        """As they stood when it was saved."""
        return Validations(**self.facts["validations"])

    def load(self) -> dict[str, Tensor]:
        """Its tensors by "<part>/<parameter>": views of mapped files, so only what is read takes
        memory."""
        tensors = {}
        for name in self.facts["files"]:
            tensors |= load_file(self.folder / name)
        return tensors


def newest(root: Path) -> Checkpoint | None:
    """The newest complete checkpoint under `root`, if any."""
    return next(reversed(complete(root)), None)


def at_step(root: Path, step: int) -> Checkpoint:
    """The complete checkpoint of one step. StageError if it is not there."""
    for checkpoint in complete(root):
        if checkpoint.step == step:
            return checkpoint
    raise StageError(
        f"train: the checkpoint of step {step} is not under {root}, or not whole; do all nodes"
        " share this folder, and has nothing but this job changed it?"
    )


def complete(root: Path) -> list[Checkpoint]:
    """Those whose marked files are all there in their sizes, oldest first."""
    checkpoints = []
    for marker in root.glob(f"step-*/{MARKER}"):
        facts = json.loads(marker.read_text())
        if _are_there(marker.parent, facts["files"]):
            checkpoints.append(Checkpoint(facts["step"], marker.parent, facts))
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def _are_there(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Files of these names and sizes."""
    for name, size in sizes.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            return False
    return True


def clear_incomplete(root: Path) -> None:
    """Remove what saves that never ended have left; only before the ranks of a new attempt start to
    save."""
    whole = {checkpoint.folder for checkpoint in complete(root)}
    for folder in root.glob("step-*"):
        if folder not in whole:
            _log.info("removing the incomplete checkpoint %s", folder)
            shutil.rmtree(folder)


def check_fits(
    checkpoint: Checkpoint, facts: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The checkpoint's tensors. StageError unless it has these facts and exactly the parameters of
    these shapes."""
    remedy = (
        f"move {checkpoint.folder.parent} away to train from the start, or go on with the job and"
        " the student that it was made by"
    )
    for name, value in facts.items():
        saved = checkpoint.facts.get(name)
        if saved != value:
            raise StageError(
                f"train: {checkpoint.folder} is a checkpoint of another job: its {name} is {saved},"
                f" here it is {value}; {remedy}"
            )
    tensors = checkpoint.load()
    held = {}
    for name, tensor in tensors.items():
        if name.startswith("weight/"):
            held[name.removeprefix("weight/")] = tuple(tensor.shape)
    names = held.keys() | shapes.keys()
    differing = sorted(name for name in names if held.get(name) != shapes.get(name))
    if differing:
        first = differing[0]
        raise StageError(
            f"train: {checkpoint.folder} is a checkpoint of another model: {len(differing)}"
            f" parameters differ, the first is {first}:"
            f" {held.get(first, 'not there')} in the checkpoint, {shapes.get(first, 'not there')}"
            f" in the student; {remedy}"
        )
    return tensors


class Writer:
    """One rank's saves, one at a time in a thread of its own.

    `attempt` is a number that all ranks of this attempt share and no other attempt has.
    `on_step(place, step)` is told where in a save the thread is: before_share, mid_share,
    before_marker or after_marker.
    """

    def __init__(
        self,
        root: Path,
        attempt: int,
        facts: Mapping[str, Any],
        *,
        rank: int,
        workers: int,
        keep: int,
        on_step: Callable[[str, int], None] = lambda place, step: None,
        timeout_s: float = SHARES_TIMEOUT_S,
    ) -> None:
        self._root = root
        self._facts = facts
        self._keep = keep
        self._on_step = on_step
        self._timeout_s = timeout_s
        self._rank = rank
        self._names: list[str] = []
        for number in range(workers):
            self._names.append(f"share-{attempt:x}-{number:05d}-of-{workers:05d}.safetensors")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def save(self, step: int, share: Tensors, validations: Validations) -> None:
        """Start to write this rank's share; waits for the save before it. The tensors must be
        nobody else's to change.

        Rank 0 then completes the checkpoint, and removes all but the newest `keep` and the best one
        that each of those knows.
        """
        self.wait()
        self._last = self._thread.submit(self._write, step, share, validations)

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything has."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Until this rank's part of the last save is on the disk; on rank 0 that is the whole
        checkpoint."""
        last = self._last
        self._last = None  # so that an error of its thread is raised once only
        if last is not None:
            last.result()

    def _write(self, step: int, share: Tensors, validations: Validations) -> None:
        folder = self._root / f"step-{step:06d}"
        try:
            self._write_share(folder, step, share)
            if self._rank == 0:
                self._complete(folder, step, validations)
        except (OSError, SafetensorError) as error:
            raise StageError(
                f"train: the checkpoint of step {step} could not be written to {folder}: {error}; a"
                " checkpoint takes 12 bytes per trained"
                f" parameter, and {self._keep + 2} of them may exist at a time: make room, and the"
                " same command resumes"
            ) from error

    def _write_share(self, folder: Path, step: int, share: Tensors) -> None:
        self._on_step("before_share", step)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self._names[self._rank]
        partial = path.with_suffix(".partial")
        laid_out = {name: tensor.contiguous() for name, tensor in share.items()}
        save_file(laid_out, partial)
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        self._on_step("mid_share", step)
        os.replace(partial, path)

    def _complete(self, folder: Path, step: int, validations: Validations) -> None:
        self._wait_for_shares(folder)
        self._on_step("before_marker", step)
        files = {name: (folder / name).stat().st_size for name in self._names}
        facts = {
            "step": step,
            **self._facts,
            "validations": asdict(validations),
            "files": files,
        }
        write_atomic(folder / MARKER, json.dumps(facts, indent=1))
        self._on_step("after_marker", step)
        self._prune()

    def _wait_for_shares(self, folder: Path) -> None:
        # By looking, for a thread makes no collective call: it would meet one of the training.
        deadline = time.monotonic() + self._timeout_s
        while missing := [name for name in self._names if not (folder / name).exists()]:
            if time.monotonic() > deadline:
                raise StageError(
                    f"train: after {self._timeout_s:.0f} s {folder} still lacks"
                    f" {', '.join(missing)}, which other workers write; do all nodes share this"
                    " folder, and does the disk keep up?"
                )
            time.sleep(_POLL_S)

    def _prune(self) -> None:
        checkpoints = complete(self._root)
        kept = checkpoints[-self._keep :]
        # `export: best` loads the best one at the end, however old it is by then.
        best = {checkpoint.validations.best_step for checkpoint in kept}
        for old in checkpoints[: -self._keep]:
            if old.step not in best:
                shutil.rmtree(old.folder)
