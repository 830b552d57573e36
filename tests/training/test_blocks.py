"""Shards are read where they lie or through a bounded folder that workers share; ranks slice a
step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.training.blocks import Blocks, ShardCache, rank_batches, shard_cache
from engine.training.data import TokenSequence
from engine.training.packing import write_blocks
from engine.training.schedule import WINDOW_SHARDS, Schedule


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 shards of a few blocks each; the first id of each example is its row."""
    rng = np.random.default_rng(0)
    rows = [
        TokenSequence(np.array([row, *rng.integers(0, 48, 9)]), np.arange(10) >= 4)
        for row in range(400)
    ]
    packed = write_blocks(rows, tmp_path / "blocks", "train", room=32, seed=0, shard_bytes=20 * 64)
    assert len(packed.shards) == 20
    return tmp_path / "blocks"


def largest(folder: Path) -> int:
    return max(shard.stat().st_size for shard in folder.glob("*.arrow"))


def test_rows_name_the_examples_of_a_block(folder: Path) -> None:
    blocks = Blocks(folder, "train")
    for number in (0, 33, len(blocks) - 1):
        ids, starts = (
            blocks.batch([number]).input_ids_BL[0],
            blocks.batch([number]).position_ids_BL[0] == 0,
        )
        assert ids[starts][: len(blocks.rows(number))].tolist() == blocks.rows(number).tolist()
    assert sum(blocks.shard_sizes) == len(blocks) == len(blocks.targets)


def test_a_bounded_cache_gives_the_same_batches_in_training_order(
    folder: Path, tmp_path: Path
) -> None:
    limit = largest(folder) * (WINDOW_SHARDS + 1)
    plain, cached = (
        Blocks(folder, "train"),
        Blocks(folder, "train", ShardCache(tmp_path / "cache", limit)),
    )
    schedule, fullest = Schedule(plain.shard_sizes, 7, 3, TrainSpec(student="x", epochs=2)), 0
    for step in range(schedule.steps):
        ours, theirs = (
            vars(blocks.batch(schedule.block_numbers(step))) for blocks in (cached, plain)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        fullest = max(
            fullest, sum(copy.stat().st_size for copy in (tmp_path / "cache").glob("*.arrow"))
        )
    assert limit - largest(folder) < fullest <= limit


def test_one_pass_copies_each_shard_once(folder: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", largest(folder) * (WINDOW_SHARDS + 1))
    blocks, inodes = Blocks(folder, "train", cache), set()
    schedule = Schedule(blocks.shard_sizes, 1, 3, TrainSpec(student="x", epochs=1))
    for step in range(schedule.steps):
        blocks.batch(schedule.block_numbers(step))
        inodes |= {(copy.name, copy.stat().st_mtime_ns) for copy in cache.folder.glob("*.arrow")}
    assert len(inodes) == 20


def test_the_copy_mapped_longest_ago_leaves_first(folder: Path, tmp_path: Path) -> None:
    shards = sorted(folder.glob("*.arrow"))[:4]
    cache = ShardCache(tmp_path / "cache", sum(shard.stat().st_size for shard in shards[:3]) + 10)
    for at in (0, 1, 2, 0, 3):
        copy, _ = cache.map(shards[at])
        assert copy.read_bytes() == shards[at].read_bytes()
    assert {copy.name for copy in cache.folder.glob("*.arrow")} == {
        shards[at].name for at in (0, 2, 3)
    }


def test_a_copy_that_left_stays_readable_to_who_maps_it(folder: Path, tmp_path: Path) -> None:
    plain, cached = (
        Blocks(folder, "train"),
        Blocks(folder, "train", ShardCache(tmp_path / "cache", 2**20)),
    )
    cached.batch([0])
    for copy in (tmp_path / "cache").glob("*.arrow"):  # as another worker does to make room
        copy.unlink()
    assert torch.equal(cached.batch([1]).input_ids_BL, plain.batch([1]).input_ids_BL)


def test_a_copy_that_was_not_finished_is_made_again(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/copying").write_bytes(b"torn by a kill")
    shard = min(folder.glob("*.arrow"))
    copy, _ = ShardCache(tmp_path / "cache", 2**20).map(shard)
    assert copy.read_bytes() == shard.read_bytes()
    assert not (tmp_path / "cache/copying").exists()


def test_workers_of_a_node_share_a_cache(folder: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", largest(folder) * (WINDOW_SHARDS + 1))

    def labels(worker: int, cache: ShardCache | None) -> int:
        blocks = Blocks(folder, "train", cache)
        return sum(
            int(blocks.batch([number]).labels_N.sum())
            for number in np.random.default_rng(worker).permutation(len(blocks))
        )

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(labels, range(4), [cache] * 4)) == [labels(0, None)] * 4


def test_a_cache_below_one_window_is_refused(folder: Path, tmp_path: Path) -> None:
    spec = TrainSpec(student="x", cache_dir=str(tmp_path / "cache"), cache_gib=1e-6)
    with pytest.raises(
        StageError, match=r"cache_gib=9.99e-07 is less than .* 8 shards .* raise train\.cache_gib"
    ):
        Blocks(folder, "train", shard_cache(spec))
    assert shard_cache(TrainSpec(student="x")) is None


@pytest.mark.parametrize(
    ("blocks", "workers", "batch_size"), [(12, 2, 3), (7, 2, 2), (1, 3, 2), (10, 4, 1)]
)
def test_ranks_share_a_step_and_take_equally_many_micro_batches(
    blocks: int, workers: int, batch_size: int
) -> None:
    numbers = np.random.default_rng(0).permutation(blocks)
    shares = [list(rank_batches(numbers, rank, workers, batch_size)) for rank in range(workers)]
    assert sorted(int(n) for share in shares for part in share for n in part) == list(range(blocks))
    assert len({len(share) for share in shares}) == 1
    assert max(len(part) for share in shares for part in share) <= batch_size
