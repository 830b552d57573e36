from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from engine.errors import SpecError
from engine.job.spec import LoraSpec
from engine.run.progress import Progress
from engine.training.flops import Workload, memory_gib
from engine.training.metrics import Metrics, Tail, follow, load_metrics
from engine.training.student import with_adapters
from engine.training.trackers import TRACKERS, require_trackers


def test_lines_beyond_the_resumed_step_are_cut(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, ["tensorboard"])
    for step in (1, 2, 3):
        metrics.write(step, loss=1.0 / step, blocks=[step])
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a kill cuts lines short
    again = Metrics(tmp_path, 2)
    again.write(3, loss=0.5)
    again.close()
    assert [(line["step"], line["loss"]) for line in load_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.5),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_tail_reads_each_line_once_and_a_new_file_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert tail.lines() == [{"a": 1}, {"a": 2}]
    with path.open("a") as file:
        file.write(": 3}\n")
    assert tail.lines() == [{"a": 3}]
    assert tail.lines() == []
    (tmp_path / "other").write_text('{"a": 9}\n')
    (tmp_path / "other").replace(path)
    assert tail.lines() == [{"a": 9}]


def test_the_driver_sees_the_newest_figures(tmp_path: Path) -> None:
    progress = Progress()
    with progress.stage("train", tmp_path), follow(tmp_path / "metrics.jsonl", progress, 10):
        metrics = Metrics(tmp_path, 0)
        metrics.write(
            4,
            loss=2.0,
            accuracy=0.5,
            grad_norm=1.5,
            tokens=100,
            seconds=0.5,
            tokens_per_second=200.0,
            blocks=[1],
        )
        metrics.write(4, validation_loss=3.0)
        deadline = time.monotonic() + 20
        while progress._state["done"] != 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        metrics.close()
    assert progress._state["done"] == 4
    assert progress._state["total"] == 10
    assert progress._state["figures"] == {
        "loss": 2.0,
        "validation loss": 3.0,
        "accuracy": 0.5,
        "grad norm": 1.5,
        "tok/s": 200.0,
    }


WANDB = """
import json
class Run:
    def __init__(self, told): self.seen = [told]
    def log(self, values, step): self.seen.append([step, values])
    def finish(self):
        with open("seen.json", "w") as file: json.dump(self.seen, file)
def init(**told): return Run(told)
"""
MLFLOW = """
import json, types
seen = []
def set_experiment(name): seen.append(name)
def start_run(run_id, run_name):
    seen.append([run_id, run_name])
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "run-1"))
def log_metrics(values, step): seen.append([step, values])
def end_run():
    with open("seen.json", "w") as file: json.dump(seen, file)
    seen.clear()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "job/4-train-ab"
    folder.mkdir(parents=True)
    return folder


def stand_in(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of this name that we wrote, in front of any installed one; works in `folder`."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_wandb_gets_numbers_under_the_id_of_the_folder(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("wandb", WANDB, tmp_path, monkeypatch)
    require_trackers(["wandb"])
    metrics = Metrics(out, 0, ["wandb"])
    metrics.write(3, loss=2.0, blocks=[1, 2])
    metrics.close()
    told, logged = json.loads((tmp_path / "seen.json").read_text())
    assert {
        "project": "distill",
        "group": "job",
        "id": "4-train-ab",
        "resume": "allow",
    }.items() <= told.items()
    assert logged == [3, {"train/loss": 2.0}]


def test_mlflow_gets_numbers_and_a_resume_goes_on_with_its_run(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("mlflow", MLFLOW, tmp_path, monkeypatch)
    for known in (None, "run-1"):
        metrics = Metrics(out, 0, ["mlflow"])
        metrics.write(3, loss=2.0, blocks=[1, 2])
        metrics.close()
        assert json.loads((tmp_path / "seen.json").read_text()) == [
            "job",
            [known, "4-train-ab"],
            [3, {"train/loss": 2.0}],
        ]


def test_a_tracker_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(
        SpecError,
        match=r"train\.trackers asks for wandb, which is not installed: pip install wandb",
    ):
        require_trackers(["wandb"])
    require_trackers([])
    assert set(TRACKERS) == {"tensorboard", "wandb", "mlflow"}


def test_memory_is_the_most_that_this_process_held() -> None:
    now = psutil.Process().memory_info().rss  # the kernel counts the peak a little coarser
    assert 0.9 * now / 2**30 <= memory_gib("cpu") < psutil.virtual_memory().total / 2**30


CONFIG = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 20,
}
BODY = (
    2 * (8 * 8 * 2 + 2 * 8 * 4 + 3 * 8 * 16 + 2 * 8) + 8
)  # per layer q, o; k, v; gate, up, down; two norms; and the last norm


@pytest.mark.parametrize("tied", [True, False])
def test_flops_count_weights_by_tokens_and_attention_by_squares(tied: bool) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG, tie_word_embeddings=tied))
    work = Workload.of(model)
    assert (work.body, work.head, work.layers, work.width, work.frozen) == (BODY, 160, 2, 8, False)
    assert work.flops(np.array([3, 5], np.int32), 4) == 6 * (BODY * 8 + 160 * 4) + 12 * 2 * 8 * (
        9 + 25
    )


def test_frozen_weights_cost_two_thirds() -> None:
    model = with_adapters(AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG)), LoraSpec(rank=1))
    work = Workload.of(model)
    adapters = 2 * ((8 + 8) * 2 + (8 + 4) * 2 + (8 + 16) * 3)
    assert (work.body, work.frozen) == (BODY + adapters, True)
    assert work.flops(np.array([1], np.int32), 0) == 4 * (BODY + adapters) + 12 * 2 * 8
