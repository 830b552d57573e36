"""Blocks inside `curate`: choice among answers, near twins, leaks, privacy and balance."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from engine.job.spec.base import Block, identity, placement

PiiKind = Literal[
    "secret",
    "email",
    "iban",
    "wallet",
    "card",
    "resident_id",
    "aadhaar",
    "cpf",
    "ssn",
    "phone",
    "mac_address",
    "ip_address",
    "pan",
    "dni",
]
_BY = re.compile(r"label|source|language|length|difficulty|meta\.\w+")


class SelectSpec(Block):
    """The best answers of each prompt."""

    per_prompt: int = identity(1, ge=1)
    """How many stay of one prompt."""
    by: list[Literal["correct", "score", "judge", "shorter"]] = identity(
        ["correct", "shorter"], min_length=1
    )
    """What makes one answer better than another, the first difference counts: that it is known to
    be right, the judge's grade (`score`) or its votes on pairs of them (`judge`), fewer tokens.
    What is equal in all is drawn by lot."""
    across: Literal["teachers"] | None = identity(None)
    """`teachers`: the answers of all teachers to a prompt are one group, for `majority` and
    `difficulty` too; none: those of each teacher."""


class MajoritySpec(Block):
    """Of prompts without a reference: the answer that most samples agree on."""

    min_agreement: float = identity(0.5, gt=0, le=1)
    """Share of the answers to a prompt that must state the same; else all of them go."""


class DifficultySpec(Block):
    """Prompts by the share of their answers that are right."""

    keep: list[float] = identity([0.1, 0.9], min_length=2, max_length=2)
    """[lowest, highest] share of right answers; prompts outside are too hard or too easy. What was
    cut, looped or is empty counts as not right."""

    @field_validator("keep")
    @classmethod
    def _shares_rise(cls, keep: list[float]) -> list[float]:
        lowest, highest = keep
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(
                f"curate.difficulty.keep={keep}; give [lowest, highest] between 0 and 1, such as"
                " [0.1, 0.9]"
            )
        return keep


class NearDuplicatesSpec(Block):
    """Examples that are nearly the same as another."""

    of: Literal["example", "answer", "prompt"] = identity("example")
    """What is compared, between different prompts: the last message with its answer, or either
    alone."""
    jaccard: float = identity(0.8, gt=0, le=1)
    """Share of word 5-grams in common from which two are twins."""


class DecontaminateSpec(Block):
    """What models are tested on must not be taught. The validation prompts are always among it."""

    against: list[str] = placement([])
    """Files of test data (JSONL, Parquet, CSV; * is allowed). Of each row counts what is asked, not
    its answer. Their content is part of the identity."""
    coverage: float = identity(0.3, gt=0, le=1)
    """Share of a test item's rare word 5-grams that stand in a text, from which it counts as
    leaked."""


class PiiSpec(Block):
    """Personal data in answers, thoughts and prompts, found by rules and checksums."""

    kinds: list[PiiKind] = identity([])
    """Which kinds; none: all of them."""
    action: Literal["drop", "redact", "flag"] = identity("drop")
    """`redact` puts [EMAIL] and the like in their place, and takes the teacher's tokens and signal
    off that example; `flag` only writes it into the verdicts."""


class BalanceSpec(Block):
    """No group of examples grows too large."""

    by: str = identity()
    """label, source, language, length, difficulty, or meta.<field> of the prompt."""
    most: int | dict[str, int] | None = identity(None)
    """Examples of each group, or of those that are named."""
    share: float | dict[str, float] | None = identity(None)
    """The same as a share of all examples that stay."""

    @field_validator("by")
    @classmethod
    def _groups_are_known(cls, by: str) -> str:
        if not _BY.fullmatch(by):
            raise ValueError(
                f"curate.balance.by={by!r}; choose label, source, language, length, difficulty, or"
                " meta.<field>, such as meta.topic"
            )
        return by

    @model_validator(mode="after")
    def _there_is_a_bound(self) -> BalanceSpec:
        if self.most is None and self.share is None:
            raise ValueError(
                "curate.balance has no bound; give most (examples of a group, such as 5000) or"
                " share (of all, such as 0.4)"
            )
        for name, bound in (("most", self.most), ("share", self.share)):
            given = bound.values() if isinstance(bound, dict) else [bound]
            for value in given:
                if value is not None and value <= 0:
                    raise ValueError(f"curate.balance.{name}={value}; give more than 0")
                if name == "share" and value is not None and value >= 1:
                    raise ValueError(f"curate.balance.share={value}; give less than 1")
        return self
