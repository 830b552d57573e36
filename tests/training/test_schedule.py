from __future__ import annotations

import numpy as np
import pytest

from engine.job.spec import TrainSpec
from engine.training.schedule import FALLS, WINDOW_SHARDS, Schedule


def schedule(**fields: object) -> Schedule:
    return Schedule((10,), 4, 5, TrainSpec(student="x", epochs=3, learning_rate=1.0, **fields))


def test_each_epoch_takes_every_block_once_in_another_order() -> None:
    plan = schedule()
    assert (plan.steps_per_epoch, plan.steps) == (3, 9)
    epochs = [
        np.concatenate([plan.block_numbers(step) for step in range(at, at + 3)]) for at in (0, 3, 6)
    ]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert [len(plan.block_numbers(step)) for step in range(3)] == [4, 4, 2]


def test_workers_and_micro_batches_do_not_change_the_order() -> None:
    one, two = schedule(), schedule(workers=4, batch_size=7, accumulation=3, zero_stage=3)
    assert all(
        np.array_equal(one.block_numbers(step), two.block_numbers(step)) for step in range(9)
    )


def test_blocks_are_shuffled_within_windows_of_shuffled_shards() -> None:
    sizes = tuple(range(5, 25))
    plan = Schedule(sizes, sum(sizes), 5, TrainSpec(student="x", epochs=2))
    shard_of = np.repeat(np.arange(20), sizes)
    first, second = (shard_of[plan.block_numbers(epoch)] for epoch in (0, 1))
    assert sorted(plan.block_numbers(0).tolist()) == list(range(sum(sizes)))
    windows, at = [], 0
    while at < len(first):  # a window ends where its shards have all been read
        shards = set()
        while at < len(first) and (len(shards) < WINDOW_SHARDS or first[at] in shards):
            shards.add(int(first[at]))
            at += 1
        windows.append(shards)
    assert [len(window) for window in windows] == [8, 8, 4]
    assert len(set.union(*windows)) == 20
    assert np.count_nonzero(np.diff(first[:40])) > 25  # blocks of a window's shards alternate
    assert set(second[:40].tolist()) != set(first[:40].tolist())


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine_to_its_floor() -> None:
    plan = schedule(warmup_ratio=0.3, min_learning_rate_ratio=0.1)
    rates = [plan.learning_rate(step) for step in range(9)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[3] == 1
    assert rates[-1] == pytest.approx(0.1)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    middle = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * 2 / 5))
    assert rates[5] == pytest.approx(middle)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert schedule(warmup_ratio=0.0).learning_rate(0) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "linear"}, [1 / 3, 2 / 3, 1, 1, 0.82, 0.64, 0.46, 0.28, 0.1]),
        ({"schedule": "constant"}, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "wsd", "decay_ratio": 0.3}, [1 / 3, 2 / 3, 1, 1, 1, 1, 0.7, 0.4, 0.1]),
        (
            {"schedule": "wsd", "decay_ratio": 1.0},
            [1 / 3, 2 / 3, 1, 1, 0.82, 0.64, 0.46, 0.28, 0.1],
        ),
    ],
)
def test_the_learning_rate_of_each_schedule(
    fields: dict[str, object], expected: list[float]
) -> None:
    plan = schedule(warmup_ratio=0.3, min_learning_rate_ratio=0.1, **fields)
    assert [plan.learning_rate(step) for step in range(9)] == pytest.approx(expected)


@pytest.mark.parametrize("name", FALLS)
def test_a_run_of_one_step_takes_the_peak(name: str) -> None:
    one = Schedule(
        (3,),
        4,
        5,
        TrainSpec(student="x", epochs=1, learning_rate=1.0, warmup_ratio=0.0, schedule=name),
    )
    assert (one.steps, one.learning_rate(0)) == (1, 1)
