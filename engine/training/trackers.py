"""Where a run's curves also go: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from engine.errors import SpecError
from engine.store.files import write_atomic

Figures = Mapping[str, float]  # by name


class Tracker(Protocol):
    """Where figures go beside metrics.jsonl."""

    def write(self, step: int, values: Figures) -> None:
        """Figures of one step, by name."""

    def close(self) -> None:
        """Everything is sent when this returns."""


class TensorBoard:
    """Event files in the stage's folder."""

    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Figures) -> None:
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._board.close()


class WandB:
    """A run of Weights & Biases with the id of the stage's folder, which a resume goes on with;
    repeated steps keep their first figures."""

    def __init__(self, out: Path, start: int) -> None:
        import wandb  # ty: ignore[import-not-found]  # an extra that few install

        self._run = wandb.init(
            project="distill",
            group=out.parent.name,
            name=out.name,
            id=out.name,
            dir=str(out),
            resume="allow",
        )

    def write(self, step: int, values: Figures) -> None:
        self._run.log(_as_of_training(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow in the experiment of the job's name; a resume goes on with the run whose id
    lies in the stage's folder."""

    def __init__(self, out: Path, start: int) -> None:
        import mlflow  # ty: ignore[import-not-found]  # an extra that few install

        self._mlflow = mlflow
        mlflow.set_experiment(out.parent.name)
        id_file = out / "mlflow-run.txt"
        earlier = id_file.read_text() if id_file.exists() else None
        run = mlflow.start_run(run_id=earlier, run_name=out.name)
        write_atomic(id_file, run.info.run_id)

    def write(self, step: int, values: Figures) -> None:
        self._mlflow.log_metrics(_as_of_training(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


# By name: what begins to track, given the stage's folder and the steps that are done.
TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def require_trackers(names: Sequence[str]) -> None:
    """SpecError if the package of a tracker is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SpecError(
                f"train.trackers asks for {name}, which is not installed: pip install {name}, or"
                " leave it out"
            )


def _as_of_training(values: Figures) -> dict[str, float]:
    return {f"train/{name}": value for name, value in values.items()}
