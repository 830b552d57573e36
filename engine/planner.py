"""Pure arithmetic: devices, memory and bytes that a job wants, before anything runs.

Formulas are numbered as in the sizing notes, part B6; sizes are GB of 1e9 bytes. What a cluster has is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models import Architecture, facts
from engine.spec import CaptureSpec, EvaluateSpec, JobSpec, TeacherSpec, TrainSpec

ADAM_BYTES = 16  # fp32 master weight, two moments, and DeepSpeed's fp32 gradient


@dataclass(frozen=True)
class Need:
    """What one stage wants at a time: devices, how they come about, and figures worth knowing."""

    stage: str
    devices: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The needs of a job in the order of its stages."""

    device: str
    needs: tuple[Need, ...]

    @property
    def devices(self) -> int:
        """Devices that the widest stage wants; stages run one after the other."""
        return max(need.devices for need in self.needs)

    def lines(self) -> list[str]:
        """One line per need."""
        return [f"{need.stage:<9} {need.devices:>4} {self.device.upper()}  {'; '.join(need.notes)}" for need in self.needs]


def plan(job: JobSpec) -> Plan:
    """What each stage of the job wants."""
    needs = [
        *(_generate(teacher, job.generate.capture) for teacher in job.generate.teachers),
        _train(job.train),
        _engines("evaluate", "", job.evaluate, job.train.student),
    ]
    if models := job.loadtest.models:
        widths = [(job.generate.teachers[0] if model == "teacher" else job.serve).tensor_parallel for model in models]
        layout = [f"{model} {job.serve.replicas} x tensor_parallel {width}" for model, width in zip(models, widths, strict=True)]
        needs.append(Need("loadtest", job.serve.replicas * sum(widths), (" + ".join(layout),)))
    return Plan(job.device, tuple(needs))


def _generate(teacher: TeacherSpec, capture: CaptureSpec) -> Need:
    if teacher.kind != "vllm":
        return Need("generate", 0, (f"{teacher.name}: {teacher.kind}, {teacher.model}, at most {teacher.concurrency} requests at a time",))
    signal = (f"signal {signal_bytes_per_token(capture):,} bytes per answer token",) if capture.top_k else ()
    return _engines("generate", f"{teacher.name}: ", teacher, teacher.model, *signal)


def _engines(stage: str, label: str, spec: TeacherSpec | EvaluateSpec, model: str, *more: str) -> Need:
    shape, width = facts(model), spec.tensor_parallel
    sizes = ("size unknown before the model is here",) if shape is None else (
        f"weights {_size(shape.weights_gb / width)} per device",
        f"KV cache {shape.kv_bytes_per_token(width):,.0f} bytes per token and device",
    )
    return Need(stage, spec.replicas * width, (f"{label}{spec.replicas} x tensor_parallel {width}", *sizes, *more))


def _train(spec: TrainSpec) -> Need:
    shape = facts(spec.student)
    layout = f"{spec.workers} workers, ZeRO {spec.zero_stage}" + (", offload to CPU" if spec.offload == "cpu" else "")
    state = _size(state_gb(spec, shape)) if shape else "unknown before the model is here"
    return Need("train", spec.workers, (layout, f"model state {state} per worker (activations come on top)"))


def state_gb(spec: TrainSpec, model: Architecture) -> float:
    """Device memory of weights, gradients and optimizer per worker in GB (B6.10 with the safe 18 bytes: 2 + 16).

    In bf16: stage 0 holds 4+16 bytes per parameter, 1: 4+16/n, 2: 2+18/n, 3: 18/n + 4 x the largest tensor.
    Offloading to the CPU leaves the weights on the device (stages 0-2), or the largest tensor (stage 3).
    """
    weight, n, largest_b = 4 if spec.precision == "fp32" else 2, spec.workers, model.vocab * model.hidden / 1e9
    if spec.zero_stage == 3:
        shard = 0 if spec.offload == "cpu" else (weight + ADAM_BYTES) / n
        return model.params_b * shard + 2 * weight * largest_b
    if spec.offload == "cpu":
        return model.params_b * weight
    per_param = {0: 2 * weight + ADAM_BYTES, 1: 2 * weight + ADAM_BYTES / n, 2: weight + (weight + ADAM_BYTES) / n}
    return model.params_b * per_param[spec.zero_stage]


def signal_bytes_per_token(capture: CaptureSpec) -> int:
    """Stored bytes of one answer token's distribution before compression: k (id, log-probability), tail, own (B6.13)."""
    return capture.top_k * (4 + (2 if capture.dtype == "float16" else 4)) + 8


def _size(gb: float) -> str:
    return f"{gb:,.1f} GB" if gb >= 1 else f"{gb * 1000:,.1f} MB"
