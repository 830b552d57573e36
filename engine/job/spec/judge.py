"""The block `judge`: a model that says which answer is better, or how good one is."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator, model_validator

from engine.job.spec.base import Block, identity, placement
from engine.job.spec.generate import AskingSpec
from engine.job.spec.teachers import PriceSpec, SamplingSpec, TeacherSpec, VllmTeacherSpec

_THRESHOLD = re.compile(r">=\s*(\d+(?:\.\d+)?)")


class AskedJudgeSpec(Block):
    """A model that judges answers by a rubric, and how it is asked."""

    teacher: TeacherSpec = identity()
    """Who judges: any kind of teacher, other than the student and better not the teacher itself. It
    answers greedily."""
    rubric: str = placement()
    """Text file that says what a good answer is. Its content is part of the identity; how verdicts
    are written is added to it."""
    references: bool = identity(True)
    """Show the right answers of a prompt that has some."""
    max_tokens: int = identity(1024, ge=1)
    """Longest reply, its reasons included."""
    max_cost_usd: float | None = placement(None, gt=0)
    """Stop asking, resumably, before the replies cost more than this; wants `prices`."""
    max_failed_fraction: float = placement(0.0, ge=0, le=1)
    """Questions that may end in `error` before the stage counts as failed; they are no votes."""
    request_timeout_s: float = placement(600, gt=0)
    """Deadline of one reply in seconds (of one try, for an API)."""
    max_attempts: int = placement(5, ge=1)
    """Tries of a request to an API that fails for the moment."""
    part_seconds: float = placement(60, gt=0)
    """Age after which replies are written down for good."""

    @field_validator("teacher", mode="before")
    @classmethod
    def _a_teacher_without_kind_is_vllms(cls, teacher: Any) -> Any:
        return {"kind": "vllm"} | teacher if isinstance(teacher, dict) else teacher

    @model_validator(mode="after")
    def _nothing_is_given_in_vain(self) -> AskedJudgeSpec:
        teacher = self.teacher
        vain = {
            "sampling": teacher.sampling is not None,
            "weight": teacher.weight != 1,
            "routes": bool(teacher.routes),
        }
        for name, is_given in vain.items():
            if is_given:
                raise ValueError(
                    f"teacher.{name} is not read: a judge is asked everything, and replies"
                    " greedily in at most max_tokens of its own block; take it out"
                )
        return self

    @model_validator(mode="after")
    def _a_limit_of_cost_knows_the_prices(self) -> AskedJudgeSpec:
        if self.max_cost_usd and self.prices is None:
            raise ValueError(
                f"max_cost_usd={self.max_cost_usd:g}, but {self.teacher.name} has no prices; give"
                " them, or leave the limit out"
            )
        return self

    @property
    def prices(self) -> PriceSpec | None:
        """What its replies cost; a model of ours has no price."""
        return None if isinstance(self.teacher, VllmTeacherSpec) else self.teacher.prices

    def sampling(self) -> SamplingSpec:
        """How it replies."""
        return SamplingSpec(temperature=0.0, max_tokens=self.max_tokens)

    def asking(self) -> AskingSpec:
        """How patiently it is asked; nothing but the text is kept of its replies."""
        return AskingSpec(
            max_cost_usd=self.max_cost_usd,
            request_timeout_s=self.request_timeout_s,
            max_attempts=self.max_attempts,
            part_seconds=self.part_seconds,
        )


class JudgeSpec(AskedJudgeSpec):
    """A model that compares answers by a rubric: two of them in both orders, and each by itself on
    a scale where there is one."""

    against: list[Literal["teacher", "baseline"]] = identity(["teacher", "baseline"])
    """Whose answers the student's are compared with, the baseline only where it answers."""
    scale: list[int] | None = identity(None, min_length=2, max_length=2)
    """[worst, best] grade of a single answer; none: answers get no grades."""

    @field_validator("scale")
    @classmethod
    def _the_scale_rises(cls, scale: list[int] | None) -> list[int] | None:
        return None if scale is None else _rising(scale)

    @model_validator(mode="after")
    def _something_is_judged(self) -> JudgeSpec:
        if not self.against and self.scale is None:
            raise ValueError(
                "against=[] and no scale: nothing would be judged; name teacher or baseline, or"
                " give a scale such as [1, 5]"
            )
        return self


class CurateJudgeSpec(AskedJudgeSpec):
    """A model that grades a teacher's answers, after all cheaper rules; where `select.by` has
    judge, it also compares those to one prompt in both orders."""

    keep: str | None = identity(None)
    """Grades that stay, such as ">= 4"; answers without a readable grade go too. None: grades only
    order what `select` keeps."""
    scale: list[int] = identity([1, 5], min_length=2, max_length=2)
    """[worst, best] grade."""

    @field_validator("scale")
    @classmethod
    def _the_scale_rises(cls, scale: list[int]) -> list[int]:
        return _rising(scale)

    @model_validator(mode="after")
    def _the_threshold_is_on_the_scale(self) -> CurateJudgeSpec:
        if self.keep is None:
            return self
        match = _THRESHOLD.fullmatch(self.keep)
        if match is None or not self.scale[0] <= float(match[1]) <= self.scale[1]:
            raise ValueError(
                f"curate.judge.keep={self.keep!r}; give >= and a grade of the scale"
                f" {self.scale}, such as '>= {self.scale[1] - 1}'"
            )
        return self

    @property
    def at_least(self) -> float | None:
        """The lowest grade that stays."""
        match = _THRESHOLD.fullmatch(self.keep or "")
        return None if match is None else float(match[1])


def _rising(scale: list[int]) -> list[int]:
    if scale[0] >= scale[1]:
        raise ValueError(f"scale={scale}; give [worst, best], such as [1, 5]")
    return scale
