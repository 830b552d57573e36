"""The block `train`: examples become a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from engine.job.spec.base import Block, identity, placement
from engine.job.spec.losses import DistributionLoss, LossSpec, SftLoss, UldLoss

Pairs = Annotated[
    list[Annotated[list[int], Field(min_length=2, max_length=2)]], Field(min_length=1)
]


class LoraSpec(Block):
    """Low-rank adapters in place of full training (peft), merged into the student at export."""

    rank: int = identity(16, ge=1, le=1024)
    """Rank of each adapter."""
    alpha: float = identity(32.0, gt=0)
    """Scale: an adapter's update counts alpha / rank."""
    dropout: float = identity(0.0, ge=0, lt=1)
    """Dropout of the adapters' inputs."""
    targets: Literal["all-linear"] | list[str] = identity("all-linear")
    """Names of the modules that get an adapter; `all-linear`: every linear layer but the output
    head."""
    quantize: Literal["none", "nf4"] = identity("none")
    """`nf4`: QLoRA, the frozen weights in 4 bits (bitsandbytes, GPUs only)."""
    keep_adapter: bool = identity(False)
    """Also keep the adapter by itself, as peft and vLLM (`serve.adapters`) read it, in the folder
    `adapter` beside the student."""


class LiveTeacherSpec(Block):
    """A teacher whose weights are here while the student trains: frozen, sharded with zero_stage:
    3, else a copy per worker."""

    model: str = placement()
    """Folder or hub name of the teacher. Identity is its content or the revision."""
    revision: str | None = identity(None)
    """Hub commit of the teacher."""


class HiddenSpec(Block):
    """Matching of hidden states with those of train.teacher."""

    layers: Pairs = identity()
    """[student layer, teacher layer] pairs; 1 is the first layer's output, 0 the embeddings."""
    loss: Literal["mse", "cosine"] = identity("mse")
    """Mean squared error, or 1 - cosine, per target token."""
    weight: float = identity(1.0, gt=0)
    """Factor of this term."""


class AttentionTransferSpec(Block):
    """Matching of attention maps, averaged over heads, with those of train.teacher."""

    layers: Pairs = identity()
    """[student layer, teacher layer] pairs; layers count from 1."""
    weight: float = identity(1.0, gt=0)
    """Factor of this term."""


class GatesSpec(Block):
    """Checks before the first step, each seconds long."""

    rescored_examples: int = placement(8, ge=0)
    """Examples whose stored signal is compared with a forward pass of the teacher, where it is at
    hand; 0: none."""
    max_drift: float = placement(0.1, gt=0)
    """Largest mean |difference| in nats that comparison may show: engine and trainer must see the
    same teacher."""
    min_captured_mass: float = placement(0.5, ge=0, lt=1)
    """Least mean probability that the stored top-k holds per token."""
    max_loss_error: float = placement(0.02, gt=0)
    """Largest relative difference between the first batch's loss and a float64 dense computation on
    a slice of it."""


class TrainSpec(Block):
    """Examples -> checkpoint."""

    student: str = placement()
    """Folder or hub name of the student. Identity is its content or the revision."""
    revision: str | None = identity(None)
    """Hub commit of the student."""
    init: Literal["pretrained", "random"] = identity("pretrained")
    """`random` needs only a config.json and starts from seeded random weights."""
    tokenizer: str | None = placement(None)
    """Folder or hub name of the student's tokenizer, if it does not lie with the student."""
    loss: LossSpec = identity(SftLoss())
    """What the student learns from: `{kind: jsd, beta: 0.5}`, or its kind alone, `forward_kl`.
    `sft` learns the teacher's tokens, the others compare distributions, `uld` across tokenizers
    (training/losses.py)."""
    teacher: LiveTeacherSpec | None = identity(None)
    """A live teacher: losses use its whole distribution in place of a stored top-k."""
    hidden: HiddenSpec | None = identity(None)
    """Also match hidden states of train.teacher."""
    attention_transfer: AttentionTransferSpec | None = identity(None)
    """Also match attention maps of train.teacher."""
    long_examples: Literal["drop", "truncate", "split"] = identity("drop")
    """Examples longer than block_tokens: dropped, cut at its end, or cut into pieces that do not
    see each other."""
    learning_rate: float = identity(2e-5, gt=0, le=1)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = identity("cosine")
    """Learning rate after the warm-up: falls to its minimum by a cosine or a line, stays, or stays
    and falls at the end (wsd)."""
    min_learning_rate_ratio: float = identity(0.1, ge=0, le=1)
    """The learning rate falls to this fraction of the peak."""
    warmup_ratio: float = identity(0.03, ge=0, lt=1)
    """Fraction of the steps in which the learning rate rises linearly."""
    decay_ratio: float = identity(0.2, gt=0, le=1)
    """Fraction of the steps in which `wsd` falls."""
    weight_decay: float = identity(0.0, ge=0, le=1)
    """AdamW's decoupled weight decay."""
    adam_beta2: float = identity(0.999, gt=0, lt=1)
    """AdamW's second-moment decay; 0.95 is steadier in short runs from random weights."""
    max_grad_norm: float = identity(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    epochs: int = identity(3, ge=1, le=1000)
    """Passes over the examples."""
    block_tokens: int = identity(2048, ge=16)
    """Length of a packed block."""
    global_batch: int | None = identity(None, ge=1)
    """Blocks per optimizer step; none: batch_size x workers x accumulation at the first start, then
    kept."""
    precision: Literal["fp32", "bf16"] = identity("bf16")
    """Type of weights in forward and backward; the optimizer is always fp32. With bf16, gradients
    of a step's micro-batches add up in fp32 from zero_stage 2 on, in bf16 below."""
    lora: LoraSpec | None = identity(None)
    """Train low-rank adapters only."""
    validate_steps: int = identity(200, ge=1)
    """Optimizer steps between validation losses; there is always one at the end."""
    export: Literal["last", "best"] = identity("last")
    """Which weights become the student: those of the last step, or of the least validation loss."""
    early_stopping: int | None = identity(None, ge=1)
    """End after this many validations in a row without a new least loss."""
    batch_size: int = placement(2, ge=1)
    """Blocks per worker per micro-step."""
    accumulation: int = placement(1, ge=1)
    """Micro-steps per optimizer step at the first start, when global_batch is not given."""
    workers: int = placement(1, ge=1)
    """Data-parallel workers (one GPU each, or one CPU each with device: cpu)."""
    elastic: list[int] | None = placement(None)
    """[fewest, most] workers in place of `workers`: starts with what is there, restarts larger or
    smaller as nodes come and go. Where their number does not divide the global batch, some workers
    take a block less."""
    zero_stage: int = placement(2, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    offload: Literal["none", "cpu", "nvme"] = placement("none")
    """Where ZeRO keeps optimizer states (and parameters at stage 3); nvme wants stage 3."""
    nvme_path: str | None = placement(None)
    """Folder on each node's NVMe disk for offload: nvme."""
    deepspeed: dict[str, Any] = placement({})
    """Further settings of DeepSpeed's configuration; what this block decides may not be set
    there."""
    gradient_checkpointing: bool = placement(False)
    """Recompute activations in the backward pass: less memory, about a third more time."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = placement(
        "auto"
    )
    """transformers' attention; auto: example by example on a CPU, variable-length flash attention
    on a GPU (the flash_attn package's, else torch's), sdpa where neither can; example by
    example for gpt-oss's attention sinks, eager for capped attention."""
    logits_mib: int = placement(32, ge=1)
    """Size of the piece of logits that exists at a time, in MiB of fp32."""
    cache_dir: str | None = placement(None)
    """Local folder to which workers copy the shards that they read; none: read where they lie."""
    cache_gib: float = placement(50.0, gt=0)
    """Most that cache_dir may hold on a node, in GiB; at least one shuffling window of shards (2
    GiB)."""
    checkpoint_steps: int = placement(200, ge=1)
    """Optimizer steps between checkpoints."""
    keep_checkpoints: int = placement(2, ge=1)
    """Complete checkpoints kept on disk, beside the best one."""
    max_failures: int = placement(3, ge=0)
    """Worker-group restarts before the stage fails."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = placement(["tensorboard"])
    """Where figures go beside metrics.jsonl; wandb and mlflow must be installed."""
    gates: GatesSpec = placement(GatesSpec())
    """Checks before the first step."""

    @field_validator("loss", mode="before")
    @classmethod
    def _a_loss_may_be_its_kind_alone(cls, loss: Any) -> Any:
        return {"kind": loss} if isinstance(loss, str) else loss

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> TrainSpec:
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError(
                f"train.offload={self.offload} moves what ZeRO shards, but train.zero_stage=0"
                " shards nothing; set zero_stage: 1, 2 or 3"
            )
        if self.offload == "nvme" and (self.zero_stage != 3 or not self.nvme_path):
            raise ValueError(
                f"train.offload=nvme wants zero_stage: 3 and nvme_path; given {self.zero_stage} and"
                f" {self.nvme_path}"
            )
        reloads = "export: best" if self.export == "best" else "elastic" if self.elastic else None
        if self.offload == "nvme" and reloads:
            raise ValueError(
                f"train.{reloads} loads a checkpoint, which DeepSpeed cannot with offload=nvme;"
                " set offload: cpu, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _the_schedule_reads_what_is_given(self) -> TrainSpec:
        fields = type(self).model_fields
        for name, reads in (
            ("decay_ratio", self.schedule == "wsd"),
            ("min_learning_rate_ratio", self.schedule != "constant"),
        ):
            if not reads and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"train.{name}={getattr(self, name)} is not read by schedule={self.schedule};"
                    " leave it out, or take another schedule"
                )
        return self

    @model_validator(mode="after")
    def _the_batch_divides(self) -> TrainSpec:
        if self.elastic is not None and not (
            len(self.elastic) == 2 and 1 <= self.elastic[0] <= self.elastic[1]
        ):
            raise ValueError(
                f"train.elastic={self.elastic}; give [fewest, most] workers, such as [2, 8]"
            )
        if self.global_batch and not self.elastic and self.global_batch % self.workers:
            raise ValueError(
                f"train.global_batch={self.global_batch} blocks do not divide over"
                f" workers={self.workers};"
                f" choose a multiple of {self.workers}, or a number of workers that divides it"
            )
        return self

    @model_validator(mode="after")
    def _losses_have_what_they_compare(self) -> TrainSpec:
        matches_layers = self.hidden or self.attention_transfer
        if self.teacher and not self.loss.reads_signal and not matches_layers:
            raise ValueError(
                f"train.teacher is live, but loss={self.loss.kind} reads none of it; set loss:"
                " forward_kl (or hidden), or leave teacher out"
            )
        if self.teacher and isinstance(self.loss, UldLoss):
            raise ValueError(
                "train.loss=uld learns from a stored top-k; leave train.teacher out, or choose"
                " another loss"
            )
        if self.teacher and isinstance(self.loss, DistributionLoss) and self.loss.tail != "bucket":
            raise ValueError(
                f"train.loss.tail={self.loss.tail} is about the mass outside a stored top-k, but"
                " train.teacher gives its whole distribution; leave tail out"
            )
        for name in ("hidden", "attention_transfer"):
            if getattr(self, name) and not self.teacher:
                raise ValueError(
                    f"train.{name} matches layers of a live teacher; give teacher: {{model: ...}}"
                )
        if self.attention_transfer and self.attention not in ("auto", "eager"):
            raise ValueError(
                f"train.attention_transfer reads attention maps, which attention={self.attention}"
                " never makes; set attention: eager"
            )
        if self.lora and "lm_head" in self.lora.targets:
            raise ValueError(
                "train.lora.targets adapt the output head (lm_head), which the losses read as it"
                " is; leave it out"
            )
        if self.lora and self.lora.quantize != "none" and self.zero_stage == 3:
            raise ValueError(
                f"train.lora.quantize={self.lora.quantize} packs weights, which zero_stage=3 cannot"
                " shard; set zero_stage: 2"
            )
        return self

    @property
    def reads_stored_signal(self) -> bool:
        """Whether the loss learns from the distribution that generate captured."""
        return self.loss.reads_signal and self.teacher is None

    def models(self) -> list[str]:
        """Folders and hub names whose content decides the result."""
        models = [self.student, self.tokenizer or ""]
        if self.teacher:
            models.append(self.teacher.model)
        return models

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        if self.elastic:
            return self.elastic[0], self.elastic[1]
        return self.workers, self.workers
