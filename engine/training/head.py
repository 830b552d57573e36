"""Losses from hidden states and the output head, without the logits of a whole sequence: a piece of
them at a time.

The gradients of hidden states and head are computed with the loss, piece by piece, and only scaled
in the backward pass, as Liger's and DeepSpeed's fused losses do: recomputing logits there would
double the time. Shapes: N targets, n of them in a piece, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from engine.training.cpu_kernels import linear, matmul

# (logits (n, V) in fp32 or wider, which of the N targets) -> losses (n,), right tokens ()
PieceLoss = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
Weights = Callable[..., Any]
ADDED_BYTES = (
    16 * 2**20
    # of the head's gradient are computed at a time and added up: the whole of it twice would be the
    # largest tensor
)


def lend_weights(head: nn.Module) -> None:
    """Let head(hidden, use) return use(hidden, weight, bias); head(hidden) stays what it was.

    Inside a module's own forward pass ZeRO-3 has its weights whole, and in the backward pass takes
    their gradient.
    """
    plain = head.forward

    def forward(hidden: torch.Tensor, use: Weights | None = None) -> Any:
        return (
            plain(hidden) if use is None else use(hidden, head.weight, getattr(head, "bias", None))
        )

    head.forward = forward


def pieces(rows: int, width: int, piece_bytes: int) -> Iterator[slice]:
    """Runs of rows that take at most `piece_bytes` in fp32, at least one each."""
    size = max(1, piece_bytes // (4 * width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def head_loss(
    hidden_NH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    loss: PieceLoss,
    piece_bytes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses over N targets, and how many tokens were right; differentiable in hidden,
    weight and bias."""
    return _HeadLoss.apply(hidden_NH, weight_VH, bias_V, loss, piece_bytes, torch.is_grad_enabled())


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        loss: PieceLoss,
        piece_bytes: int,
        learns: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = (hidden, weight, bias)
        wants = [learns and tensor is not None and tensor.requires_grad for tensor in tensors]
        # Sums over pieces want more than bf16 holds; the gradient of the hidden states is no sum.
        dtypes = (hidden.dtype, *[torch.promote_types(weight.dtype, torch.float32)] * 2)
        grads = [
            torch.zeros(tensor.shape, dtype=dtype, device=tensor.device) if wanted else None
            for tensor, wanted, dtype in zip(tensors, wants, dtypes, strict=True)
        ]
        totals = hidden.new_zeros(2, dtype=dtypes[1])
        for piece in pieces(len(hidden), len(weight), piece_bytes):
            grad, values = _piece(linear(hidden[piece], weight, bias), loss, piece, any(wants))
            totals += values
            if grad is not None:
                _add_gradients(grads, grad.to(weight.dtype), hidden[piece], weight, piece)
        ctx.grads = [
            None if grad is None else grad.to(tensor.dtype)
            for grad, tensor in zip(grads, tensors, strict=True)
        ]
        total, right = totals.unbind()
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        grads, ctx.grads = (
            ctx.grads,
            None,
        )  # in place: a second copy of the head's gradient would be the largest tensor here
        return (*(None if grad is None else grad.mul_(scale) for grad in grads), None, None, None)


def _piece(
    logits: torch.Tensor, loss: PieceLoss, piece: slice, learns: bool
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The gradient of a piece's logits, and (sum of losses, right tokens)."""
    with torch.set_grad_enabled(learns):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_(learns)
        losses, right = loss(logits, piece)
        total = losses.sum()
    grad = torch.autograd.grad(total, logits)[0] if learns else None
    return grad, torch.stack([total.detach(), right.to(total.dtype)])


def _add_gradients(
    grads: list[torch.Tensor | None],
    grad_logits: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    piece: slice,
) -> None:
    grad_hidden, grad_weight, grad_bias = grads
    if grad_hidden is not None:
        grad_hidden[piece] = matmul(grad_logits, weight)
    if grad_weight is not None:
        for rows in pieces(len(weight), weight.shape[1], ADDED_BYTES):
            grad_weight[rows] += matmul(grad_logits[:, rows].T, hidden)
    if grad_bias is not None:
        grad_bias += grad_logits.sum(0)
