from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import StageError
from engine.training import checkpoints
from engine.training.checkpoints import MARKER, Validations, Writer

FACTS = {"job": "4-train-1", "global_batch": 4}


def writer(
    root: Path, *, attempt: int = 7, rank: int = 0, workers: int = 1, keep: int = 2, **more: Any
) -> Writer:
    return Writer(root, attempt, FACTS, rank=rank, workers=workers, keep=keep, **more)


def save(root: Path, step: int, validations: Validations | None = None, **more: Any) -> None:
    one = writer(root, **more)
    one.save(step, {"weight/a": torch.full((2,), float(step))}, validations or Validations())
    one.wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_complete_checkpoint_is_resumed(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    save(tmp_path, 9)
    save(tmp_path, 10)
    (tmp_path / "step-000010" / MARKER).unlink()
    assert checkpoints.newest(tmp_path).step == 9
    save(tmp_path, 10)
    assert checkpoints.newest(tmp_path).load()["weight/a"].tolist() == [10, 10]
    (share,) = (tmp_path / "step-000010").glob("share-*")
    share.write_bytes(b"torn")
    assert checkpoints.newest(tmp_path).step == 9


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 999_999, 1_000_000):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    assert checkpoints.newest(tmp_path).step == 1_000_000


def test_the_best_one_that_a_kept_checkpoint_knows_is_kept_beside_the_newest(
    tmp_path: Path,
) -> None:
    validations = Validations()
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, None), (6, 1.5)):
        validations = validations.saved(step, loss)
        save(tmp_path, step, validations)
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006"]
    assert checkpoints.newest(tmp_path).validations == Validations(best_step=2, best_loss=1.0)
    save(tmp_path, 7, validations.saved(7, 0.5))
    save(tmp_path, 8, validations.saved(7, 0.5))
    assert names(tmp_path) == ["step-000007", "step-000008"]


def test_validations_count_those_since_the_least_loss() -> None:
    seen = Validations()
    for loss in (3.0, 2.0, 2.0, 2.5):
        seen = seen.seen(loss)
    assert (seen.least, seen.since_least, seen.best_step) == (2.0, 2, None)
    assert seen.saved(40, None) == seen
    assert seen.saved(40, 2.5).saved(50, 2.6).best_step == 40


def test_shares_of_several_ranks_read_as_one(tmp_path: Path) -> None:
    ranks = [writer(tmp_path, rank=rank, workers=2) for rank in (0, 1)]
    for rank, one in enumerate(ranks):  # rank 0's thread waits for rank 1's file
        one.save(5, {f"weight/{rank}": torch.full((3,), float(rank))}, Validations())
    for one in ranks:
        one.wait()
    found = checkpoints.newest(tmp_path)
    tensors = found.load()
    assert sorted(tensors) == ["weight/0", "weight/1"]
    assert tensors["weight/1"].tolist() == [1, 1, 1]
    assert found.facts.items() >= {"step": 5, **FACTS}.items()


def test_training_goes_on_while_a_save_is_written_and_the_next_save_waits_for_it(
    tmp_path: Path,
) -> None:
    gate, waiting = threading.Event(), threading.Event()

    def hold(place: str, step: int) -> None:
        if (place, step) == ("mid_share", 1):
            waiting.set()
            assert gate.wait(20)

    one = writer(tmp_path, on_step=hold)
    share = {"weight/a": torch.zeros(2)}
    one.save(1, share, Validations())
    assert waiting.wait(20)
    one.check()
    assert checkpoints.newest(tmp_path) is None
    threading.Timer(0.05, gate.set).start()
    one.save(2, share, Validations())
    assert checkpoints.newest(tmp_path).step >= 1
    one.wait()
    assert checkpoints.newest(tmp_path).step == 2


def test_a_share_that_a_dead_attempt_left_is_never_taken(tmp_path: Path) -> None:
    dead = writer(tmp_path, attempt=1, rank=1, workers=2)
    dead.save(5, {"weight/1": torch.zeros(1)}, Validations())  # its rank 0 died before it wrote
    dead.wait()
    one = writer(tmp_path, attempt=2, workers=2, timeout_s=0.1)
    one.save(5, {"weight/0": torch.zeros(1)}, Validations())
    with pytest.raises(
        StageError,
        match=r"step-000005 still lacks share-2-00001-of-00002\.safetensors, which"
        r" other workers write",
    ):
        one.wait()
    assert checkpoints.newest(tmp_path) is None
    checkpoints.clear_incomplete(tmp_path)
    assert names(tmp_path) == []


def test_an_error_of_the_thread_is_raised_at_the_next_check(tmp_path: Path) -> None:
    (tmp_path / "step-000005").write_text("a file where the folder should be")
    one = writer(tmp_path)
    one.save(5, {"weight/a": torch.zeros(1)}, Validations())
    with pytest.raises(
        StageError,
        match=r"checkpoint of step 5 could not be written .*make room, and the same"
        r" command resumes",
    ):
        check_until_it_raises(one)
    one.wait()


def check_until_it_raises(one: Writer) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        one.check()
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("facts", "shapes", "message"),
    [
        (
            {"global_batch": 8},
            {"a": (2,)},
            r"of another job: its global_batch is 4, here it is 8; move .* away",
        ),
        (
            {"job": "4-train-2"},
            {"a": (2,)},
            r"of another job: its job is 4-train-1, here it is 4-train-2",
        ),
        (
            {},
            {"a": (3,)},
            r"of another model: 1 parameters differ, the first is a: \(2,\) in the checkpoint,"
            r" \(3,\) in the student",
        ),
        (
            {},
            {"a": (2,), "b": (1,)},
            r"the first is b: not there in the checkpoint, \(1,\) in the student",
        ),
        ({}, {}, r"the first is a: \(2,\) in the checkpoint, not there in the student"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(
    facts: dict[str, object], shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    save(tmp_path, 3)
    with pytest.raises(StageError, match=message):
        checkpoints.check_fits(checkpoints.newest(tmp_path), FACTS | facts, shapes)


def test_a_checkpoint_that_fits_gives_its_tensors(tmp_path: Path) -> None:
    save(tmp_path, 3)
    assert checkpoints.check_fits(checkpoints.newest(tmp_path), FACTS, {"a": (2,)})[
        "weight/a"
    ].tolist() == [3, 3]
