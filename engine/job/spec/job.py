"""JobSpec: the whole job, and where its blocks must agree."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from engine.job.spec.base import Block, Name, Task, identity, placement
from engine.job.spec.curate import CurateSpec
from engine.job.spec.evaluate import EvaluateSpec
from engine.job.spec.generate import GenerateSpec
from engine.job.spec.loadtest import LoadtestSpec
from engine.job.spec.losses import SftLoss
from engine.job.spec.prompts import PromptsSpec
from engine.job.spec.report import ReportSpec
from engine.job.spec.serve import ServeSpec
from engine.job.spec.teachers import ApiTeacher, TeacherSpec, VllmTeacherSpec
from engine.job.spec.train import TrainSpec


class JobSpec(Block):
    """One distillation, from prompts to report."""

    version: Literal[1] = identity(1)
    """Version of this format."""
    name: Name = placement()
    """Name of the job and of its folder under --runs."""
    task: Task = identity()
    """What the answers are; decides the metrics and the check against references."""
    seed: int = identity(0, ge=0, lt=2**31)
    """Root of every random choice."""
    device: Literal["gpu", "cpu"] = placement("gpu")
    """What engines and workers run on."""
    prompts: PromptsSpec = identity()
    """Stage 1."""
    generate: GenerateSpec = identity()
    """Stage 2."""
    curate: CurateSpec = identity(CurateSpec())
    """Stage 3."""
    train: TrainSpec = identity()
    """Stage 4."""
    evaluate: EvaluateSpec = identity(EvaluateSpec())
    """Stage 5."""
    serve: ServeSpec = identity(ServeSpec())
    """Stage 6: alive during loadtest and `distill serve`."""
    loadtest: LoadtestSpec = identity(LoadtestSpec())
    """Stage 7."""
    report: ReportSpec = identity(ReportSpec())
    """Stage 8."""

    def asked(self) -> dict[str, TeacherSpec]:
        """{field: who is asked} of the teachers and the judge."""
        named = {f"generate.teachers.{n}": each for n, each in enumerate(self.generate.teachers)}
        if self.curate.judge:
            named["curate.judge.teacher"] = self.curate.judge.teacher
        if self.evaluate.judge:
            named["evaluate.judge.teacher"] = self.evaluate.judge.teacher
        return named

    def weights(self) -> list[tuple[str, str | None]]:
        """(model, revision) of everybody whose weights are run: teachers, judges, the student and
        its live teacher."""
        models: list[tuple[str, str | None]] = []
        for teacher in self.asked().values():
            if isinstance(teacher, VllmTeacherSpec):
                models.append((teacher.model, teacher.revision))
        models.append((self.train.student, self.train.revision))
        if live := self.train.teacher:
            models.append((live.model, live.revision))
        return models

    def key_variables(self) -> dict[str, str]:
        """{field: environment variable} of each API key that the job names."""
        named = {}
        for field, teacher in self.asked().items():
            if isinstance(teacher, ApiTeacher):
                named[f"{field}.api_key_env"] = teacher.api_key_env
        return named | self.serve.key_variables()

    @model_validator(mode="after")
    def _the_loss_has_its_signal(self) -> JobSpec:
        kind, top_k = self.train.loss.kind, self.generate.capture.top_k
        if self.train.reads_stored_signal and top_k == 0:
            raise ValueError(
                f"train.loss={kind} learns from the teacher's distribution, but"
                " generate.capture.top_k=0 stores none; set generate.capture.top_k to 16 or more,"
                " give a live train.teacher, or set train.loss to sft"
            )
        for number, teacher in enumerate(self.generate.teachers):
            most = {"openai": 20, "anthropic": 0}.get(teacher.kind, 1024)
            if top_k > most:
                raise ValueError(
                    f"generate.capture.top_k={top_k}, but generate.teachers.{number} is kind"
                    f" {teacher.kind}, whose API gives at most {most}; lower it"
                )
            if self.train.reads_stored_signal and isinstance(teacher, ApiTeacher):
                raise ValueError(
                    f"train.loss={kind} wants token ids, which teacher '{teacher.name}' does not"
                    " give; set train.loss: sft"
                )
        return self

    @model_validator(mode="after")
    def _what_is_redacted_has_no_signal(self) -> JobSpec:
        pii = self.curate.pii
        if pii is not None and pii.action == "redact" and self.train.reads_stored_signal:
            raise ValueError(
                "curate.pii.action=redact takes the teacher's tokens and signal off an example,"
                f" which train.loss={self.train.loss.kind} learns from; set curate.pii.action:"
                " drop, or train.loss: sft"
            )
        return self

    @model_validator(mode="after")
    def _blocks_agree(self) -> JobSpec:
        teacher = self.generate.teachers[0]
        if self.prompts.fields.labels and self.task != "nli":
            raise ValueError(
                f"prompts.fields.labels names labels, which task {self.task} has none of; take it"
                " out, or set task: nli"
            )
        loss = self.train.loss
        learns_all = isinstance(loss, SftLoss) and loss.learn_turns == "all"
        if learns_all and self.prompts.turns == "each":
            raise ValueError(
                "train.loss.learn_turns=all would learn each gold answer again with every later"
                " turn, because prompts.turns=each makes a prompt of every one; leave learn_turns"
                " out, or set prompts.turns: last"
            )
        if self.train.lora and self.train.lora.quantize != "none" and self.device == "cpu":
            raise ValueError(
                "train.lora.quantize=nf4 needs a GPU; set quantize: none, or device: gpu"
            )
        if "teacher" in self.loadtest.models and teacher.kind != "vllm":
            raise ValueError(
                f"loadtest.models lists the teacher, but teacher '{teacher.name}' is kind"
                f" {teacher.kind}: other people's servers are not load-tested; take teacher out of"
                " loadtest.models"
            )
        return self
