"""What training writes down while it runs: metrics.jsonl and the trackers; and the driver's view of the former.

Lines of metrics.jsonl: after each step {step, loss, accuracy, lr, grad_norm, tokens, seconds, tokens_per_second, memory_gib, mfu,
blocks}, where tokens are targets, mfu is there on known GPUs only, and blocks are the numbers of the blocks that the step took (so
the file is also the log of what was seen); {step, validation_loss} now and then.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engine.errors import SpecError
from engine.job.spec import TrainSpec
from engine.run.progress import Progress
from engine.store.files import write_atomic

POLL_SECONDS = 1.0
SHOWN = {
    "loss": "loss", "validation_loss": "validation loss", "accuracy": "accuracy", "grad_norm": "grad norm", "tokens_per_second": "tok/s",
}

# Dense bf16 multiply-adds, FLOP/s, by a part of the device's name: the vendors' data sheets, without sparsity.
PEAK_FLOPS = {
    "B200": 2.25e15, "GH200": 9.894e14, "H200": 9.894e14, "H100 PCIe": 7.56e14, "H100 NVL": 8.35e14, "H100": 9.894e14,
    "A100": 3.12e14, "L40S": 3.62e14, "L4": 1.21e14, "A10G": 7.0e13,
}


class Tracker(Protocol):
    """Where figures go beside metrics.jsonl."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by name."""

    def close(self) -> None:
        """Everything is sent when this returns."""


class TensorBoard:
    """Event files in the stage's folder."""

    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._board.close()


class WandB:
    """A run of Weights & Biases with the id of the stage's folder, which a resume goes on with; repeated steps keep their first figures."""

    def __init__(self, out: Path, start: int) -> None:
        import wandb

        self._run = wandb.init(project="distill", group=out.parent.name, name=out.name, id=out.name, dir=str(out), resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow in the experiment of the job's name; a resume goes on with the run whose id lies in the stage's folder."""

    def __init__(self, out: Path, start: int) -> None:
        import mlflow

        self._mlflow, known = mlflow, out / "mlflow-run.txt"
        mlflow.set_experiment(out.parent.name)
        run = mlflow.start_run(run_id=known.read_text() if known.exists() else None, run_name=out.name)
        write_atomic(known, run.info.run_id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def require_trackers(names: Sequence[str]) -> None:
    """SpecError if the package of a tracker is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SpecError(f"train.trackers asks for {name}, which is not installed: pip install {name}, or leave it out")


class Metrics:
    """Appends to metrics.jsonl and the trackers; what lies beyond the step of a resume is cut from the file first."""

    def __init__(self, out: Path, start: int, trackers: Sequence[str] = ()) -> None:
        self._path = out / "metrics.jsonl"
        kept = [line for line in load_metrics(self._path) if line["step"] <= start]
        write_atomic(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._trackers = [TRACKERS[name](out, start) for name in trackers]

    def write(self, step: int, **values: Any) -> None:
        """One line; the trackers get its single numbers."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        numbers = {name: value for name, value in values.items() if not isinstance(value, list)}
        for tracker in self._trackers:
            tracker.write(step, numbers)

    def close(self) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def load_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a line that a kill cut short is left out."""
    return Tail(path).lines()


class Tail:
    """A growing file of JSON lines, read once each."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._file = path, 0, 0

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines since the last call; all of them where a resume has put a new file in its place."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if number != self._file:
                self._at, self._file = 0, number
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")
        self._at += len(whole[0]) + len(whole[1])
        return [json.loads(line) for line in whole[0].splitlines()]


@contextmanager
def follow(path: Path, progress: Progress, total: int) -> Iterator[None]:
    """While the block runs, a thread shows the newest figures of metrics.jsonl as progress."""
    stop = threading.Event()

    def watch() -> None:
        tail = Tail(path)
        while not stop.wait(POLL_SECONDS):
            newest: dict[str, Any] = {}
            for line in tail.lines():
                newest |= line
            if newest:
                progress.update(done=newest["step"], **{name: newest[key] for key, name in SHOWN.items() if key in newest})

    watcher = threading.Thread(target=watch, name="train-progress", daemon=True)
    progress.update(done=0, total=total, unit="steps")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def memory_gib(device: str) -> float:
    """The most memory that this process has held: its tensors on the GPU, else its resident set."""
    if device == "gpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def peak_flops(spec: TrainSpec, device: str) -> float | None:
    """FLOP/s of this process's GPU, if its name is in PEAK_FLOPS and the job multiplies in bf16 weights that can be counted."""
    if device != "gpu" or spec.precision != "bf16" or (spec.lora and spec.lora.quantize != "none"):
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


@dataclass(frozen=True)
class Workload:
    """What one token costs a dense model."""

    body: int  # parameters but for embeddings and output head
    head: int  # parameters of the output head
    layers: int
    width: int  # heads * their dimension
    frozen: bool

    @classmethod
    def of(cls, model: Any) -> Workload:
        """Of a causal model of transformers, with or without adapters."""
        config, head = model.config.get_text_config(), model.get_output_embeddings().weight
        outside = {id(weight): weight.numel() for weight in (head, model.get_input_embeddings().weight)}  # one, where they are tied
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            body=sum(param.numel() for param in model.parameters()) - sum(outside.values()), head=head.numel(),
            layers=config.num_hidden_layers, width=config.num_attention_heads * head_dim, frozen=not head.requires_grad,
        )

    def flops(self, lengths: np.ndarray, targets: int) -> float:
        """Of the forward and backward passes over examples of these lengths: 6N per token and 12 L H Q T for attention to T tokens.

        PaLM (Chowdhery et al. 2022, arXiv:2204.02311), appendix B; L layers, H heads of dimension Q. As attention never leaves an
        example, T is its length; as the head runs on targets only, its parameters count there. Frozen weights (LoRA) have no
        gradient of their own: 4N. Recomputed activations and a teacher's pass are no work of the model and are not counted.
        """
        each = 4 if self.frozen else 6
        attention = 12 * self.layers * self.width * float(np.square(lengths, dtype=np.float64).sum())
        return each * (self.body * float(lengths.sum()) + self.head * targets) + attention
