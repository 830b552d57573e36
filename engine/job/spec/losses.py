"""What `train.loss` may be: one block per kind, each with the fields that this loss reads."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.job.spec.base import Block, identity


class AnyLoss(Block):
    """What every loss has."""

    reads_signal: ClassVar[bool] = True  # the teacher's distribution, stored or live

    kind: str = identity()
    """Which loss it is."""


class SftLoss(AnyLoss):
    """Cross-entropy with the teacher's tokens."""

    reads_signal: ClassVar[bool] = False

    kind: Literal["sft"] = identity("sft")
    """Learns the teacher's text alone."""
    learn_turns: Literal["last", "all"] = identity("last")
    """Assistant turns that are learnt: the teacher's answer, or those in the prompt too."""


class DistributionLoss(AnyLoss):
    """A divergence between the teacher's distribution and the student's."""

    sft_weight: float = identity(0.0, ge=0, lt=1)
    """Share of `sft` beside this loss: (1 - w) * loss + w * sft."""
    temperature: float = identity(1.0, gt=0, le=20)
    """Temperature of both distributions; the loss is scaled by its square."""
    tail: Literal["bucket", "renormalize", "drop"] = identity("bucket")
    """Mass outside the captured top-k: one bucket more, renormalised away, or a bucket that the
    loss leaves out. A live teacher has no tail."""


class ForwardKlLoss(DistributionLoss):
    """KL(teacher || student)."""

    kind: Literal["forward_kl"] = identity("forward_kl")
    """The student covers all that the teacher does."""


class ReverseKlLoss(DistributionLoss):
    """KL(student || teacher)."""

    kind: Literal["reverse_kl"] = identity("reverse_kl")
    """The student keeps to what the teacher does."""


class JsdLoss(DistributionLoss):
    """Generalised Jensen-Shannon divergence."""

    kind: Literal["jsd"] = identity("jsd")
    """Both against their mixture."""
    beta: float = identity(0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture."""


class SkewForwardKlLoss(DistributionLoss):
    """KL(teacher || mixture of both)."""

    kind: Literal["skew_forward_kl"] = identity("skew_forward_kl")
    """forward_kl against a student into which some of the teacher is mixed."""
    skew: float = identity(0.1, gt=0, lt=1)
    """Share of the teacher in the mixture."""


class SkewReverseKlLoss(DistributionLoss):
    """KL(student || mixture of both)."""

    kind: Literal["skew_reverse_kl"] = identity("skew_reverse_kl")
    """reverse_kl against a teacher into which some of the student is mixed."""
    skew: float = identity(0.1, gt=0, lt=1)
    """Share of the student in the mixture."""


class AdaptiveKlLoss(DistributionLoss):
    """Forward and reverse KL, weighed by where the two distributions differ."""

    kind: Literal["adaptive_kl"] = identity("adaptive_kl")
    """Forward where the head differs, reverse where the rest does."""
    head: float = identity(0.5, gt=0, lt=1)
    """Probability mass of the teacher's largest tokens that counts as the head."""


class TvdLoss(DistributionLoss):
    """Total variation distance."""

    kind: Literal["tvd"] = identity("tvd")
    """Half of the summed differences of probability."""


class UldLoss(DistributionLoss):
    """Distance of sorted probabilities, for teachers with another tokenizer."""

    kind: Literal["uld"] = identity("uld")
    """Compares probabilities by size, whatever their tokens."""


LossSpec = Annotated[
    SftLoss
    | ForwardKlLoss
    | ReverseKlLoss
    | JsdLoss
    | SkewForwardKlLoss
    | SkewReverseKlLoss
    | AdaptiveKlLoss
    | TvdLoss
    | UldLoss,
    Field(discriminator="kind"),
]
