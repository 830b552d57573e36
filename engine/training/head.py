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
from torch import Tensor, nn

from engine.training.cpu_kernels import linear, matmul

# (logits (n, V) in fp32 or wider, which of the N targets) -> losses (n,), right tokens ()
PieceLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
Weights = Callable[..., Any]
# So much of the head's gradient is computed at a time and added up: the whole of it twice would be
# the largest tensor.
ADDED_BYTES = 16 * 2**20


def lend_weights(head: nn.Module) -> None:
    """Let head(hidden, use) return use(hidden, weight, bias); head(hidden) stays what it was.

    Inside a module's own forward pass ZeRO-3 has its weights whole, and in the backward pass takes
    their gradient.
    """
    plain = head.forward

    def forward(hidden: Tensor, use: Weights | None = None) -> Any:
        if use is None:
            return plain(hidden)
        return use(hidden, head.weight, getattr(head, "bias", None))

    head.forward = forward


def pieces(rows: int, width: int, piece_bytes: int) -> Iterator[slice]:
    """Runs of rows that take at most `piece_bytes` in fp32, at least one each."""
    size = max(1, piece_bytes // (4 * width))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def head_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    loss: PieceLoss,
    piece_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Sum of the losses over N targets, and how many tokens were right; differentiable in hidden,
    weight and bias."""
    return _HeadLoss.apply(hidden_NH, weight_VH, bias_V, loss, piece_bytes, torch.is_grad_enabled())


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: PieceLoss,
        piece_bytes: int,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        # Sums over pieces want more than bf16 holds; the gradient of the hidden states is no sum.
        wide = torch.promote_types(weight.dtype, torch.float32)
        grads: list[Tensor | None] = [None, None, None]
        if learns:
            grads = [_zeros(hidden, hidden.dtype), _zeros(weight, wide), _zeros(bias, wide)]
        wanted = any(grad is not None for grad in grads)
        totals = hidden.new_zeros(2, dtype=wide)
        for piece in pieces(len(hidden), len(weight), piece_bytes):
            grad, values = _piece(linear(hidden[piece], weight, bias), loss, piece, wanted)
            totals += values
            if grad is not None:
                _add_gradients(grads, grad.to(weight.dtype), hidden[piece], weight, piece)
        ctx.grads = []
        for grad, tensor in zip(grads, (hidden, weight, bias), strict=True):
            if grad is not None and tensor is not None:
                grad = grad.to(tensor.dtype)
            ctx.grads.append(grad)
        total, right = totals.unbind()
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        scale, _ = grad_outputs
        grads = ctx.grads
        ctx.grads = None
        for grad in grads:
            if grad is not None:
                grad.mul_(scale)  # a second copy of the head's would be the largest tensor here
        return (*grads, None, None, None)


def _zeros(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Where the gradient of `tensor` adds up, if it has one."""
    if tensor is None or not tensor.requires_grad:
        return None
    return torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)


def _piece(
    logits: Tensor, loss: PieceLoss, piece: slice, learns: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of a piece's logits, and (sum of losses, right tokens)."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    with torch.set_grad_enabled(learns):
        logits = logits.to(wide).requires_grad_(learns)
        losses, right = loss(logits, piece)
        total = losses.sum()
    grad = None
    if learns:
        (grad,) = torch.autograd.grad(total, logits)
    return grad, torch.stack([total.detach(), right.to(total.dtype)])


def _add_gradients(
    grads: list[Tensor | None],
    grad_logits: Tensor,
    hidden: Tensor,
    weight: Tensor,
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
