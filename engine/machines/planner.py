"""Pure arithmetic: devices, memory and bytes that a job wants, before anything runs.

Formulas are numbered as in the sizing notes, part B6; sizes are GB of 1e9 bytes. What a cluster has
is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.job.spec import CaptureSpec, JobSpec, LoraSpec, TeacherSpec, TrainSpec
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
        return [
            f"{need.stage:<9} {need.devices:>4} {self.device.upper()}  {'; '.join(need.notes)}"
            for need in self.needs
        ]


def plan(job: JobSpec) -> Plan:
    """What each stage of the job wants."""
    needs = [
        *(_generate(teacher, job) for teacher in job.generate.teachers),
        _train(job.train),
        _engines(
            "evaluate",
            "",
            _plain(job.evaluate.tensor_parallel, job.evaluate.replicas),
            job.train.student,
        ),
    ]
    if models := job.loadtest.models:
        student = _plain(job.serve.tensor_parallel, job.serve.replicas)
        teacher = replace(
            Layout.of(job.generate.teachers[0], job.device), replicas=student.replicas
        )
        layouts = {model: teacher if model == "teacher" else student for model in models}
        text = " + ".join(f"{model} {_text(layout)}" for model, layout in layouts.items())
        needs.append(
            Need(
                "loadtest",
                sum(job.serve.replicas * layout.devices for layout in layouts.values()),
                (text,),
            )
        )
    return Plan(job.device, tuple(needs))


def _generate(teacher: TeacherSpec, job: JobSpec) -> Need:
    if teacher.kind != "vllm":
        price = (
            f"; ${teacher.prices.input:g} in and ${teacher.prices.output:g} out per million tokens"
            if teacher.prices
            else ""
        )
        text = (
            f"{teacher.name}: {teacher.kind}, {teacher.model}, at most {teacher.concurrency}"
            f" requests at a time{price}"
        )
        return Need(
            "generate", Layout.of(teacher, job.device).devices * teacher.replica_range[0], (text,)
        )
    capture = job.generate.capture
    shape = facts(teacher.model)
    signal_bytes = signal_bytes_per_token(capture, shape.vocab if shape else None)
    signal = (f"signal {signal_bytes:,} bytes per answer token",) if capture.top_k else ()
    return _engines(
        "generate", f"{teacher.name}: ", Layout.of(teacher, job.device), teacher.model, *signal
    )


def _engines(stage: str, label: str, layout: Layout, model: str, *more: str) -> Need:
    shape, splits = (
        facts(model),
        (layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel),
    )
    sizes = (
        ("size unknown before the model is here",)
        if shape is None
        else (
            f"weights {_size(shape.weights_gb_per_device(*splits))} per device",
            "KV cache"
            f" {shape.kv_bytes_per_token(layout.tensor_parallel) / layout.pipeline_parallel:,.0f}"
            " bytes per token and device",
        )
    )
    return Need(stage, layout.replicas[0] * layout.devices, (label + _text(layout), *sizes, *more))


def _plain(tensor_parallel: int, replicas: int) -> Layout:
    return Layout(tensor_parallel, tensor_parallel, replicas=(replicas, replicas))


def _text(layout: Layout) -> str:
    fewest, most = layout.replicas
    more = {"pipeline_parallel": layout.pipeline_parallel, "data_parallel": layout.data_parallel}
    splits = "".join(f" x {name} {n}" for name, n in more.items() if n > 1)
    kind = f" on {layout.accelerator_type}" if layout.accelerator_type else ""
    return (
        f"{fewest}{f' to {most}' if most > fewest else ''} x tensor_parallel"
        f" {layout.tensor_parallel}{splits}{kind}"
    )


def _train(spec: TrainSpec) -> Need:
    shape, (fewest, most) = facts(spec.student), spec.worker_range
    workers = f"{fewest}{f' to {most}' if most > fewest else ''} workers"
    adapters = f", LoRA of rank {spec.lora.rank}" if spec.lora else ""
    layout = f"{workers}, ZeRO {spec.zero_stage}{adapters}" + (
        f", offload to {spec.offload}" if spec.offload != "none" else ""
    )
    state = _size(state_gb(spec, shape)) if shape else "unknown before the model is here"
    notes = [layout, f"model state {state} per worker (activations come on top)"]
    if spec.teacher:
        teacher = facts(spec.teacher.model)
        size = f"{_size(teacher_gb(spec, teacher))} per worker" if teacher else "of unknown size"
        notes.append(f"live teacher {spec.teacher.model} {size}")
    if shape:
        piece, whole = (
            spec.logits_mib * 2**20 / 1e9,
            spec.batch_size * spec.block_tokens * shape.vocab * 4 / 1e9,
        )
        notes += (
            [f"logits {_size(piece)} at a time in place of {_size(whole)}"] if piece < whole else []
        )
        if 0 < shape.short_context < shape.max_context:
            used = "short" if spec.block_tokens <= shape.short_context else "long"
            notes.append(
                f"trained with its {used} rope factors; vLLM uses the short ones up to"
                f" max_model_len {shape.short_context:,} only"
            )
    return Need("train", fewest, tuple(notes))


def state_gb(spec: TrainSpec, model: Architecture) -> float:
    """Device memory of weights, gradients and optimizer per worker in GB (B6.10 with the safe 18
    bytes: 2 + 16).

    In bf16: stage 0 holds 4+16 bytes per parameter, 1: 4+16/n, 2: 2+18/n, 3: 18/n + 4 x the largest
    tensor and a reduce bucket. Offloading leaves the weights and one gradient on the device (stages
    1, 2), or the largest tensor and the bucket (stage 3). With LoRA the parameters are the
    adapters', and the student's frozen weights come on top: shared out at stage 3, half a byte for
    each in a layer with nf4. n: fewest workers.
    """
    weight, n, largest_b = (
        _weight_bytes(spec),
        spec.worker_range[0],
        model.vocab * model.hidden / 1e9,
    )
    trained_b = adapters_b(spec.lora, model) if spec.lora else model.params_b
    frozen_gb = _frozen_gb(spec, model) if spec.lora else 0.0
    if spec.zero_stage == 3:
        shard = 0 if spec.offload != "none" else trained_b * (weight + ADAM_BYTES) / n
        bucket_gb = weight * min(BUCKET_B, trained_b)  # DeepSpeed holds it for good
        return shard + frozen_gb / n + 2 * weight * largest_b + bucket_gb
    if spec.offload == "cpu":
        return (
            trained_b * weight + frozen_gb + weight * min(largest_b, trained_b)
        )  # a buffer for gradients on their way
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
    hidden, query, key = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    ends = {
        "q_proj": hidden + query,
        "k_proj": hidden + key,
        "v_proj": hidden + key,
        "o_proj": query + hidden,
        "gate_proj": hidden + model.ffn,
        "up_proj": hidden + model.ffn,
        "down_proj": model.ffn + hidden,
    }
    fused = {
        "qkv_proj": hidden + query + 2 * key,
        "gate_up_proj": hidden + 2 * model.ffn,
    }  # Phi-3's
    names = ends if lora.targets == "all-linear" else lora.targets
    return lora.rank * model.layers * sum((ends | fused).get(name, 0) for name in names) / 1e9


def teacher_gb(spec: TrainSpec, teacher: Architecture) -> float:
    """Weights of a live teacher per worker in GB, in the type of train.precision: shared out at
    ZeRO stage 3, else a copy each."""
    whole = teacher.params_b * _weight_bytes(spec)
    return whole / spec.worker_range[0] if spec.zero_stage == 3 else whole


def signal_bytes_per_token(capture: CaptureSpec, vocab: int | None = None) -> int:
    """Stored bytes of one answer token's distribution before compression: k (id, log-probability),
    tail, own (B6.13).

    Packed ones depend on the vocabulary; where it is not known yet, the plain size is what they
    stay below.
    """
    if capture.codec == "packed" and vocab:
        return token_bytes(capture.top_k, vocab, capture.packed_bits) + 4
    return capture.top_k * (4 + (2 if capture.dtype == "float16" else 4)) + 8


def _size(gb: float) -> str:
    return f"{gb:,.1f} GB" if gb >= 1 else f"{gb * 1000:,.1f} MB"
