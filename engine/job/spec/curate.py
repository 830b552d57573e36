"""The block `curate`: what is worth learning from."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from engine.job.spec.base import Block, identity, placement
from engine.job.spec.curation import (
    BalanceSpec,
    DecontaminateSpec,
    DifficultySpec,
    MajoritySpec,
    NearDuplicatesSpec,
    PiiSpec,
    SelectSpec,
)
from engine.job.spec.judge import CurateJudgeSpec
from engine.job.spec.verify import VerifySpec

_LANGUAGE = re.compile(r"[a-z]{2}")


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
    languages: list[str] | None = identity(None, min_length=1)
    """Drop answers in other languages (ISO 639-1, such as en); those too short to tell stay."""
    repetition: float | None = identity(None, ge=0, lt=1)
    """Drop answers of whose words more than this share stands in a run of five that the answer has
    more than once, such as 0.3."""
    refusals: Literal["flag", "drop"] | None = identity(None)
    """Answers that are nothing but a refusal: dropped, or only marked in the verdicts."""
    pii: PiiSpec | None = identity(None)
    """What happens to personal data; none: it is not looked for."""
    decontaminate: DecontaminateSpec | None = identity(None)
    """Drop answers that hold test data; none: nothing is compared."""
    majority: MajoritySpec | None = identity(None)
    """Keep what most samples agree on, of prompts without a reference."""
    difficulty: DifficultySpec | None = identity(None)
    """Keep prompts that are neither too hard nor too easy."""
    judge: CurateJudgeSpec | None = identity(None)
    """A model that grades what the rules above left; none: nobody is asked."""
    select: SelectSpec | None = identity(None)
    """Keep the best answers of a prompt; none: all of them."""
    near_duplicates: NearDuplicatesSpec | None = identity(None)
    """Of examples that are nearly the same keep one; none: only equal answers to one prompt go."""
    balance: BalanceSpec | None = identity(None)
    """Cap what there is most of."""
    workers: int | None = placement(None, ge=1)
    """Files that are worked on at a time, by processes or the cluster's tasks; none: as many as
    there are processors."""

    @field_validator("languages")
    @classmethod
    def _languages_are_codes(cls, languages: list[str] | None) -> list[str] | None:
        if languages is None:
            return None
        for code in languages:
            if not _LANGUAGE.fullmatch(code):
                raise ValueError(
                    f"curate.languages={code!r}; give codes of two letters (ISO 639-1), such as en"
                )
        return sorted(set(languages))

    @model_validator(mode="after")
    def _the_best_are_known_by_something(self) -> CurateSpec:
        by = self.select.by if self.select else []
        graded = [name for name in by if name in ("score", "judge")]
        if graded and self.judge is None:
            raise ValueError(
                f"curate.select.by={graded[0]} goes by a judge, and curate.judge names none; name"
                " one, or choose correct and shorter"
            )
        if len(graded) > 1:
            raise ValueError(
                f"curate.select.by={by} goes by the judge's grades (score) and by its votes on"
                " pairs (judge); choose one of them"
            )
        return self

    @property
    def checks_answers(self) -> bool:
        """Whether it must be known which answers are right."""
        by = self.select.by if self.select else []
        return self.check_reference or self.difficulty is not None or "correct" in by

    def sources(self) -> list[str]:
        """Files and models whose content decides the result."""
        sources = list(self.decontaminate.against) if self.decontaminate else []
        if self.judge is not None:
            sources += [self.judge.rubric, self.judge.teacher.model]
        return sources
