"""Who is asked, and how: a model of ours with its engine, or a teacher behind somebody's API."""

from __future__ import annotations

from dataclasses import dataclass

from engine.job.spec import (
    AnthropicTeacherSpec,
    ApiTeacher,
    EngineSpec,
    FakeTeacherSpec,
    Model,
    OpenAITeacherSpec,
    PriceSpec,
    SamplingSpec,
    TeacherSpec,
    VllmTeacherSpec,
)
from engine.machines.layout import Layout

# Sequences of one engine, where the job says none: ours, and what vLLM takes on a large GPU; before
# an engine says what it has.
MAX_NUM_SEQS = {"cpu": 128, "gpu": 1024}
Asked = Model | OpenAITeacherSpec | AnthropicTeacherSpec | FakeTeacherSpec


@dataclass(frozen=True)
class Respondent:
    """One model that answers prompts. `system` is put before conversations that have no system
    message."""

    model: Asked
    sampling: SamplingSpec
    system: str | None = None

    @property
    def name(self) -> str:
        """The name under which its rows are stored."""
        return self.model.name

    @property
    def is_remote(self) -> bool:
        """Whether somebody else's server answers."""
        return isinstance(self.model, ApiTeacher)

    @property
    def revision(self) -> str | None:
        """Hub commit of the weights, where it is pinned."""
        return self.model.revision if isinstance(self.model, Model) else None

    @property
    def in_batches(self) -> bool:
        """Whether its answers come hours later, many at a time, from a vendor's batch API."""
        return isinstance(self.model, ApiTeacher) and self.model.batch

    @property
    def prices(self) -> PriceSpec | None:
        """What its answers cost by the list, where they do."""
        return None if isinstance(self.model, Model) else self.model.prices

    @property
    def charged(self) -> PriceSpec | None:
        """What they cost the way that it is asked."""
        return self.model.charged if isinstance(self.model, ApiTeacher) else self.prices

    def engine_on(self, device: str) -> EngineSpec | None:
        """What its replicas take of a cluster: nothing for an API's client, and the fake teacher
        takes GPUs alone."""
        if isinstance(self.model, Model):
            return self.model.engine
        if isinstance(self.model, FakeTeacherSpec) and device == "gpu":
            return self.model
        return None

    @property
    def replica_range(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        if isinstance(self.model, Model):
            return self.model.engine.replica_range
        if isinstance(self.model, FakeTeacherSpec):
            return self.model.replica_range
        return 1, 1

    def layout(self, device: str) -> Layout:
        """Devices of its replicas."""
        engine = self.engine_on(device)
        if engine is None:
            return Layout(0, replicas=self.replica_range, device=device)
        return Layout.of(engine, device)

    def most_tokens(self, max_tokens: int) -> int:
        """Tokens that the answers to one request with `max_tokens` may have in all."""
        return max_tokens if isinstance(self.model, Model) else self.model.most_tokens(max_tokens)


def respondent_of(teacher: TeacherSpec, sampling: SamplingSpec) -> Respondent:
    """A teacher of the job, with how it answers training prompts."""
    asked = teacher.to_model() if isinstance(teacher, VllmTeacherSpec) else teacher
    return Respondent(asked, sampling, teacher.system)
