"""Pure arithmetic: devices, memory and bytes that a job wants, before anything runs.

Formulas are numbered as in the sizing notes, part B6; sizes are GB of 1e9 bytes. What a cluster has
is not its business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.job.spec import (
    BATCH_WINDOW_H,
    ApiTeacher,
    CaptureSpec,
    FakeTeacherSpec,
    JobSpec,
    LoraSpec,
    TeacherSpec,
    TrainSpec,
    VllmTeacherSpec,
)
from engine.machines.architectures import Architecture, facts
from engine.machines.layout import Layout
from engine.rows.codec import token_bytes

# elements of DeepSpeed's reduce bucket in billions (its default), never more than there are
# parameters (deepspeed_engine)
BUCKET_B = 0.5
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
        lines = []
        for need in self.needs:
            count = f"{need.devices:>4} {self.device.upper()}"
            lines.append(f"{need.stage:<9} {count}  {'; '.join(need.notes)}")
        return lines


def plan_devices(job: JobSpec) -> Plan:
    """What each stage of the job wants."""
    capture = job.generate.capture
    needs = []
    for teacher in job.generate.teachers:
        needs.append(_asking("generate", teacher, job.device, capture))
    if grader := job.curate.judge:
        needs.append(_asking("curate", grader.teacher, job.device, CaptureSpec(), "judge "))
    needs.append(_train(job.train))
    student = Layout.of(job.evaluate, job.device)
    needs.append(_engines("evaluate", "", student, job.train.student))
    if judge := job.evaluate.judge:
        needs.append(_asking("evaluate", judge.teacher, job.device, CaptureSpec(), "judge "))
    if job.loadtest.models:
        needs.append(_loadtest(job))
    return Plan(job.device, tuple(needs))


def _asking(
    stage: str, teacher: TeacherSpec, device: str, capture: CaptureSpec, role: str = ""
) -> Need:
    """What a stage wants for a teacher, or for whoever has another role."""
    if isinstance(teacher, ApiTeacher | FakeTeacherSpec):
        devices = 0
        if isinstance(teacher, FakeTeacherSpec) and device == "gpu":  # it takes GPUs alone
            devices = teacher.devices * teacher.replica_range[0]
        return Need(stage, devices, (role + _asked(teacher),))
    layout = Layout.of(teacher, device)
    notes = []
    if capture.top_k:
        shape = facts(teacher.model)
        vocab = shape.vocab if shape else None
        size = signal_bytes_per_token(capture, vocab)
        notes.append(f"signal {size:,} bytes per answer token")
    return _engines(stage, f"{role}{teacher.name}: ", layout, teacher.model, *notes)


def _asked(teacher: ApiTeacher | FakeTeacherSpec) -> str:
    """What a teacher that takes no devices is asked, and at what price."""
    how = f"at most {teacher.concurrency} requests at a time"
    prices = teacher.prices
    if isinstance(teacher, ApiTeacher) and teacher.batch:
        how = f"in batches, each within {BATCH_WINDOW_H} hours"
        prices = teacher.charged
    text = f"{teacher.name}: {teacher.kind}, {teacher.model}, {how}"
    if prices:
        text += f"; ${prices.input:g} in and ${prices.output:g} out per million tokens"
    return text


def _loadtest(job: JobSpec) -> Need:
    devices = 0
    texts = []
    teacher = job.generate.teachers[0]
    for model in dict.fromkeys(job.loadtest.models):
        layout = Layout.of(job.serve, job.device)
        if model == "teacher" and isinstance(teacher, VllmTeacherSpec):
            layout = replace(Layout.of(teacher, job.device), replicas=layout.replicas)
        devices += layout.replicas[0] * layout.devices
        texts.append(f"{model} {_text(layout)}")
    return Need("loadtest", devices, (" + ".join(texts),))


def _engines(stage: str, label: str, layout: Layout, model: str, *more: str) -> Need:
    shape = facts(model)
    sizes = ["size unknown before the model is here"]
    if shape:
        sizes = _sizes(shape, layout)
    notes = (label + _text(layout), *sizes, *more)
    return Need(stage, layout.replicas[0] * layout.devices, notes)


def _sizes(shape: Architecture, layout: Layout) -> list[str]:
    weights_gb = shape.weights_gb_per_device(
        layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel
    )
    kv_bytes = shape.kv_bytes_per_token(layout.tensor_parallel) / layout.pipeline_parallel
    return [
        f"weights {_size(weights_gb)} per device",
        f"KV cache {kv_bytes:,.0f} bytes per token and device",
    ]


def _text(layout: Layout) -> str:
    text = f"{_range(layout.replicas)} x tensor_parallel {layout.tensor_parallel}"
    more = {"pipeline_parallel": layout.pipeline_parallel, "data_parallel": layout.data_parallel}
    for name, count in more.items():
        if count > 1:
            text += f" x {name} {count}"
    if layout.accelerator_type:
        text += f" on {layout.accelerator_type}"
    return text


def _range(ends: tuple[int, int]) -> str:
    fewest, most = ends
    if most == fewest:
        return str(fewest)
    return f"{fewest} to {most}"


def _train(spec: TrainSpec) -> Need:
    shape = facts(spec.student)
    layout = f"{_range(spec.worker_range)} workers, ZeRO {spec.zero_stage}"
    if spec.lora:
        layout += f", LoRA of rank {spec.lora.rank}"
    if spec.offload != "none":
        layout += f", offload to {spec.offload}"
    state = "unknown before the model is here"
    if shape:
        state = _size(state_gb(spec, shape))
    notes = [layout, f"model state {state} per worker (activations come on top)"]
    if spec.teacher:
        teacher = facts(spec.teacher.model)
        size = "of unknown size"
        if teacher:
            size = f"{_size(teacher_gb(spec, teacher))} per worker"
        notes.append(f"live teacher {spec.teacher.model} {size}")
    if shape:
        notes += _lengths(spec, shape)
    return Need("train", spec.worker_range[0], tuple(notes))


def _lengths(spec: TrainSpec, shape: Architecture) -> Iterator[str]:
    """What is worth knowing of the length of training blocks."""
    piece_gb = spec.logits_mib * 2**20 / 1e9
    whole_gb = spec.batch_size * spec.block_tokens * shape.vocab * 4 / 1e9
    if piece_gb < whole_gb:
        yield f"logits {_size(piece_gb)} at a time in place of {_size(whole_gb)}"
    if 0 < shape.short_context < shape.max_context:
        used = "short" if spec.block_tokens <= shape.short_context else "long"
        yield (
            f"trained with its {used} rope factors; vLLM uses the short ones up to"
            f" max_model_len {shape.short_context:,} only"
        )


def state_gb(spec: TrainSpec, model: Architecture) -> float:
    """Device memory of weights, gradients and optimizer per worker in GB (B6.10 with the safe 18
    bytes: 2 + 16).

    In bf16: stage 0 holds 4+16 bytes per parameter, 1: 4+16/n, 2: 2+18/n, 3: 18/n + 4 x the largest
    tensor and a reduce bucket. Offloading leaves the weights and one gradient on the device (stages
    1, 2), or the largest tensor and the bucket (stage 3). With LoRA the parameters are the
    adapters', and the student's frozen weights come on top: shared out at stage 3, half a byte for
    each in a layer with nf4. n: fewest workers.
    """
    weight = _weight_bytes(spec)
    n = spec.worker_range[0]
    largest_b = model.vocab * model.hidden / 1e9
    trained_b = model.params_b
    frozen_gb = 0.0
    if spec.lora:
        trained_b = adapters_b(spec.lora, model)
        frozen_gb = _frozen_gb(spec, model)
    if spec.zero_stage == 3:
        shard = 0.0
        if spec.offload == "none":
            shard = trained_b * (weight + ADAM_BYTES) / n
        bucket_gb = weight * min(BUCKET_B, trained_b)  # DeepSpeed holds it for good
        return shard + frozen_gb / n + 2 * weight * largest_b + bucket_gb
    if spec.offload == "cpu":
        gradients_gb = weight * min(largest_b, trained_b)  # a buffer for those on their way
        return trained_b * weight + frozen_gb + gradients_gb
    per_param = {
        0: 2 * weight + ADAM_BYTES,
        1: 2 * weight + ADAM_BYTES / n,
        2: weight + (weight + ADAM_BYTES) / n,
    }
    return trained_b * per_param[spec.zero_stage] + frozen_gb


def _weight_bytes(spec: TrainSpec) -> int:
    return 4 if spec.precision == "fp32" else 2


def _frozen_gb(spec: TrainSpec, model: Architecture) -> float:
    if spec.lora and spec.lora.quantize == "nf4":  # embeddings and head stay as they are
        ends_b = 2 * model.vocab * model.hidden / 1e9
        return ends_b * 2 + (model.params_b - ends_b) * 0.5
    return model.params_b * _weight_bytes(spec)


def adapters_b(lora: LoraSpec, model: Architecture) -> float:
    """Parameters of LoRA's adapters in billions: rank x (in + out) for each adapted matrix (Hu et
    al. 2021, arXiv 2106.09685)."""
    hidden = model.hidden
    query = model.heads * model.head_dim
    key = model.kv_heads * model.head_dim
    ends = {
        "q_proj": hidden + query,
        "k_proj": hidden + key,
        "v_proj": hidden + key,
        "o_proj": query + hidden,
        "gate_proj": hidden + model.ffn,
        "up_proj": hidden + model.ffn,
        "down_proj": model.ffn + hidden,
    }
    # Phi-3's.
    fused = {"qkv_proj": hidden + query + 2 * key, "gate_up_proj": hidden + 2 * model.ffn}
    names = ends if lora.targets == "all-linear" else lora.targets
    known = ends | fused
    total = sum(known.get(name, 0) for name in names)
    return lora.rank * model.layers * total / 1e9


def teacher_gb(spec: TrainSpec, teacher: Architecture) -> float:
    """Weights of a live teacher per worker in GB, in the type of train.precision: shared out at
    ZeRO stage 3, else a copy each."""
    whole = teacher.params_b * _weight_bytes(spec)
    if spec.zero_stage == 3:
        return whole / spec.worker_range[0]
    return whole


def signal_bytes_per_token(capture: CaptureSpec, vocab: int | None = None) -> int:
    """Stored bytes of one answer token's distribution before compression: k (id, log-probability),
    tail, own (B6.13).

    Packed ones depend on the vocabulary; where it is not known yet, the plain size is what they
    stay below.
    """
    if capture.codec == "packed" and vocab:
        return token_bytes(capture.top_k, vocab, capture.packed_bits) + 4
    logprob_bytes = 2 if capture.dtype == "float16" else 4
    return capture.top_k * (4 + logprob_bytes) + 8


def _size(gb: float) -> str:
    if gb < 1:
        return f"{gb * 1000:,.1f} MB"
    return f"{gb:,.1f} GB"
