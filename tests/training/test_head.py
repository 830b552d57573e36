"""The loss in pieces against the same loss over whole logits, and what is never in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.job.spec import TrainSpec
from engine.training.head import head_loss, lend_weights, pieces
from engine.training.losses import LOSSES, Targets, token_losses

N, V, H, K = 23, 40, 8, 5


class LargestTensor(TorchDispatchMode):
    """The most numbers that any tensor made inside holds."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def targets(dtype: torch.dtype) -> Targets:
    teacher = torch.randn(N, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
    logprobs, ids = teacher.log_softmax(1).topk(K)
    return Targets(
        teacher.argmax(1), ids, logprobs.to(dtype), (1 - logprobs.exp().sum(1)).to(dtype)
    )


def weights(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Hidden states, head and bias."""
    draw = torch.Generator().manual_seed(1)
    return [
        torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((N, H), (V, H), (V,))
    ]


def loss_of(name: str, seen: Targets) -> Any:
    mixed = {} if name == "sft" else {"sft_weight": 0.2, "temperature": 1.5}
    spec = TrainSpec(student="x", loss={"kind": name, **mixed}).loss

    def loss(logits: torch.Tensor, piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
        part = Targets(
            *(
                getattr(seen, field)[piece]
                for field in ("labels_N", "topk_ids_NK", "topk_logprobs_NK", "tail_N")
            )
        )
        return token_losses(logits, part, spec), (logits.argmax(1) == part.labels_N).sum()

    return loss


def dense(
    name: str, tensors: list[torch.Tensor], seen: Targets
) -> tuple[torch.Tensor, torch.Tensor]:
    losses, right = loss_of(name, seen)(F.linear(*tensors), slice(0, N))
    return losses.sum(), right


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_pieces_give_the_loss_and_the_gradients_of_whole_logits(name: str, rows: int) -> None:
    seen, ours, theirs = targets(torch.float64), weights(), weights()
    total, right = head_loss(*ours, loss_of(name, seen), piece_bytes=rows * 4 * V)
    (total * 0.25).backward()
    expected, expected_right = dense(name, theirs, seen)
    (expected * 0.25).backward()
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    assert int(right) == int(expected_right)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_bf16_heads_add_up_their_gradient_in_fp32() -> None:
    seen, ours, exact = targets(torch.float32), weights(torch.bfloat16), weights()
    for wide, narrow in zip(exact, ours, strict=True):
        wide.data.copy_(narrow.data)
    total, _ = head_loss(
        *ours, loss_of("forward_kl", seen), piece_bytes=4 * V
    )  # a piece per target: 23 sums
    total.backward()
    expected, _ = dense("forward_kl", exact, targets(torch.float64))
    expected.backward()
    torch.testing.assert_close(total.double(), expected, rtol=2e-2, atol=0)
    assert ours[1].grad.dtype == torch.bfloat16
    torch.testing.assert_close(ours[1].grad.double(), exact[1].grad, rtol=2e-2, atol=2e-2)


def test_a_frozen_head_takes_no_gradient_and_validation_none_at_all() -> None:
    seen, (hidden, head, bias) = targets(torch.float64), weights()
    total, _ = head_loss(
        hidden, head.requires_grad_(False), bias.requires_grad_(False), loss_of("sft", seen), 4 * V
    )
    total.backward()
    assert hidden.grad is not None
    assert head.grad is None
    with torch.no_grad():
        again, _ = head_loss(hidden, head, bias, loss_of("sft", seen), 4 * V)
    assert not again.requires_grad
    torch.testing.assert_close(again, total.detach())


def test_logits_exist_a_piece_at_a_time() -> None:
    seen, tensors = targets(torch.float64), weights()
    with LargestTensor() as watched:
        head_loss(*tensors, loss_of("forward_kl", seen), piece_bytes=2 * 4 * V)[0].backward()
    assert watched.largest == V * H  # the head and its gradient; logits would be N * V
    assert V * H < N * V


def test_no_targets_cost_nothing_and_give_zero_gradients() -> None:
    hidden, head, bias = weights()
    total, right = head_loss(hidden[:0], head, bias, loss_of("sft", targets(torch.float64)), 64)
    total.backward()
    assert (total.item(), right.item()) == (0, 0)
    assert not head.grad.any()


def test_pieces_cover_all_targets_within_the_bound() -> None:
    assert list(pieces(10, 100, 4 * 100 * 4)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(pieces(2, 100, 1)) == [slice(0, 1), slice(1, 2)]
    assert not list(pieces(0, 100, 1))


def test_a_head_lends_its_weights_and_still_gives_logits() -> None:
    head = nn.Linear(H, V)
    plain = head(torch.ones(1, H))
    lend_weights(head)
    assert torch.equal(head(torch.ones(1, H)), plain)
    assert head(
        torch.ones(1, H), lambda hidden, weight, bias: (weight is head.weight, bias is head.bias)
    ) == (True, True)
