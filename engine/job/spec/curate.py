"""The block `curate`: what is worth learning from."""

from __future__ import annotations

from typing import Literal

from engine.job.spec.base import Block, identity
from engine.job.spec.verify import VerifySpec


class CurateSpec(Block):
    """Completions -> examples: keep, or drop with a reason."""

    min_tokens: int = identity(1, ge=0)
    """Shortest answer kept, in tokens."""
    max_tokens: int | None = identity(None, ge=1)
    """Longest answer kept, in tokens."""
    keep_truncated: bool = identity(False)
    """Keep answers that ran into max_tokens; a student taught by them learns not to stop."""
    dedup: Literal["exact", "none"] = identity("exact")
    """Drop answers to the same prompt that are equal to an earlier one."""
    check_reference: bool = identity(True)
    """Drop answers whose final answer is none of the references, where the task has one to
    compare."""
    verify: VerifySpec = identity(VerifySpec())
    """How they are compared."""
