from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.job.spec import TrainSpec
from engine.rows.signal import Signal
from engine.training.blocks import Blocks, rank_batches
from engine.training.data import TokenSequence
from engine.training.packing import fill_blocks, write_blocks
from engine.training.student import Student


def sequences(count: int, seed: int = 0, k: int = 3) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(6, 48, rng.integers(3, 20), dtype=np.int32)
        is_target = np.arange(len(ids)) >= rng.integers(1, len(ids))
        targets = int(is_target.sum())
        logprobs = np.log(rng.dirichlet(np.ones(k), targets) * 0.9).astype(np.float32)
        signal = Signal(
            rng.integers(0, 16, (targets, k)) * k + np.arange(k),
            logprobs,
            np.full(targets, 0.1, np.float32),
        )
        made.append(TokenSequence(ids, is_target, signal))
    return made


def write(folder: Path, rows: list[TokenSequence], **more: Any) -> Blocks:
    write_blocks(rows, folder, "train", **({"room": 32, "seed": 0} | more))
    return Blocks(folder, "train")


def test_every_example_is_packed_once_and_no_block_overflows() -> None:
    lengths = np.random.default_rng(1).integers(1, 101, 2000).tolist()
    blocks = fill_blocks(lengths, 100)
    assert sorted(i for block in blocks for i in block) == list(range(2000))
    assert max(sum(lengths[i] for i in block) for block in blocks) <= 100
    assert sum(lengths) / (len(blocks) * 100) > 0.98


@pytest.mark.parametrize("loss", ["sft", "forward_kl"])
def test_packed_and_unpacked_losses_and_gradients_agree(
    loss: str, tiny_config: Any, tmp_path: Path
) -> None:
    rows = sequences(24)
    packed, alone = write(tmp_path / "packed", rows), write(tmp_path / "alone", rows, room=20)
    for at, row in enumerate(rows):  # one example per block, without packing or padding
        write_blocks([row], tmp_path / f"row{at}", "train", room=20, seed=0)
    torch.manual_seed(0)
    student = Student(
        AutoModelForCausalLM.from_config(tiny_config, attn_implementation="sdpa"),
        TrainSpec(student="x", loss=loss),
    )

    def total_and_gradient(batches: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        student.zero_grad()
        value = sum(student(batch)[0] for batch in batches)
        value.backward()
        return value.detach(), torch.cat([p.grad.flatten() for p in student.parameters()])

    assert len(packed) < len(rows) / 2
    one_by_one = total_and_gradient(
        [Blocks(tmp_path / f"row{at}", "train").batch([0]) for at in range(len(rows))]
    )
    for blocks in (packed, alone):
        together = total_and_gradient([blocks.batch(range(len(blocks)))])
        torch.testing.assert_close(
            together, one_by_one, rtol=1e-5, atol=1e-5 * float(one_by_one[1].abs().max())
        )


def test_only_targets_enter_the_head(tiny_config: Any, tmp_path: Path) -> None:
    blocks = write(tmp_path / "b", sequences(10))
    student = Student(AutoModelForCausalLM.from_config(tiny_config), TrainSpec(student="x"))
    shapes = []
    student.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: shapes.append(tuple(args[0].shape))
    )
    student(blocks.batch(range(len(blocks))))
    assert shapes == [(int(blocks.targets.sum()), 32)]


def test_signal_rows_follow_their_targets(tmp_path: Path) -> None:
    rows = sequences(30)
    blocks = write(tmp_path / "b", rows, shard_bytes=600)
    assert len(list((tmp_path / "b").glob("*.arrow"))) > 2
    stored = {}
    for number in range(len(blocks)):
        batch = blocks.batch([number])
        for label, ids, logprobs in zip(
            batch.labels_N, batch.topk_ids_NK, batch.topk_logprobs_NK, strict=True
        ):
            stored.setdefault(int(label), set()).add(
                (tuple(ids.tolist()), tuple(logprobs.tolist()))
            )
    for row in rows:
        for label, ids, logprobs in zip(
            row.ids[row.is_target], row.signal.ids, row.signal.logprobs, strict=True
        ):
            assert (tuple(ids.tolist()), tuple(logprobs.tolist())) in stored[int(label)]
    assert blocks.targets.sum() == sum(row.is_target.sum() for row in rows)


def test_long_examples_and_those_without_targets_are_dropped(tmp_path: Path) -> None:
    ids = np.arange(40, dtype=np.int32)
    rows = [
        TokenSequence(ids[:n], np.arange(n) >= t) for n, t in ((40, 10), (40, 35), (8, 8), (32, 10))
    ]
    packed = write_blocks(rows, tmp_path, "train", room=32, seed=0)
    assert (packed.rows, packed.dropped) == (4, {"too_long": 2, "no_target": 1})
    assert Blocks(tmp_path, "train").targets.tolist() == [22]


def ten_tokens() -> TokenSequence:
    """Ids 0 to 9, of which 2 to 9 are targets; the signal of target t is about t."""
    at = np.arange(2, 10, dtype=np.float32)
    return TokenSequence(
        np.arange(10),
        np.arange(10) >= 2,
        Signal(at[:, None].astype(np.int32), -at[:, None], at / 100),
    )


def test_a_long_example_is_cut_with_its_signal(tmp_path: Path) -> None:
    packed = write_blocks(
        [ten_tokens()], tmp_path, "train", room=4, seed=0, long_examples="truncate"
    )
    assert (packed.rows, packed.dropped, packed.long) == (
        1,
        {},
        {"truncated": 1, "split": 0, "pieces": 0},
    )
    batch = Blocks(tmp_path, "train").batch([0])
    assert batch.input_ids_BL.tolist() == [[0, 1, 2, 3]]
    assert batch.labels_N.tolist() == batch.topk_ids_NK[:, 0].tolist() == [2, 3]


def test_a_long_example_is_split_into_sequences_of_their_own(tmp_path: Path) -> None:
    packed = write_blocks([ten_tokens()], tmp_path, "train", room=4, seed=0, long_examples="split")
    assert (packed.rows, packed.dropped, packed.long) == (
        1,
        {},
        {"truncated": 0, "split": 1, "pieces": 3},
    )
    blocks = Blocks(tmp_path, "train")
    pieces = {}
    for number in range(len(blocks)):
        batch = blocks.batch([number])
        assert batch.position_ids_BL.tolist() == [list(range(batch.input_ids_BL.shape[1]))]
        assert blocks.rows(number).tolist() == [0]
        pieces[tuple(batch.input_ids_BL[0].tolist())] = (
            batch.labels_N.tolist(),
            batch.topk_ids_NK[:, 0].tolist(),
            batch.tail_N.tolist(),
        )
    # Nothing predicts the first token of a piece: 4 and 8 are no targets, and their signal is gone.
    assert {ids: piece[:2] for ids, piece in pieces.items()} == {
        (0, 1, 2, 3): ([2, 3], [2, 3]),
        (4, 5, 6, 7): ([5, 6, 7], [5, 6, 7]),
        (8, 9): ([9], [9]),
    }
    assert pieces[8, 9][2] == pytest.approx([0.09])


@pytest.mark.parametrize(
    ("policy", "target"), [("truncate", 4), ("truncate", 9), ("split", 4), ("split", 8)]
)
def test_a_long_example_whose_targets_are_cut_off_is_dropped(
    policy: str, target: int, tmp_path: Path
) -> None:
    row = TokenSequence(np.arange(10), np.arange(10) == target)
    packed = write_blocks(
        [row, ten_tokens()], tmp_path, "train", room=4, seed=0, long_examples=policy
    )
    assert (packed.rows, packed.dropped) == (2, {"no_target": 1})
    assert packed.long["truncated"] + packed.long["split"] == 1


@pytest.mark.parametrize("policy", ["drop", "truncate", "split"])
def test_rows_in_are_rows_packed_and_rows_dropped(policy: str, tmp_path: Path) -> None:
    packed = write_blocks(
        sequences(200), tmp_path, "train", room=12, seed=0, long_examples=policy, shard_bytes=1500
    )
    blocks = Blocks(tmp_path, "train")
    rows = np.concatenate([blocks.rows(number) for number in range(len(blocks))])
    assert len(packed.shards) > 3
    assert packed.rows == 200 == len(set(rows.tolist())) + sum(packed.dropped.values())
    assert (
        len(rows)
        == packed.sequences
        == len(set(rows.tolist())) + packed.long["pieces"] - packed.long["split"]
    )


def test_what_packing_reports_counts_by_hand(tmp_path: Path) -> None:
    tails = ([0.25, 0.5], [-1.0, 0.0])  # of one target the teacher gave no distribution
    rows = [
        TokenSequence(
            np.arange(n),
            np.arange(n) >= n - 2,
            Signal(np.zeros((2, 1)), np.zeros((2, 1)), np.array(tail)),
        )
        for n, tail in zip((10, 5), tails, strict=True)
    ]
    packed = write_blocks(rows, tmp_path, "train", room=20, seed=0)
    assert packed.summary() == {
        "blocks": 1,
        "tokens": 15,
        "target_tokens": 4,
        "truncated": 0,
        "split": 0,
        "pieces": 0,
        "efficiency": 0.75,
        "examples_per_block": 2.0,
        "captured_mass": pytest.approx(2.25 / 3),
        "aligned": 0.75,
    }
    plain = write_blocks(
        [TokenSequence(np.arange(9), np.arange(9) >= 2)], tmp_path / "sft", "train", room=20, seed=0
    )
    assert (plain.captured_mass, plain.aligned) == (None, None)


def test_finished_blocks_are_reused_and_unfinished_ones_made_again(tmp_path: Path) -> None:
    write(tmp_path / "b", sequences(10))
    assert len(Blocks(tmp_path / "b", "train")) == len(write(tmp_path / "b", []))
    (tmp_path / "b/train.json").unlink()
    assert len(write(tmp_path / "b", sequences(1))) == 1


def test_an_empty_micro_batch_has_zero_loss_and_gradients_everywhere(
    tiny_config: Any, tmp_path: Path
) -> None:
    blocks = write(tmp_path / "b", sequences(3))
    student = Student(AutoModelForCausalLM.from_config(tiny_config), TrainSpec(student="x"))
    loss = student(blocks.batch([]))[0]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


@pytest.mark.parametrize("loss", ["sft", "forward_kl"])
def test_gradients_of_two_ranks_add_up_to_those_of_one(
    loss: str, tiny_config: Any, tmp_path: Path
) -> None:
    blocks = write(tmp_path / "b", sequences(20))
    student = Student(
        AutoModelForCausalLM.from_config(tiny_config), TrainSpec(student="x", loss=loss)
    )
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
