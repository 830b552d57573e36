"""What the student learns from: one function per loss, in one table. Pure torch, summed over the N targets of a batch.

Shapes: N targets, V vocabulary, K captured tokens per target. A loss sees logits at target positions only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from engine.spec import TrainSpec
from engine.stages.train.blocks import Batch

# Logit of what has no probability: exp() of it is 0, and unlike -inf it has no NaN gradients.
_NOTHING = -1e9


def sft(logits_NV: torch.Tensor, batch: Batch, spec: TrainSpec) -> torch.Tensor:
    """Cross-entropy with the teacher's tokens, in nats, summed over targets."""
    return F.cross_entropy(logits_NV, batch.labels_N, reduction="sum")


def forward_kl(logits_NV: torch.Tensor, batch: Batch, spec: TrainSpec) -> torch.Tensor:
    """T² · KL(teacher || student) in nats on the captured top-k, summed over targets (Hinton et al. 2015 for T²).

    `tail: bucket` compares (K+1)-bucket distributions built at temperature 1; `renormalize` compares the top-k alone.
    Temperature acts on those: p_i^(1/T) / Σ.
    """
    student = logits_NV.gather(1, batch.topk_ids_NK)
    teacher = batch.topk_logprobs_NK.to(logits_NV.dtype)
    if spec.tail == "bucket":
        # Logits of a bucket are the logsumexp of its tokens, so softmax over buckets is the bucket distribution.
        rest_N1 = logits_NV.scatter(1, batch.topk_ids_NK, _NOTHING).logsumexp(1, keepdim=True)
        tail_N1 = batch.tail_N.to(logits_NV.dtype).unsqueeze(1)
        student = torch.cat([student, rest_N1], 1)
        teacher = torch.cat([teacher, torch.where(tail_N1 > 0, tail_N1.clamp_min(1e-30).log(), _NOTHING)], 1)
    student, teacher = (F.log_softmax(side / spec.temperature, 1) for side in (student, teacher))
    return spec.temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


LOSSES: dict[str, Callable[[torch.Tensor, Batch, TrainSpec], torch.Tensor]] = {
    "sft": sft,
    "forward_kl": forward_kl,
}
