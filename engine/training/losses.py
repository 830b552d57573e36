"""What the student learns from: one function per loss, in one table. Pure torch, per target;
nothing here sums or averages.

A loss compares two distributions over the same S outcomes, the teacher's p and the student's q,
both as log-probabilities of shape (N, S). Outcomes are the whole vocabulary where the teacher is
live, else its K stored tokens and what `tail` makes of the mass outside them. Both sides are built
at temperature 1; temperature T then acts on the outcomes, p_i^(1/T) / Σ, and the loss is scaled by
T² (Hinton et al. 2015, arXiv 1503.02531), so that its gradients keep their size.

Shapes: N targets, V vocabulary, K stored tokens per target, S outcomes. Losses are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.job.spec import (
    AdaptiveKlLoss,
    AnyLoss,
    DistributionLoss,
    JsdLoss,
    SkewForwardKlLoss,
    SkewReverseKlLoss,
)

# Logit of what has no probability: exp() of it is 0, and unlike -inf it has no NaN gradients.
_NOTHING = -1e9
# A float32 sum of probabilities is this far off. A tail of exactly 0 would make KL(student ||
# teacher) infinite.
_LEAST_TAIL = 1e-7


@dataclass(frozen=True)
class Targets:
    """What N positions learn from: the teacher's tokens, and its stored top-k or (teacher_NV) the
    logits of a live one.

    A tail of -1 marks a target without a signal: its divergence counts 0, its cross-entropy stays.
    """

    labels_N: Tensor
    topk_ids_NK: Tensor
    topk_logprobs_NK: Tensor
    tail_N: Tensor
    teacher_NV: Tensor | None = None


# Each takes the block of its own kind.
Loss = Callable[[Tensor, Targets, Any], Tensor]  # (logits_NV, …) -> (N,)
Terms = Callable[[Tensor, Tensor, Any], Tensor]  # (p, q, …) -> (N, S)


def token_losses(logits_NV: Tensor, targets: Targets, spec: AnyLoss) -> Tensor:
    """The job's loss of each target, shape (N,): `(1 - sft_weight) * loss + sft_weight * sft`."""
    losses_N = LOSSES[spec.kind](logits_NV, targets, spec)
    if isinstance(spec, DistributionLoss) and spec.sft_weight:
        plain_N = sft(logits_NV, targets, spec)
        losses_N = (1 - spec.sft_weight) * losses_N + spec.sft_weight * plain_N
    return losses_N


def sft(logits_NV: Tensor, targets: Targets, spec: AnyLoss) -> Tensor:
    """Cross-entropy with the teacher's tokens, -log q(label): sequence-level distillation (Kim &
    Rush 2016, arXiv 1606.07947)."""
    return F.cross_entropy(logits_NV, targets.labels_N, reduction="none")


def forward_kl(p: Tensor, q: Tensor, spec: DistributionLoss) -> Tensor:
    """KL(p || q) = Σ p (log p - log q): the student covers all that the teacher does (Hinton et al.
    2015, arXiv 1503.02531)."""
    terms = p.exp() * (p - q)
    if spec.tail == "drop":
        # Over all outcomes this adds 0. Over some of them it keeps each term >= 0, with its minimum
        # where p = q (Csiszar's I-divergence).
        terms = terms - p.exp() + q.exp()
    return terms


def reverse_kl(p: Tensor, q: Tensor, spec: DistributionLoss) -> Tensor:
    """KL(q || p) = Σ q (log q - log p): the student keeps to what the teacher does (MiniLLM, Gu et
    al. 2024, arXiv 2306.08543)."""
    return forward_kl(q, p, spec)


def jsd(p: Tensor, q: Tensor, spec: JsdLoss) -> Tensor:
    """β KL(p || m) + (1 - β) KL(q || m), m = β p + (1 - β) q, β = beta (GKD, Agarwal et al.
    2024, arXiv 2306.13649)."""
    beta = spec.beta
    m = _mixture(p, q, beta)
    return beta * forward_kl(p, m, spec) + (1 - beta) * forward_kl(q, m, spec)


def skew_forward_kl(p: Tensor, q: Tensor, spec: SkewForwardKlLoss) -> Tensor:
    """KL(p || α p + (1 - α) q), α = skew (DistiLLM, Ko et al. 2024, arXiv 2402.03898)."""
    return forward_kl(p, _mixture(p, q, spec.skew), spec)


def skew_reverse_kl(p: Tensor, q: Tensor, spec: SkewReverseKlLoss) -> Tensor:
    """KL(q || α q + (1 - α) p), α = skew (DistiLLM, Ko et al. 2024, arXiv 2402.03898)."""
    return forward_kl(q, _mixture(q, p, spec.skew), spec)


def adaptive_kl(p: Tensor, q: Tensor, spec: AdaptiveKlLoss) -> Tensor:
    """w KL(p || q) + (1 - w) KL(q || p), w the head's share of Σ |p - q| (AKL, Wu et al. 2025,
    arXiv 2404.02657).

    The head are the teacher's largest outcomes, up to the one at which their mass reaches
    adaptive_head. w has no gradient.
    """
    with torch.no_grad():
        sizes, order = p.exp().sort(1, descending=True)
        larger = sizes.cumsum(1) - sizes
        in_head = (larger < spec.head).to(p.dtype)
        theirs = q.exp().gather(1, order)
        gaps = (sizes - theirs).abs()
        total = gaps.sum(1, keepdim=True)
        of_head = (gaps * in_head).sum(1, keepdim=True)
        tiny = torch.finfo(p.dtype).tiny
        w = torch.where(total > 0, of_head / total.clamp_min(tiny), 0.5)
    return w * forward_kl(p, q, spec) + (1 - w) * reverse_kl(p, q, spec)


def tvd(p: Tensor, q: Tensor, spec: DistributionLoss) -> Tensor:
    """½ Σ |p - q|, the total variation distance (f-DISTILL, Wen et al. 2023, arXiv 2307.15190)."""
    return 0.5 * (p.exp() - q.exp()).abs()


def uld(logits_NV: Tensor, targets: Targets, spec: DistributionLoss) -> Tensor:
    """Σ_i |p_(i) - q_(i)| over probabilities sorted by size, whatever their tokens (ULD, Boizard et
    al. 2025, arXiv 2402.12030).

    For teachers with another tokenizer, at the targets that start where a teacher's token starts
    (alignment.py). The sum runs over the K largest of each side; `tail` decides about the rest.
    """
    k = targets.topk_ids_NK.shape[1]
    likeliest_NK = logits_NV.detach().topk(k, dim=1).indices
    q = _student(logits_NV, likeliest_NK, spec)
    sorted_NK = targets.topk_logprobs_NK.sort(1, descending=True).values
    p = _teacher(sorted_NK, targets.tail_N, logits_NV, spec)
    return _weighed((p.exp() - q.exp()).abs(), targets, spec)


def _between_distributions(terms: Terms) -> Loss:
    """A loss over logits and targets from one over two distributions, whose terms (N, S) add up to
    it."""

    def loss(logits_NV: Tensor, targets: Targets, spec: DistributionLoss) -> Tensor:
        if targets.teacher_NV is not None:
            p = F.log_softmax(targets.teacher_NV / spec.temperature, 1)
            q = F.log_softmax(logits_NV / spec.temperature, 1)
            return spec.temperature**2 * terms(p, q, spec).sum(1)
        q = _student(logits_NV, targets.topk_ids_NK, spec)
        p = _teacher(targets.topk_logprobs_NK, targets.tail_N, logits_NV, spec)
        return _weighed(terms(p, q, spec), targets, spec)

    return loss


LOSSES: dict[str, Loss] = {
    "sft": sft,
    "forward_kl": _between_distributions(forward_kl),
    "reverse_kl": _between_distributions(reverse_kl),
    "jsd": _between_distributions(jsd),
    "skew_forward_kl": _between_distributions(skew_forward_kl),
    "skew_reverse_kl": _between_distributions(skew_reverse_kl),
    "adaptive_kl": _between_distributions(adaptive_kl),
    "tvd": _between_distributions(tvd),
    "uld": uld,
}


def _mixture(a: Tensor, b: Tensor, share: float) -> Tensor:
    """log(share * exp(a) + (1 - share) * exp(b))."""
    shares = torch.tensor([share, 1 - share], dtype=a.dtype, device=a.device)
    of_a, of_b = shares.log()
    return torch.logaddexp(a + of_a, b + of_b)


def _has_rest(kept: int, vocabulary: int, spec: DistributionLoss) -> bool:
    return spec.tail != "renormalize" and kept < vocabulary


def _student(logits_NV: Tensor, ids_NK: Tensor, spec: DistributionLoss) -> Tensor:
    """The student's log-probabilities of these tokens and, unless the tail is renormalised away, of
    all others as one outcome."""
    kept = logits_NV.gather(1, ids_NK)
    if _has_rest(ids_NK.shape[1], logits_NV.shape[1], spec):
        # An outcome's logit is the logsumexp of its tokens', so a softmax over outcomes is their
        # distribution.
        others_NV = logits_NV.scatter(1, ids_NK, _NOTHING)
        rest_N1 = others_NV.logsumexp(1, keepdim=True)
        kept = torch.cat([kept, rest_N1], 1)
    return F.log_softmax(kept / spec.temperature, 1)


def _teacher(
    topk_logprobs_NK: Tensor, tail_N: Tensor, logits_NV: Tensor, spec: DistributionLoss
) -> Tensor:
    """The teacher's log-probabilities of the same outcomes."""
    kept = topk_logprobs_NK.to(logits_NV.dtype)
    if _has_rest(kept.shape[1], logits_NV.shape[1], spec):
        rest_N = tail_N.to(kept.dtype).clamp_min(_LEAST_TAIL).log()
        kept = torch.cat([kept, rest_N.unsqueeze(1)], 1)
    return F.log_softmax(kept / spec.temperature, 1)


def _weighed(terms_NS: Tensor, targets: Targets, spec: DistributionLoss) -> Tensor:
    """T² times the sum of the terms: `tail: drop` leaves the rest's term out, and targets without a
    signal count 0."""
    if spec.tail == "drop":
        k = targets.topk_ids_NK.shape[1]
        terms_NS = terms_NS[:, :k]
    return spec.temperature**2 * terms_NS.sum(1) * (targets.tail_N >= 0)
