"""Losses against dense references in float64, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from engine.spec import TrainSpec
from engine.stages.train.blocks import Batch
from engine.stages.train.losses import LOSSES

N, V = 5, 12


def batch_of(teacher_NV: torch.Tensor, k: int) -> Batch:
    logprobs_NK, ids_NK = torch.log_softmax(teacher_NV, 1).topk(k)
    tail_N = (1 - logprobs_NK.exp().sum(1)).clamp_min(0) if k < V else torch.zeros(N, dtype=teacher_NV.dtype)
    empty = torch.zeros(0, dtype=torch.long)
    return Batch(empty, empty, empty, teacher_NV.argmax(1), ids_NK, logprobs_NK, tail_N)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def reference_kl(student_NV: torch.Tensor, batch: Batch, tail: str, temperature: float) -> torch.Tensor:
    """By the book: probabilities at temperature 1, buckets, p^(1/T)/sum, T^2 * sum p log(p/q)."""
    p, q = batch.topk_logprobs_NK.exp(), student_NV.softmax(1).gather(1, batch.topk_ids_NK)
    if tail == "bucket":
        p = torch.cat([p, batch.tail_N[:, None]], 1)
        q = torch.cat([q, 1 - q.sum(1, keepdim=True)], 1)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    p, q = p ** (1 / temperature), q ** (1 / temperature)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return temperature**2 * (p * (p / q).log()).sum()


def value_and_gradient(loss, student_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    student_NV = student_NV.clone().requires_grad_()
    value = loss(student_NV)
    value.backward()
    return value.detach(), student_NV.grad


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_forward_kl_equals_the_dense_reference(tail: str, temperature: float, k: int) -> None:
    batch = batch_of(logits(1), k)
    spec = TrainSpec(student="x", loss="forward_kl", tail=tail, temperature=temperature)
    ours = value_and_gradient(lambda s: LOSSES["forward_kl"](s, batch, spec), logits(2))
    reference = value_and_gradient(lambda s: reference_kl(s, batch, tail, temperature), logits(2))
    torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_teacher_taught_to_itself_has_zero_loss_and_gradient(tail: str, temperature: float) -> None:
    spec = TrainSpec(student="x", loss="forward_kl", tail=tail, temperature=temperature)
    for k in (3, V):
        value, gradient = value_and_gradient(lambda s, k=k: LOSSES["forward_kl"](s, batch_of(logits(1), k), spec), logits(1))
        assert abs(value) < 1e-9
        assert gradient.abs().max() < 1e-9


def test_top_k_converges_to_the_dense_kl() -> None:
    spec = TrainSpec(student="x", loss="forward_kl")
    dense = torch.nn.functional.kl_div(logits(2).log_softmax(1), logits(1).log_softmax(1), reduction="sum", log_target=True)
    values = [LOSSES["forward_kl"](logits(2), batch_of(logits(1), k), spec) for k in (2, 6, V)]
    gaps = [float(dense - value) for value in values]
    assert gaps[0] > gaps[1] > gaps[2] - 1e-12  # merging tokens into a bucket only loses divergence
    assert abs(gaps[2]) < 1e-9


def test_a_vocabulary_without_a_tail_has_finite_gradients_in_fp32() -> None:
    spec = TrainSpec(student="x", loss="forward_kl", temperature=2.0)
    batch = batch_of(logits(1).float(), V)
    value, gradient = value_and_gradient(lambda s: LOSSES["forward_kl"](s, batch, spec), logits(2).float())
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_sft_is_the_cross_entropy_of_the_labels() -> None:
    batch = batch_of(logits(1), 1)
    value, _ = value_and_gradient(lambda s: LOSSES["sft"](s, batch, TrainSpec(student="x")), logits(2))
    by_hand = -logits(2).log_softmax(1)[torch.arange(N), batch.labels_N].sum()
    torch.testing.assert_close(value, by_hand)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_no_targets_give_zero(loss: str) -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    batch = Batch(nothing, nothing, nothing, nothing, nothing.view(0, 1), torch.zeros(0, 1), torch.zeros(0))
    assert float(LOSSES[loss](torch.zeros(0, V), batch, TrainSpec(student="x", loss=loss))) == 0
