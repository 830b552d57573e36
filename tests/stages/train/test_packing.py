from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.records import Signal
from engine.spec import TrainSpec
from engine.stages.train.data import TokenSequence
from engine.stages.train.packing import Blocks, pack, rank_batches, write_blocks
from engine.stages.train.student import Student


def sequences(count: int, seed: int = 0, k: int = 3) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(6, 48, rng.integers(3, 20), dtype=np.int32)
        is_target = np.arange(len(ids)) >= rng.integers(1, len(ids))
        targets = int(is_target.sum())
        logprobs = np.log(rng.dirichlet(np.ones(k), targets) * 0.9).astype(np.float32)
        signal = Signal(rng.integers(0, 16, (targets, k)) * k + np.arange(k), logprobs, np.full(targets, 0.1, np.float32))
        made.append(TokenSequence(ids, is_target, signal))
    return made


def write(folder: Path, rows: list[TokenSequence], **more: Any) -> Blocks:
    write_blocks(rows, folder, "train", **({"room": 32, "seed": 0} | more))
    return Blocks(folder, "train")


def test_every_example_is_packed_once_and_no_block_overflows() -> None:
    lengths = np.random.default_rng(1).integers(1, 101, 2000).tolist()
    blocks = pack(lengths, 100)
    assert sorted(i for block in blocks for i in block) == list(range(2000))
    assert max(sum(lengths[i] for i in block) for block in blocks) <= 100
    assert sum(lengths) / (len(blocks) * 100) > 0.98


@pytest.mark.parametrize("loss", ["sft", "forward_kl"])
def test_packed_and_unpacked_losses_and_gradients_agree(loss: str, tiny_config: Any, tmp_path: Path) -> None:
    rows = sequences(24)
    packed, alone = write(tmp_path / "packed", rows), write(tmp_path / "alone", rows, room=20)
    for at, row in enumerate(rows):  # one example per block, without packing or padding
        write_blocks([row], tmp_path / f"row{at}", "train", room=20, seed=0)
    torch.manual_seed(0)
    student = Student(AutoModelForCausalLM.from_config(tiny_config, attn_implementation="sdpa"), TrainSpec(student="x", loss=loss))

    def total_and_gradient(batches: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        student.zero_grad()
        value = sum(student(batch)[0] for batch in batches)
        value.backward()
        return value.detach(), torch.cat([p.grad.flatten() for p in student.parameters()])

    assert len(packed) < len(rows) / 2
    one_by_one = total_and_gradient([Blocks(tmp_path / f"row{at}", "train").batch([0]) for at in range(len(rows))])
    for blocks in (packed, alone):
        together = total_and_gradient([blocks.batch(range(len(blocks)))])
        torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5 * float(one_by_one[1].abs().max()))


def test_only_targets_enter_the_head(tiny_config: Any, tmp_path: Path) -> None:
    blocks = write(tmp_path / "b", sequences(10))
    student = Student(AutoModelForCausalLM.from_config(tiny_config), TrainSpec(student="x"))
    shapes = []
    student.model.get_output_embeddings().register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    student(blocks.batch(range(len(blocks))))
    assert shapes == [(int(blocks.targets.sum()), 32)]


def test_signal_rows_follow_their_targets(tmp_path: Path) -> None:
    rows = sequences(30)
    blocks = write(tmp_path / "b", rows, shard_bytes=600)
    assert len(list((tmp_path / "b").glob("*.arrow"))) > 2
    stored = {}
    for number in range(len(blocks)):
        batch = blocks.batch([number])
        for label, ids, logprobs in zip(batch.labels_N, batch.topk_ids_NK, batch.topk_logprobs_NK, strict=True):
            stored.setdefault(int(label), set()).add((tuple(ids.tolist()), tuple(logprobs.tolist())))
    for row in rows:
        for label, ids, logprobs in zip(row.ids[row.is_target], row.signal.ids, row.signal.logprobs, strict=True):
            assert (tuple(ids.tolist()), tuple(logprobs.tolist())) in stored[int(label)]
    assert blocks.targets.sum() == sum(row.is_target.sum() for row in rows)


def test_long_examples_and_those_without_targets_are_dropped(tmp_path: Path) -> None:
    ids = np.arange(40, dtype=np.int32)
    rows = [TokenSequence(ids[:n], np.arange(n) >= t) for n, t in ((40, 10), (40, 35), (8, 8), (32, 10))]
    packed = write_blocks(rows, tmp_path, "train", room=32, seed=0)
    assert (packed.rows, packed.dropped) == (4, {"too_long": 2, "no_target": 1})
    assert Blocks(tmp_path, "train").targets.tolist() == [22]


def test_finished_blocks_are_reused_and_unfinished_ones_made_again(tmp_path: Path) -> None:
    write(tmp_path / "b", sequences(10))
    assert len(Blocks(tmp_path / "b", "train")) == len(write(tmp_path / "b", []))
    (tmp_path / "b/train.json").unlink()
    assert len(write(tmp_path / "b", sequences(1))) == 1


@pytest.mark.parametrize(("blocks", "workers", "batch_size"), [(12, 2, 3), (7, 2, 2), (1, 3, 2), (10, 4, 1)])
def test_ranks_share_a_step_and_take_equally_many_micro_batches(blocks: int, workers: int, batch_size: int) -> None:
    numbers = np.random.default_rng(0).permutation(blocks)
    shares = [list(rank_batches(numbers, rank, workers, batch_size)) for rank in range(workers)]
    assert sorted(int(n) for share in shares for part in share for n in part) == list(range(blocks))
    assert len({len(share) for share in shares}) == 1
    assert max(len(part) for share in shares for part in share) <= batch_size


def test_an_empty_micro_batch_has_zero_loss_and_gradients_everywhere(tiny_config: Any, tmp_path: Path) -> None:
    blocks = write(tmp_path / "b", sequences(3))
    student = Student(AutoModelForCausalLM.from_config(tiny_config), TrainSpec(student="x"))
    loss = student(blocks.batch([]))[0]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


@pytest.mark.parametrize("loss", ["sft", "forward_kl"])
def test_gradients_of_two_ranks_add_up_to_those_of_one(loss: str, tiny_config: Any, tmp_path: Path) -> None:
    blocks = write(tmp_path / "b", sequences(20))
    student = Student(AutoModelForCausalLM.from_config(tiny_config), TrainSpec(student="x", loss=loss))
    numbers = np.arange(len(blocks))

    def gradient(workers: int, batch_size: int) -> torch.Tensor:
        student.zero_grad()
        for rank in range(workers):
            for part in rank_batches(numbers, rank, workers, batch_size):
                (student(blocks.batch(part))[0] / int(blocks.targets.sum())).backward()
        return torch.cat([p.grad.flatten() for p in student.parameters()])

    whole = gradient(1, len(blocks))
    torch.testing.assert_close(gradient(2, 3), whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(3, 1), whole, rtol=1e-4, atol=1e-6)
