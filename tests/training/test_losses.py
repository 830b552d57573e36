"""Losses against dense references in float64, in value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine.job.spec import AnyLoss, TrainSpec
from engine.training.losses import LOSSES, Targets, token_losses

N, V = 5, 12
DISTANCES = [name for name in LOSSES if name not in ("sft", "uld")]
BETA, SKEW, HEAD = 0.3, 0.2, 0.6


def targets_of(teacher_NV: torch.Tensor, k: int, *, live: bool = False) -> Targets:
    logprobs_NK, ids_NK = torch.log_softmax(teacher_NV.double(), 1).topk(k)
    tail_N = (1 - logprobs_NK.exp().sum(1)).clamp_min(0) if k < V else torch.zeros(N)
    signal = (signal.to(teacher_NV.dtype) for signal in (logprobs_NK, tail_N))
    return Targets(teacher_NV.argmax(1), ids_NK, *signal, teacher_NV if live else None)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


OWN: dict[str, dict[str, float]] = {
    "jsd": {"beta": BETA},
    "skew_forward_kl": {"skew": SKEW},
    "skew_reverse_kl": {"skew": SKEW},
    "adaptive_kl": {"head": HEAD},
}


def spec_of(loss: str, **more: object) -> AnyLoss:
    return TrainSpec(student="x", loss={"kind": loss, **OWN.get(loss, {}), **more}).loss


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return p * (p / q).log() - p + q  # -p + q adds up to 0 over all outcomes


def by_the_book(loss: str, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The terms (N, S) of each loss, from probabilities."""
    if loss == "adaptive_kl":
        head = torch.zeros_like(p)
        for row in range(len(p)):
            mass = 0.0
            for column in p[row].argsort(descending=True):
                if mass < HEAD:
                    head[row, column] = 1.0
                mass += float(p[row, column])
        gap = (p - q).abs().detach()
        w = (gap * head).sum(1, keepdim=True) / gap.sum(1, keepdim=True)
        return w * kl(p, q) + (1 - w) * kl(q, p)
    m = BETA * p + (1 - BETA) * q
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: BETA * kl(p, m) + (1 - BETA) * kl(q, m),
        "skew_forward_kl": lambda: kl(p, SKEW * p + (1 - SKEW) * q),
        "skew_reverse_kl": lambda: kl(q, SKEW * q + (1 - SKEW) * p),
        "tvd": lambda: (p - q).abs() / 2,
    }[loss]()


def outcomes(
    teacher_NV: torch.Tensor, student_NV: torch.Tensor, k: int, tail: str, temperature: float
) -> list[torch.Tensor]:
    """Probabilities of both sides over k tokens and the rest, at temperature 1 and then p^(1/T) /
    sum."""
    ids = teacher_NV.topk(k).indices
    sides = []
    for logits_NV in (teacher_NV, student_NV):
        kept = logits_NV.softmax(1).gather(1, ids)
        if tail != "renormalize" and k < V:
            kept = torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1)
        kept = (kept / kept.sum(1, keepdim=True)) ** (1 / temperature)
        sides.append(kept / kept.sum(1, keepdim=True))
    return sides


def reference(
    loss: str,
    teacher_NV: torch.Tensor,
    student_NV: torch.Tensor,
    k: int,
    tail: str,
    temperature: float,
) -> torch.Tensor:
    p, q = outcomes(teacher_NV, student_NV, k, tail, temperature)
    terms = by_the_book(loss, p, q)
    return temperature**2 * (terms[:, :k] if tail == "drop" else terms).sum(1)


def value_and_gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], student_NV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    student_NV = student_NV.clone().requires_grad_()
    value = loss(student_NV)
    value.sum().backward()
    return value.detach(), student_NV.grad


@pytest.mark.parametrize("loss", DISTANCES)
@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [2, 4, 11])
def test_a_stored_top_k_gives_the_dense_reference_over_its_outcomes(
    loss: str, tail: str, temperature: float, k: int
) -> None:
    spec = spec_of(loss, tail=tail, temperature=temperature)
    ours = value_and_gradient(lambda s: token_losses(s, targets_of(logits(1), k), spec), logits(2))
    theirs = value_and_gradient(
        lambda s: reference(loss, logits(1), s, k, tail, temperature), logits(2)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("loss", DISTANCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_live_teacher_gives_the_dense_reference(loss: str, temperature: float) -> None:
    spec = spec_of(loss, temperature=temperature)
    ours = value_and_gradient(
        lambda s: token_losses(s, targets_of(logits(1), 1, live=True), spec), logits(2)
    )
    theirs = value_and_gradient(
        lambda s: reference(loss, logits(1), s, V, "bucket", temperature), logits(2)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("loss", [*DISTANCES, "uld"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_teacher_taught_to_itself_has_zero_loss_and_gradient(
    loss: str, tail: str, temperature: float, dtype: torch.dtype
) -> None:
    spec = spec_of(loss, tail=tail, temperature=temperature)
    kinked = loss in ("tvd", "uld")  # |x| has no gradient at 0: any of [-1, 1] is right
    for k in (3, V):
        same = logits(1).to(dtype)
        value, gradient = value_and_gradient(
            lambda s, k=k, same=same: token_losses(s, targets_of(same, k), spec), same
        )
        assert value.abs().max() < 1e-6 * (
            temperature**2 if dtype == torch.float32 else 1
        )  # T² is a factor of fp32's rounding, too
        assert torch.isfinite(gradient).all()
        assert kinked or gradient.abs().max() < 1e-6


@pytest.mark.parametrize("loss", DISTANCES)
def test_top_k_converges_to_the_dense_loss(loss: str) -> None:
    spec = spec_of(loss)
    dense = reference(loss, logits(1), logits(2), V, "bucket", 1.0).sum()
    gaps = [
        float((dense - token_losses(logits(2), targets_of(logits(1), k), spec).sum()).abs())
        for k in (1, 3, 6, 9, 11, V)
    ]
    assert gaps[-1] < 1e-9
    assert (
        gaps[4] < 0.5 * gaps[1] < 0.5 * gaps[0] or loss == "adaptive_kl"
    )  # its weights jump as the outcomes change
    assert gaps[4] < gaps[0]
    if loss in (
        "forward_kl",
        "reverse_kl",
        "jsd",
        "tvd",
    ):  # merging outcomes can only lose an f-divergence
        assert gaps[:5] == sorted(gaps[:5], reverse=True)


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [2, 11, V])
def test_uld_is_the_distance_of_the_sorted_outcomes(tail: str, temperature: float, k: int) -> None:
    def by_size(student_NV: torch.Tensor) -> torch.Tensor:
        sides = []
        for logits_NV in (logits(1), student_NV):
            kept = logits_NV.softmax(1).sort(1, descending=True).values[:, :k]
            if tail != "renormalize" and k < V:
                kept = torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1)
            kept = (kept / kept.sum(1, keepdim=True)) ** (1 / temperature)
            sides.append(kept / kept.sum(1, keepdim=True))
        distances = (sides[0] - sides[1]).abs()
        return temperature**2 * (distances[:, :k] if tail == "drop" else distances).sum(1)

    spec = spec_of("uld", tail=tail, temperature=temperature)
    ours = value_and_gradient(lambda s: token_losses(s, targets_of(logits(1), k), spec), logits(2))
    torch.testing.assert_close(ours, value_and_gradient(by_size, logits(2)), rtol=1e-7, atol=1e-8)


def test_uld_converges_to_the_distance_of_the_sorted_vocabularies() -> None:
    p, q = (logits(seed).softmax(1).sort(1, descending=True).values for seed in (1, 2))
    dense = (p - q).abs().sum()
    gaps = [
        float(
            (dense - token_losses(logits(2), targets_of(logits(1), k), spec_of("uld")).sum()).abs()
        )
        for k in (1, 4, 8, V)
    ]
    assert gaps[-1] < 1e-9
    assert gaps == sorted(gaps, reverse=True)
    shuffled = logits(1)[
        :, torch.randperm(V, generator=torch.Generator().manual_seed(0))
    ]  # other tokens, the same sizes
    assert token_losses(shuffled, targets_of(logits(1), 4), spec_of("uld")).abs().max() < 1e-9


@pytest.mark.parametrize("loss", [*DISTANCES, "uld"])
@pytest.mark.parametrize("k", [3, V])
def test_a_tail_rounded_to_nothing_stays_finite_in_fp32(loss: str, k: int) -> None:
    seen = targets_of(logits(1).float(), k)
    seen = Targets(
        seen.labels_N, seen.topk_ids_NK, seen.topk_logprobs_NK, torch.zeros(N)
    )  # float16 log-probabilities can add up to 1
    value, gradient = value_and_gradient(
        lambda s: token_losses(s, seen, spec_of(loss, temperature=2.0)), logits(2).float()
    )
    assert torch.isfinite(value).all()
    assert value.max() < 50
    assert torch.isfinite(gradient).all()


def test_sft_is_the_cross_entropy_of_the_labels() -> None:
    targets = targets_of(logits(1), 1)
    value, gradient = value_and_gradient(
        lambda s: token_losses(s, targets, spec_of("sft")), logits(2)
    )
    torch.testing.assert_close(value, -logits(2).log_softmax(1)[torch.arange(N), targets.labels_N])
    torch.testing.assert_close(
        gradient, logits(2).softmax(1) - torch.nn.functional.one_hot(targets.labels_N, V)
    )


def test_a_weighted_sum_with_sft() -> None:
    targets, spec = targets_of(logits(1), 4), spec_of("jsd", sft_weight=0.25)
    parts = [LOSSES[name](logits(2), targets, spec) for name in ("jsd", "sft")]
    torch.testing.assert_close(
        token_losses(logits(2), targets, spec), 0.75 * parts[0] + 0.25 * parts[1]
    )


@pytest.mark.parametrize("loss", [*DISTANCES, "uld"])
def test_a_target_without_a_signal_learns_its_token_alone(loss: str) -> None:
    seen = targets_of(logits(1), 4)
    masked = Targets(
        seen.labels_N,
        seen.topk_ids_NK,
        seen.topk_logprobs_NK,
        seen.tail_N.index_fill(0, torch.tensor([2]), -1.0),
    )
    whole, part = (
        token_losses(logits(2), t, spec_of(loss, sft_weight=0.5)) for t in (seen, masked)
    )
    assert torch.equal(whole[[0, 1, 3, 4]], part[[0, 1, 3, 4]])
    torch.testing.assert_close(part[2], 0.5 * LOSSES["sft"](logits(2), seen, spec_of(loss))[2])


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_no_targets_give_no_losses(loss: str) -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    targets = Targets(nothing, nothing.view(0, 1), torch.zeros(0, 1), torch.zeros(0))
    assert token_losses(torch.zeros(0, V), targets, spec_of(loss)).shape == (0,)
