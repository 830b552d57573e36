"""What a whole job takes before anything runs: hours, dollars and bytes, stage by stage.

Stages run one after the other, and teachers take turns, so a fixed cluster is as wide as the widest
and idles in the others. How it is printed: estimate_lines.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.job.spec import JobSpec
from engine.machines.generation_estimate import generation, rows_of
from engine.machines.ground import Ground
from engine.machines.stage_estimate import StageEstimate
from engine.machines.student_estimate import evaluation, loadtest, training
from engine.machines.work import Work


@dataclass(frozen=True)
class Estimate:
    """The stages of a job in their order, and what they stand on."""

    job: str
    work: Work
    ground: Ground
    stages: tuple[StageEstimate, ...]
    is_assumed: bool = False  # the accelerator

    @property
    def devices(self) -> int:
        """Of the widest stage, or of the widest teacher: they take turns."""
        return max(one.devices for one in self.stages)

    @property
    def hours(self) -> tuple[float, float, float] | None:
        """Of all stages one after the other: typical, fewest and most; None where one is not
        known."""
        typical = fewest = most = 0.0
        for one in self.stages:
            interval = one.interval
            if one.hours is None or interval is None:
                return None
            typical += one.hours
            fewest += interval[0]
            most += interval[1]
        return typical, fewest, most

    @property
    def usd(self) -> float | None:
        """Of GPUs only while a stage uses them, and of APIs; None where one is not known."""
        dollars = [one.usd for one in self.stages if one.devices or one.usd is not None]
        if any(usd is None for usd in dollars) or not dollars:
            return None
        return sum(usd for usd in dollars if usd is not None)

    @property
    def gpus_usd(self) -> float:
        """Of GPUs while a stage uses them, as far as it is known."""
        return sum(one.usd or 0.0 for one in self.stages if one.devices)

    @property
    def held_usd(self) -> float | None:
        """Of the widest stage's GPUs from beginning to end; None where they are of several kinds or
        a figure is not known."""
        hours = self.hours
        kinds = {one.accelerator for one in self.stages if one.accelerator}
        if hours is None or self.usd is None or len(kinds) != 1:
            return None
        accelerator = self.ground.accelerator(kinds.pop())
        return self.ground.usd(accelerator, hours[0] * self.devices)

    @property
    def size_gb(self) -> float:
        """What all stages write."""
        return sum(one.size_gb for one in self.stages)


def estimate(job: JobSpec, work: Work, ground: Ground) -> Estimate:
    """The plan of a job. SpecError where an accelerator is named of which nothing is known."""
    stages = []
    answers = 0.0
    for teacher in job.generate.teachers:
        stages.append(generation(job, teacher, work, ground))
        answers += rows_of(job, teacher, work)
        answers -= work.validation if job.generate.route == "all" else 0
    if job.generate.route != "all":
        answers -= work.validation
    stages.append(training(job, work, max(answers, 0.0), ground))
    stages.append(evaluation(job, work, ground))
    if job.loadtest.models:
        stages.append(loadtest(job, work, ground))
    return Estimate(job.name, work, ground, tuple(stages), ground.assumes(job))
