"""The block `verify`: when an answer counts as right."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from engine.job.spec.base import Block, identity

_QA = re.compile(r"contains|exact|f1>=(0?\.\d+|1(\.0*)?)")


class VerifySpec(Block):
    """How an answer is compared with the references, by task."""

    math: Literal["rules+math_verify", "rules"] = identity("rules+math_verify")
    """Rules decide where both are plain numbers; the rest is asked of math-verify, or counts as
    `unverified`."""
    timeout_s: float = identity(2.0, gt=0, le=60)
    """Seconds of processor time that math-verify may take for one answer; what takes longer is
    `unverified`."""
    qa: str | None = identity(None)
    """`contains`: the reference stands in the answer; `exact`: it is the answer; `f1>=0.5`: that
    share of words in common. None: `contains` for references of at most six words, and no check
    of longer ones."""

    @field_validator("qa")
    @classmethod
    def _qa_is_a_rule(cls, rule: str | None) -> str | None:
        if rule is not None and not _QA.fullmatch(rule):
            raise ValueError(
                f"verify.qa={rule!r}; choose contains, exact, or f1>= with a number from 0 to 1,"
                " such as f1>=0.5"
            )
        return rule
