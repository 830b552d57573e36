"""Pure arithmetic: devices, memory and bytes that a job wants, before anything runs.

Formulas are numbered as in the sizing notes, part B6; sizes are GB of 1e9 bytes. What a cluster has is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.codec import token_bytes
from engine.layout import Layout
from engine.models import Architecture, facts
from engine.spec import CaptureSpec, JobSpec, TeacherSpec, TrainSpec

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
        """One line per need: stage, number of devices, notes."""
        return [f"{need.stage:<9} {need.devices:>4} {self.device.upper()}  {'; '.join(need.notes)}" for need in self.needs]


def plan(job: JobSpec) -> Plan:
    """What each stage of the job wants."""
    needs = [
        *(_generate(teacher, job) for teacher in job.generate.teachers),
        _train(job.train),
        _engines("evaluate", "", _plain(job.evaluate.tensor_parallel, job.evaluate.replicas), job.train.student),
    ]
    if models := job.loadtest.models:
        student = _plain(job.serve.tensor_parallel, job.serve.replicas)
        teacher = replace(Layout.of(job.generate.teachers[0], job.device), replicas=student.replicas)
        layouts = {model: teacher if model == "teacher" else student for model in models}
        text = " + ".join(f"{model} {_text(layout)}" for model, layout in layouts.items())
        needs.append(Need("loadtest", sum(job.serve.replicas * layout.devices for layout in layouts.values()), (text,)))
    return Plan(job.device, tuple(needs))


def _generate(teacher: TeacherSpec, job: JobSpec) -> Need:
    if teacher.kind != "vllm":
        price = f"; ${teacher.prices.input:g} in and ${teacher.prices.output:g} out per million tokens" if teacher.prices else ""
        text = f"{teacher.name}: {teacher.kind}, {teacher.model}, at most {teacher.concurrency} requests at a time{price}"
        return Need("generate", Layout.of(teacher, job.device).devices * teacher.replica_range[0], (text,))
    capture = job.generate.capture
    shape = facts(teacher.model)
    signal_bytes = signal_bytes_per_token(capture, shape.vocab if shape else None)
    signal = (f"signal {signal_bytes:,} bytes per answer token",) if capture.top_k else ()
    return _engines("generate", f"{teacher.name}: ", Layout.of(teacher, job.device), teacher.model, *signal)


def _engines(stage: str, label: str, layout: Layout, model: str, *more: str) -> Need:
    shape, splits = facts(model), (layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel)
    sizes = ("size unknown before the model is here",) if shape is None else (
        f"weights {_size(shape.weights_gb_per_device(*splits))} per device",
        f"KV cache {shape.kv_bytes_per_token(layout.tensor_parallel) / layout.pipeline_parallel:,.0f} bytes per token and device",
    )
    return Need(stage, layout.replicas[0] * layout.devices, (label + _text(layout), *sizes, *more))


def _plain(tensor_parallel: int, replicas: int) -> Layout:
    return Layout(tensor_parallel, tensor_parallel, replicas=(replicas, replicas))


def _text(layout: Layout) -> str:
    fewest, most = layout.replicas
    more = {"pipeline_parallel": layout.pipeline_parallel, "data_parallel": layout.data_parallel}
    splits = "".join(f" x {name} {n}" for name, n in more.items() if n > 1)
    kind = f" on {layout.accelerator_type}" if layout.accelerator_type else ""
    return f"{fewest}{f' to {most}' if most > fewest else ''} x tensor_parallel {layout.tensor_parallel}{splits}{kind}"


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


def signal_bytes_per_token(capture: CaptureSpec, vocab: int | None = None) -> int:
    """Stored bytes of one answer token's distribution before compression: k (id, log-probability), tail, own (B6.13).

    Packed ones depend on the vocabulary; where it is not known yet, the plain size is what they stay below.
    """
    if capture.codec == "packed" and vocab:
        return token_bytes(capture.top_k, vocab, capture.packed_bits) + 4
    return capture.top_k * (4 + (2 if capture.dtype == "float16" else 4)) + 8


def _size(gb: float) -> str:
    return f"{gb:,.1f} GB" if gb >= 1 else f"{gb * 1000:,.1f} MB"
