"""The student as a module whose forward pass is the job's loss, and how it is loaded and becomes
plain weights again.

Shapes: B blocks, L tokens, N targets, n of them in a piece, V vocabulary.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from engine.errors import StageError
from engine.job.spec import LoraSpec, TrainSpec
from engine.rows.ids import derive_seed
from engine.training.attention import attention_of
from engine.training.blocks import Batch
from engine.training.cpu_kernels import linear, use_onednn
from engine.training.export import export
from engine.training.head import head_loss, lend_weights
from engine.training.losses import Targets, token_losses
from engine.training.rope import pin_long_rope
from engine.training.teacher import LayerMatch, check_pairs

if TYPE_CHECKING:
    from peft import PeftModel  # seconds to import, and only for adapters

_log = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Student(nn.Module):
    """A causal model, and the live teacher if there is one. What has a gradient is trained; only
    `model` is exported."""

    def __init__(
        self, model: PreTrainedModel, spec: TrainSpec, teacher: PreTrainedModel | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.exact = False  # for the gates: losses by the models' own logits, in float64
        self._causal = [model]  # in a list: the module owns it as `model`, with its adapters
        self._adjust = logit_adjustment(model.config)
        lend_weights(model.get_output_embeddings())
        self.model = with_adapters(model, spec.lora) if spec.lora else model
        self.teacher = teacher
        self.match: LayerMatch | None = None
        if teacher is not None:
            self._adjust_teacher = logit_adjustment(teacher.config)
            teacher.requires_grad_(False)
            lend_weights(teacher.get_output_embeddings())
            if spec.hidden or spec.attention_transfer:
                self.match = LayerMatch(
                    spec, model.config.get_text_config(), teacher.config.get_text_config()
                ).to(model.dtype)

    def train(self, mode: bool = True) -> Student:
        """The teacher never trains: no dropout."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the batch's N targets, and how many of them have the largest logit;
        both fp32."""
        more: Mapping[str, bool] = {}
        if self.match:
            more = self.match.wants
        if self.exact:
            return self._exact_loss(batch, more)
        seen = _backbone(self._causal[0], batch, more)
        if self.teacher is None:
            return self._head_loss(seen, batch, None)
        with torch.no_grad():
            shown = _backbone(self.teacher, batch, more)
        if not self.spec.loss.reads_signal:
            loss, right = self._head_loss(seen, batch, None)
        else:
            # Inside the teacher's head, so that ZeRO-3 has it whole for all pieces: ranks differ in
            # how many they have.
            loss, right = self.teacher.get_output_embeddings()(
                _targets_of(shown, batch),
                lambda hidden, weight, bias: self._head_loss(seen, batch, (hidden, weight, bias)),
            )
        if self.match:
            loss = loss + self.match(seen, shown, batch)
        return loss, right

    def _exact_loss(self, batch: Batch, more: Mapping[str, bool]) -> tuple[Tensor, Tensor]:
        """Of a batch of one block."""
        inputs = {
            "input_ids": batch.input_ids_BL,
            "position_ids": batch.position_ids_BL,
            "use_cache": False,
            "logits_to_keep": batch.where_N,
            **more,
        }
        seen = self._causal[0](**inputs)
        shown = None
        if self.teacher is not None:
            shown = self.teacher(**inputs)
        logits_NV = seen.logits[0].double()
        dense = None
        if shown is not None and self.spec.loss.reads_signal:
            dense = shown.logits[0].double()
        targets = Targets(
            batch.labels_N,
            batch.topk_ids_NK,
            batch.topk_logprobs_NK.double(),
            batch.tail_N.double(),
            dense,
        )
        loss = token_losses(logits_NV, targets, self.spec.loss).sum()
        if self.match:
            loss = loss + self.match(seen, shown, batch)
        return loss, (logits_NV.argmax(1) == batch.labels_N).sum()

    def _head_loss(
        self, seen: Any, batch: Batch, teacher: tuple[Any, ...] | None
    ) -> tuple[Tensor, Tensor]:
        def piece_loss(logits_nV: Tensor, piece: slice) -> tuple[Tensor, Tensor]:
            logits_nV = self._adjust(logits_nV)
            labels_n = batch.labels_N[piece]
            dense = None
            if teacher is not None:
                hidden, weight, bias = teacher
                dense = self._adjust_teacher(
                    linear(hidden[piece], weight, bias).to(logits_nV.dtype)
                )
            targets = Targets(
                labels_n,
                batch.topk_ids_NK[piece],
                batch.topk_logprobs_NK[piece],
                batch.tail_N[piece],
                dense,
            )
            losses_n = token_losses(logits_nV, targets, self.spec.loss)
            right = logits_nV.detach().argmax(1) == labels_n
            return losses_n, right.sum()

        piece_bytes = self.spec.logits_mib * 2**20
        head = self._causal[0].get_output_embeddings()
        return head(
            _targets_of(seen, batch),
            lambda *weights: head_loss(*weights, piece_loss, piece_bytes),
        )


def _backbone(causal: PreTrainedModel, batch: Batch, more: Mapping[str, bool]) -> Any:
    """All but the head. Without a mask, transformers derives the examples' borders from the
    position ids."""
    ids = batch.input_ids_BL
    positions = batch.position_ids_BL
    if causal.config._attn_implementation == "flash_attention_2":
        # It reads the borders of a single row only.
        ids = ids.view(1, -1)
        positions = positions.view(1, -1)
    return causal.base_model(input_ids=ids, position_ids=positions, use_cache=False, **more)


def _targets_of(seen: Any, batch: Batch) -> Tensor:
    """Hidden states that predict a target, (N, H): prompts and padding never enter the head."""
    return seen.last_hidden_state.flatten(0, 1)[batch.where_N]


def logit_adjustment(config: PretrainedConfig) -> Callable[[Tensor], Tensor]:
    """What the model does to its logits behind the head: Granite and Cohere scale them, Gemma caps
    them softly."""
    config = config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (
        getattr(config, "logits_scaling", None) or 1.0
    )
    cap = getattr(config, "final_logit_softcapping", None)

    def adjust(logits: Tensor) -> Tensor:
        if scale != 1:
            logits = logits * scale
        if cap:
            return cap * torch.tanh(logits / cap)
        return logits

    return adjust


def load_student(source: str, spec: TrainSpec, device: str, seed: int) -> Student:
    """The module to train, from the weights in `source`: equal on every rank. StageError if the
    teacher's shapes cannot be matched."""
    revision = _revision_of(source, spec)
    student = _load(source, revision, spec, device, **_quantized(spec.lora))
    if spec.gradient_checkpointing:
        student.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        # frozen embeddings (LoRA) would end the graph before the first layer
        student.enable_input_require_grads()
    teacher = None
    if spec.teacher:
        check_pairs(spec, student.config)
        teacher = _load(spec.teacher.model, spec.teacher.revision, spec, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "adapters"))
        whole = Student(student, spec, teacher).train()
    if device == "cpu":
        use_onednn(whole)
    return whole


def _revision_of(source: str, spec: TrainSpec) -> str | None:
    """The hub commit of what training starts from; an untrained student is a folder, and has
    none."""
    if source == spec.student:
        return spec.revision
    return None


def _load(
    source: str, revision: str | None, spec: TrainSpec, device: str, **more: Any
) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(source, revision=revision)
    attention = attention_of(spec, device, config)
    _log.info("%s computes attention by %s", source, attention)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        revision=revision,
        dtype=DTYPES[spec.precision],
        attn_implementation=attention,
        **more,
    )
    pin_long_rope(model, spec.block_tokens)
    return model


def _quantized(lora: LoraSpec | None) -> dict[str, Any]:
    if lora is None or lora.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=lora.quantize,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config}


def with_adapters(model: PreTrainedModel, lora: LoraSpec) -> PeftModel:
    """The model with low-rank adapters, all else frozen. StageError if a target names no module."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # ty: ignore[invalid-argument-type]  # peft divides it by the rank
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    try:
        # In the model's type: DeepSpeed shards weights of one type only, and keeps fp32 copies of
        # them itself.
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise StageError(
            f"train: train.lora.targets={lora.targets} ({error}); the student has"
            f" {', '.join(_names_of_linear_layers(model))}"
        ) from None
    base = adapted.get_base_model()
    assert isinstance(base, PreTrainedModel)
    read = "which the losses read as it is; leave it out"
    if base.get_output_embeddings() is not head:
        raise StageError(f"train: train.lora.targets={lora.targets} adapt the output head, {read}")
    if head.weight is embeddings.weight and base.get_input_embeddings() is not embeddings:
        raise StageError(
            f"train: train.lora.targets={lora.targets} adapt the embeddings, here also the output"
            f" head, {read}"
        )
    return adapted


def _names_of_linear_layers(model: nn.Module) -> list[str]:
    """What train.lora.targets may name."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            names.add(name.rpartition(".")[2])
    return sorted(names - {"lm_head"})


def merged_weights(
    trained: Mapping[str, Tensor], source: str, spec: TrainSpec, adapter: Path
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The plain model (for its configuration) and its weights, from what a Student trained and the
    weights it started from. An adapter that is to be kept goes to the folder `adapter`."""
    weights = {}
    for name, tensor in trained.items():
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = tensor
    plain = AutoModelForCausalLM.from_pretrained(
        source, revision=_revision_of(source, spec), dtype=DTYPES[spec.precision]
    )
    if spec.lora:
        adapted = with_adapters(plain, spec.lora)
        unexpected = adapted.load_state_dict(weights, strict=False).unexpected_keys
        assert not unexpected, unexpected
        if spec.lora.keep_adapter:
            _keep(adapted, spec, adapter)
        merged = _merged(adapted)
        return merged, merged.state_dict()
    state = plain.state_dict()
    # those that are saved
    buffers = {name: state[name] for name, _ in plain.named_buffers() if name in state}
    return plain, buffers | weights


def _keep(adapted: PeftModel, spec: TrainSpec, folder: Path) -> None:
    """The adapter alone, for the model that training started from; whole or not at all."""
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = spec.student
    config.revision = spec.revision
    staged = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    adapted.save_pretrained(str(staged))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staged, folder)


def _merged(adapted: PeftModel) -> PreTrainedModel:
    from peft.tuners.lora import LoraModel

    adapters = adapted.base_model
    assert isinstance(adapters, LoraModel)
    plain = adapters.merge_and_unload()
    assert isinstance(plain, PreTrainedModel)
    return plain


def vocabulary_size(spec: TrainSpec) -> int:
    """Rows of the student's embedding, from its config."""
    return int(
        AutoConfig.from_pretrained(spec.student, revision=spec.revision)
        .get_text_config()
        .vocab_size
    )


def write_untrained(spec: TrainSpec, tokenizer: Any, seed: int, folder: Path) -> None:
    """The baseline of `init: random`: the student's config with seeded random weights."""
    config = AutoConfig.from_pretrained(spec.student, revision=spec.revision)
    config.dtype = DTYPES[spec.precision]
    # An architecture's default special ids belong to its own tokenizer; with another one they end
    # answers at random words.
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        # Weights are drawn in fp32, so that precision does not change the draw.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(
            DTYPES[spec.precision]
        )
    export(model, model.state_dict(), tokenizer, folder)
