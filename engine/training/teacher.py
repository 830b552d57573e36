"""A live teacher beside the student: frozen, its hidden states, attention maps and head there to
learn from.

Being a submodule of the student's wrapper it is sharded with it under ZeRO-3, and a copy per worker
otherwise. Shapes: B blocks, L tokens, N targets, H and G hidden sizes of student and teacher.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.training.blocks import Batch


def check_pairs(spec: TrainSpec, student: PretrainedConfig) -> PretrainedConfig:
    """The teacher's configuration. StageError where the two cannot be compared as the job asks."""
    assert spec.teacher
    teacher = AutoConfig.from_pretrained(
        spec.teacher.model, revision=spec.teacher.revision
    ).get_text_config()
    student = student.get_text_config()
    if spec.loss != "sft" and teacher.vocab_size != student.vocab_size:
        raise StageError(
            f"train: loss {spec.loss} compares whole distributions, but train.teacher has"
            f" {teacher.vocab_size:,} tokens and the student"
            f" {student.vocab_size:,} (families pad their vocabularies differently); learn from a"
            " stored top-k instead: set"
            " generate.capture.top_k and leave train.teacher out"
        )
    if spec.attention_transfer and (dropout := getattr(student, "attention_dropout", 0)):
        raise StageError(
            "train: attention_transfer compares attention maps, which the student gives only after"
            f" its attention_dropout of {dropout}; set"
            " that to 0 in the config.json of a local copy of the student, or leave"
            " attention_transfer out"
        )
    for name, first in (("hidden", 0), ("attention_transfer", 1)):
        for pair in getattr(spec, name).layers if getattr(spec, name) else ():
            for side, config, layer in zip(
                ("student", "teacher"), (student, teacher), pair, strict=True
            ):
                if not first <= layer <= config.num_hidden_layers:
                    raise StageError(
                        f"train: train.{name}.layers names layer {layer} of the {side}, which has"
                        f" {config.num_hidden_layers};"
                        f" choose {first} to {config.num_hidden_layers}"
                    )
    return teacher


class LayerMatch(nn.Module):
    """Distance of chosen layers of student and teacher, per target and summed."""

    def __init__(
        self, spec: TrainSpec, student: PretrainedConfig, teacher: PretrainedConfig
    ) -> None:
        super().__init__()
        self._hidden, self._attention = spec.hidden, spec.attention_transfer
        # One learned projection per pair (TinyBERT, Jiao et al. 2020, arXiv 1909.10351), at first
        # the identity as far as sizes allow.
        self.projections = nn.ModuleList(
            nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
            for _ in (spec.hidden.layers if spec.hidden else ())
        )
        for projection in self.projections:
            nn.init.eye_(projection.weight)

    @property
    def wants(self) -> dict[str, bool]:
        """What both models must give besides their last hidden state."""
        return {
            "output_hidden_states": self._hidden is not None,
            "output_attentions": self._attention is not None,
        }

    def forward(self, student: Any, teacher: Any, batch: Batch) -> torch.Tensor:
        """The weighted sum of both terms over the batch's targets, fp32."""
        total = torch.zeros((), device=batch.where_N.device)
        if self._hidden:
            for (ours, theirs), projection in zip(
                self._hidden.layers, self.projections, strict=True
            ):
                states = (
                    projection(_at(student.hidden_states[ours], batch)).float(),
                    _at(teacher.hidden_states[theirs], batch).float(),
                )
                total = (
                    total + self._hidden.weight * HIDDEN_LOSSES[self._hidden.loss](*states).sum()
                )
        if self._attention:
            for ours, theirs in self._attention.layers:
                maps = student.attentions[ours - 1], teacher.attentions[theirs - 1]
                rows = (_at(heads_BNLL.mean(1), batch).float() for heads_BNLL in maps)
                total = total + self._attention.weight * attention_kl(*rows).sum()
        return total


def hidden_mse(student_NG: torch.Tensor, teacher_NG: torch.Tensor) -> torch.Tensor:
    """Mean over dimensions of the squared difference, (N,) (FitNets, Romero et al. 2015, arXiv
    1412.6550)."""
    return (student_NG - teacher_NG).square().mean(1)


def hidden_cosine(student_NG: torch.Tensor, teacher_NG: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the angle, (N,) (DistilBERT, Sanh et al. 2019, arXiv 1910.01108)."""
    return 1 - F.cosine_similarity(student_NG, teacher_NG, dim=1)


def attention_kl(student_NL: torch.Tensor, teacher_NL: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) between rows of attention maps averaged over heads, (N,) (MiniLM, Wang
    et al. 2020, arXiv 2002.10957).

    The mean over heads lets the two models have different numbers of them.
    """
    floor = torch.finfo(torch.float32).tiny
    return (
        teacher_NL * (teacher_NL.clamp_min(floor).log() - student_NL.clamp_min(floor).log())
    ).sum(1)


HIDDEN_LOSSES = {"mse": hidden_mse, "cosine": hidden_cosine}


def _at(states_BLX: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Rows of the positions that predict a target: (N, X)."""
    return states_BLX.flatten(0, 1)[batch.where_N]
