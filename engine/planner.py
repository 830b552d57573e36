"""Pure arithmetic: devices, memory and bytes that a job wants, before anything runs.

Formulas are numbered as in the sizing notes, part B6; sizes are GB of 1e9 bytes. What a cluster has is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models import Architecture, facts
from engine.spec import API_KINDS, CaptureSpec, JobSpec, TeacherSpec, TrainSpec

ADAM_BYTES = 16  # fp32 master weight, two moments, and DeepSpeed's fp32 gradient


@dataclass(frozen=True)
class Need:
    """What one stage wants at a time: devices, how they come about, and figures worth knowing."""

    stage: str
    devices: int
    layout: str
    notes: tuple[str, ...] = ()


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
        """One line per need, notes behind it."""
        unit = "GPU" if self.device == "gpu" else "CPU"
        return [f"{need.stage:<9} {need.devices:>4} {unit}  {'; '.join([need.layout, *need.notes])}" for need in self.needs]


def plan(job: JobSpec) -> Plan:
    """What each stage of the job wants."""
    student = facts(job.train.student)
    copies = job.evaluate.replicas * job.evaluate.tensor_parallel
    needs = [
        *(_teacher(teacher, job.generate.capture) for teacher in job.generate.teachers),
        Need("train", job.train.workers, _train_layout(job.train), _train_notes(job.train, student)),
        Need("evaluate", copies, f"{job.evaluate.replicas} x tensor_parallel {job.evaluate.tensor_parallel}",
             _engine_notes(student, job.evaluate.tensor_parallel)),
    ]
    if job.loadtest.models:
        widths = {model: _serve_width(job, model) for model in job.loadtest.models}
        layout = " + ".join(f"{model} {job.serve.replicas} x tensor_parallel {width}" for model, width in widths.items())
        needs.append(Need("loadtest", job.serve.replicas * sum(widths.values()), layout))
    return Plan(job.device, tuple(needs))


def _serve_width(job: JobSpec, model: str) -> int:
    return job.generate.teachers[0].tensor_parallel if model == "teacher" else job.serve.tensor_parallel


def _teacher(teacher: TeacherSpec, capture: CaptureSpec) -> Need:
    if teacher.kind in (*API_KINDS, "fake"):
        return Need("generate", 0, f"{teacher.name}: {teacher.kind}, {teacher.model}, {teacher.replicas} clients")
    notes = _engine_notes(facts(teacher.model), teacher.tensor_parallel)
    if capture.top_k:
        notes += (f"signal {signal_bytes_per_token(capture):,} bytes per answer token",)
    layout = f"{teacher.name}: {teacher.replicas} x tensor_parallel {teacher.tensor_parallel}"
    return Need("generate", teacher.replicas * teacher.tensor_parallel, layout, notes)


def _engine_notes(model: Architecture | None, tensor_parallel: int) -> tuple[str, ...]:
    if model is None:
        return ("size unknown before the model is here",)
    return (
        f"weights {_size(model.weights_gb / tensor_parallel)} per device",
        f"KV cache {model.kv_bytes_per_token(tensor_parallel):,.0f} bytes per token and device",
    )


def _train_layout(spec: TrainSpec) -> str:
    return f"{spec.workers} workers, ZeRO {spec.zero_stage}" + (", offload to CPU" if spec.offload == "cpu" else "")


def _train_notes(spec: TrainSpec, model: Architecture | None) -> tuple[str, ...]:
    if model is None:
        return ("model state unknown before the model is here",)
    notes = (f"model state {_size(state_gb(spec, model))} per worker (activations come on top)",)
    if spec.offload == "cpu":
        notes += (f"host memory {_size(host_gb(spec, model))} per node",)
    return notes


def _weight_bytes(spec: TrainSpec) -> int:
    return 4 if spec.precision == "fp32" else 2


def state_gb(spec: TrainSpec, model: Architecture) -> float:
    """Device memory of weights, gradients and optimizer per worker in GB (B6.10 with the safe 18 bytes: 2 + 16).

    In bf16: stage 0 holds 4+16 bytes per parameter, 1: 4+16/n, 2: 2+18/n, 3: 18/n + 4 x the largest tensor.
    Offloading to the CPU leaves the weights on the device (stages 0-2), or the largest tensor (stage 3).
    """
    weight, n, largest_b = _weight_bytes(spec), spec.workers, model.vocab * model.hidden / 1e9
    if spec.zero_stage == 3:
        shard = 0 if spec.offload == "cpu" else (weight + ADAM_BYTES) / n
        return model.params_b * shard + 2 * weight * largest_b
    if spec.offload == "cpu":
        return model.params_b * weight
    per_param = {0: 2 * weight + ADAM_BYTES, 1: 2 * weight + ADAM_BYTES / n, 2: weight + (weight + ADAM_BYTES) / n}
    return model.params_b * per_param[spec.zero_stage]


def host_gb(spec: TrainSpec, model: Architecture) -> float:
    """Host memory in GB when offloading, all workers on one node (B6.10: max(4n, 16) x 1.5, at stage 3 18 x 1.5)."""
    per_param = _weight_bytes(spec) + ADAM_BYTES if spec.zero_stage == 3 else max(4 * spec.workers, 16)
    return model.params_b * per_param * 1.5


def signal_bytes_per_token(capture: CaptureSpec) -> int:
    """Stored bytes of one answer token's distribution before compression: k (id, log-probability), tail, own (B6.13)."""
    return capture.top_k * (4 + (2 if capture.dtype == "float16" else 4)) + 8


def _size(gb: float) -> str:
    return f"{gb:,.1f} GB" if gb >= 1 else f"{gb * 1000:,.1f} MB"
