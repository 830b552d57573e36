"""The block `generate`: who answers which prompt, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from engine.job.spec.base import Block, identity, placement
from engine.job.spec.teachers import (
    ApiTeacher,
    PriceSpec,
    SamplingSpec,
    TeacherSpec,
    VllmTeacherSpec,
)


class CaptureSpec(Block):
    """What is kept of the teacher's distribution."""

    top_k: int = identity(0, ge=0, le=1024)
    """Log-probabilities stored per generated token; 0 stores none."""
    dtype: Literal["float32", "float16"] = identity("float16")
    """Type of the stored log-probabilities (codec: plain)."""
    codec: Literal["plain", "packed"] = identity("plain")
    """`plain`: flat Arrow lists; `packed`: half the size, a little less exact
    (engine/rows/codec.py)."""
    packed_bits: int = identity(8, ge=4, le=8)
    """Bits of one packed log-probability: 8 is near exact, 5 takes 13 % fewer bytes
    (benchmarks/signal)."""

    @model_validator(mode="after")
    def _bits_are_of_a_packed_signal(self) -> CaptureSpec:
        if self.codec != "packed" and self.packed_bits != 8:
            raise ValueError(
                f"capture.packed_bits={self.packed_bits} is not read by codec={self.codec}; leave"
                " it out, or set codec: packed"
            )
        return self


class AskingSpec(Block):
    """How models are asked, whoever they are: what is kept of their answers, and the patience with
    them."""

    capture: CaptureSpec = identity(CaptureSpec())
    """Top-k log-probabilities of the answers."""
    shard_rows: int = placement(512, ge=1)
    """Most rows in one scheduling unit; shards are smaller when there are few rows."""
    rows_in_flight: int | None = placement(None, ge=1)
    """Rows that one replica holds at a time, so that its batch never drains; none: twice its batch,
    or an API's concurrency."""
    part_rows: int = placement(512, ge=1)
    """Rows after which a part is closed and committed."""
    part_seconds: float = placement(60, gt=0)
    """Age after which a part is closed and committed."""
    start_timeout_s: float = placement(7200, gt=0)
    """Longest start of a replica in seconds; one that hangs longer is ended, and the stage with it
    where no replica has started."""
    request_timeout_s: float = placement(600, gt=0)
    """Deadline of one answer in seconds (of one try, for an API); past it the row is `error` and
    the next run tries again."""
    max_attempts: int = placement(5, ge=1)
    """Tries of a request to an API that fails for the moment, before its row is `error`. (A local
    engine's failures are its death.)"""
    max_cost_usd: float | None = placement(None, gt=0)
    """Stop asking, resumably, before the answers of all teachers with `prices` cost more than
    this."""


class GenerateSpec(AskingSpec):
    """Prompts -> completions: who answers which prompt, and how."""

    teachers: list[TeacherSpec] = identity(min_length=1)
    """The teachers; with `route: all` the first one is the reference for retention."""
    route: Literal["all", "split", "by"] = identity("all")
    """`all`: every teacher answers every prompt; `split`: one each, drawn by `weight`; `by`: one
    each, by the prompt's `route_by`."""
    route_by: str | None = identity(None)
    """What `route: by` looks at: task, source, or a field of the source rows such as language."""
    sampling: SamplingSpec = identity(SamplingSpec())
    """How training prompts are answered."""
    limit: int | None = placement(None, ge=1)
    """A pilot: ask the first so many training prompts only (and all validation prompts). With a
    higher limit, or none, the same run goes on from its answers and asks for none again."""
    max_failed_fraction: float = placement(0.0, ge=0, le=1)
    """Rows that may end in `error` before the stage counts as failed."""
    min_teacher_score: float | None = placement(None, ge=0, le=1)
    """Least score of each teacher on its validation answers that have references; below it the job
    ends here. None: a warning below 0.2."""

    @field_validator("teachers", mode="before")
    @classmethod
    def _a_teacher_without_kind_is_vllms(cls, teachers: Any) -> Any:
        if not isinstance(teachers, list):
            return teachers
        return [{"kind": "vllm"} | item if isinstance(item, dict) else item for item in teachers]

    @model_validator(mode="after")
    def _teachers_agree(self) -> GenerateSpec:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError(
                f"teachers share a name: {names}; each row is stored under its teacher's name"
            )
        if (self.route == "by") != bool(self.route_by):
            raise ValueError(
                f"route={self.route}, route_by={self.route_by}; `route: by` and `route_by: <field>`"
                " come together"
            )
        values = [value for teacher in self.teachers for value in teacher.routes]
        for number, teacher in enumerate(self.teachers):
            if self.route != "split" and teacher.weight != 1:
                raise ValueError(
                    f"teachers.{number}.weight={teacher.weight:g} is not read by"
                    f" route={self.route}; leave it out, or set route: split"
                )
        if values and self.route != "by":
            raise ValueError(
                f"routes of the teachers, {values}, are not read by route={self.route}; leave them"
                " out, or set route: by"
            )
        takers_of_the_rest = sum(not teacher.routes for teacher in self.teachers)
        if self.route == "by" and (len(set(values)) < len(values) or takers_of_the_rest > 1):
            raise ValueError(
                f"routes of the teachers overlap: {values}; each value goes to one teacher, and one"
                " teacher may take the rest"
            )
        return self

    @model_validator(mode="after")
    def _a_limit_of_cost_knows_the_prices(self) -> GenerateSpec:
        unknown = []
        for teacher in self.teachers:
            if isinstance(teacher, ApiTeacher) and not teacher.prices:
                unknown.append(teacher.name)
        if self.max_cost_usd and unknown:
            raise ValueError(
                f"max_cost_usd={self.max_cost_usd:g}, but {unknown} have no prices; give them, or"
                " leave the limit out"
            )
        return self

    def prices(self) -> dict[str, PriceSpec]:
        """By teacher, what its answers cost; a model of ours has no price."""
        prices = {}
        for teacher in self.teachers:
            if not isinstance(teacher, VllmTeacherSpec) and teacher.prices:
                prices[teacher.name] = teacher.prices
        return prices

    def sampling_of(self, teacher: TeacherSpec) -> SamplingSpec:
        """How `teacher` answers training prompts."""
        return teacher.sampling or self.sampling
