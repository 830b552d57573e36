from __future__ import annotations

import time
from pathlib import Path

from engine.progress import Progress
from engine.stages.train.metrics import Metrics, follow, load_metrics


def test_lines_beyond_the_resumed_step_are_cut(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write(step, loss=1.0 / step)
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a kill cuts lines short
    again = Metrics(tmp_path, 2)
    again.write(3, loss=0.5)
    again.close()
    assert [(line["step"], line["loss"]) for line in load_metrics(tmp_path / "metrics.jsonl")] == [(1, 1.0), (2, 0.5), (3, 0.5)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_driver_sees_the_newest_step(tmp_path: Path) -> None:
    progress = Progress()
    with progress.stage("train", tmp_path), follow(tmp_path / "metrics.jsonl", progress, 10):
        metrics = Metrics(tmp_path, 0)
        metrics.write(4, loss=2.0, tokens=100, seconds=0.5)
        metrics.write(4, validation_loss=3.0)
        deadline = time.monotonic() + 20
        while progress._state["done"] != 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        metrics.close()
    assert progress._state["done"] == 4
    assert progress._state["total"] == 10
    assert progress._state["figures"] == {"loss": 2.0, "tok/s": 200.0}
