"""What a plan stands on beside the job: which accelerators there are, what they cost, and what an
earlier run measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.job.spec import JobSpec
from engine.machines.accelerators import Accelerator, accelerator_named
from engine.machines.links import NODE
from engine.machines.measured import Measured
from engine.machines.prices import Price, price_of

ASSUMED = "H100"  # where neither the job nor anybody else names one


@dataclass(frozen=True)
class Ground:
    """`gpu` is what the user says; `kinds` are the accelerators of the cluster's machines with the
    GPUs of one machine, widest use first; `prices` are the user's or the cluster file's."""

    gpu: Accelerator | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    measured: Measured | None = None

    def accelerator(self, asked: str | None) -> Accelerator:
        """What a stage that asks for this kind (None: any) runs on. SpecError where nothing is
        known of it."""
        if self.gpu and asked in (None, self.gpu.name):
            return self.gpu
        name = asked or next(iter(self.kinds), None) or ASSUMED
        return accelerator_named(name)

    def assumes(self, job: JobSpec) -> bool:
        """Whether nobody names an accelerator, so that ASSUMED stands for it."""
        named = [one.accelerator_type for one in job.generate.teachers if one.kind == "vllm"]
        return job.device == "gpu" and not (self.gpu or self.kinds or any(named))

    def node(self, accelerator: Accelerator) -> int:
        """GPUs of one machine; NODE where no cluster file tells."""
        return self.kinds.get(accelerator.name, NODE)

    def price(self, accelerator: Accelerator) -> Price | None:
        """Of an hour; None where nobody knows it."""
        return price_of(accelerator.name, self.prices)

    def usd(self, accelerator: Accelerator, device_hours: float) -> float | None:
        """Typical US dollars of so many GPU-hours; None where nobody knows the price."""
        price = self.price(accelerator)
        return device_hours * price.typical if price else None
