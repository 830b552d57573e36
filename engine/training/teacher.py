"""A live teacher beside the student: frozen, its hidden states, attention maps and head there to
learn from.

Being a submodule of the student's wrapper it is sharded with it under ZeRO-3, and a copy per worker
otherwise. Shapes: B blocks, L tokens, N targets, H and G hidden sizes of student and teacher.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from engine.errors import StageError
from engine.job.spec import AttentionTransferSpec, HiddenSpec, TrainSpec
from engine.training.blocks import Batch


def check_pairs(spec: TrainSpec, student: PretrainedConfig) -> PretrainedConfig:
    """The teacher's configuration. StageError where the two cannot be compared as the job asks."""
    assert spec.teacher
    teacher = AutoConfig.from_pretrained(
        spec.teacher.model, revision=spec.teacher.revision
    ).get_text_config()
    student = student.get_text_config()
    if spec.loss.reads_signal and teacher.vocab_size != student.vocab_size:
        raise StageError(
            f"train: loss {spec.loss.kind} compares whole distributions, but train.teacher has"
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
    for name, match, first in (
        ("hidden", spec.hidden, 0),
        ("attention_transfer", spec.attention_transfer, 1),
    ):
        for ours, theirs in _pairs(match):
            _check_layer(name, ours, "student", first, student.num_hidden_layers)
            _check_layer(name, theirs, "teacher", first, teacher.num_hidden_layers)
    return teacher


def _pairs(match: HiddenSpec | AttentionTransferSpec | None) -> list[list[int]]:
    if match is None:
        return []
    return match.layers


def _check_layer(name: str, layer: int, side: str, first: int, last: int) -> None:
    if not first <= layer <= last:
        raise StageError(
            f"train: train.{name}.layers names layer {layer} of the {side}, which has {last};"
            f" choose {first} to {last}"
        )


class LayerMatch(nn.Module):
    """Distance of chosen layers of student and teacher, per target and summed."""

    def __init__(
        self, spec: TrainSpec, student: PretrainedConfig, teacher: PretrainedConfig
    ) -> None:
        super().__init__()
        self._hidden = spec.hidden
        self._attention = spec.attention_transfer
        # One learned projection per pair (TinyBERT, Jiao et al. 2020, arXiv 1909.10351), at first
        # the identity as far as sizes allow.
        self.projections = nn.ModuleList()
        for _ in _pairs(spec.hidden):
            projection = nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
            nn.init.eye_(projection.weight)
            self.projections.append(projection)

    @property
    def wants(self) -> dict[str, bool]:
        """What both models must give besides their last hidden state."""
        return {
            "output_hidden_states": self._hidden is not None,
            "output_attentions": self._attention is not None,
        }

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """The weighted sum of both terms over the batch's targets, fp32."""
        total = torch.zeros((), device=batch.where_N.device)
        if self._hidden:
            distance = HIDDEN_LOSSES[self._hidden.loss]
            for (ours, theirs), projection in zip(
                self._hidden.layers, self.projections, strict=True
            ):
                student_NH = _at(student.hidden_states[ours], batch)
                student_NG = projection(student_NH).float()
                teacher_NG = _at(teacher.hidden_states[theirs], batch).float()
                distances_N = distance(student_NG, teacher_NG)
                total = total + self._hidden.weight * distances_N.sum()
        if self._attention:
            for ours, theirs in self._attention.layers:
                student_NL = _heads_mean_at(student.attentions[ours - 1], batch)
                teacher_NL = _heads_mean_at(teacher.attentions[theirs - 1], batch)
                distances_N = attention_kl(student_NL, teacher_NL)
                total = total + self._attention.weight * distances_N.sum()
        return total


def hidden_mse(student_NG: Tensor, teacher_NG: Tensor) -> Tensor:
    """Mean over dimensions of the squared difference, (N,) (FitNets, Romero et al. 2015, arXiv
    1412.6550)."""
    return (student_NG - teacher_NG).square().mean(1)


def hidden_cosine(student_NG: Tensor, teacher_NG: Tensor) -> Tensor:
    """1 - cosine of the angle, (N,) (DistilBERT, Sanh et al. 2019, arXiv 1910.01108)."""
    return 1 - F.cosine_similarity(student_NG, teacher_NG, dim=1)


def attention_kl(student_NL: Tensor, teacher_NL: Tensor) -> Tensor:
    """KL(teacher || student) between rows of attention maps averaged over heads, (N,) (MiniLM, Wang
    et al. 2020, arXiv 2002.10957).

    The mean over heads lets the two models have different numbers of them.
    """
    floor = torch.finfo(torch.float32).tiny
    return (
        teacher_NL * (teacher_NL.clamp_min(floor).log() - student_NL.clamp_min(floor).log())
    ).sum(1)


HIDDEN_LOSSES = {"mse": hidden_mse, "cosine": hidden_cosine}


def _heads_mean_at(maps_BALL: Tensor, batch: Batch) -> Tensor:
    """The mean over heads A at the positions that predict a target: (N, L)."""
    return _at(maps_BALL.mean(1), batch).float()


def _at(states_BLX: Tensor, batch: Batch) -> Tensor:
    """Rows of the positions that predict a target: (N, X)."""
    return states_BLX.flatten(0, 1)[batch.where_N]
