"""A live teacher: the whole distribution, hidden states and attention maps to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.training.blocks import Batch, Blocks
from engine.training.data import TokenSequence
from engine.training.losses import LOSSES
from engine.training.packing import write_blocks
from engine.training.student import Student, load_student
from engine.training.teacher import check_pairs

V = 48


def config(layers: int, hidden: int, heads: int, vocabulary: int = V, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **more,
    )


STUDENT, TEACHER = config(2, 16, 2), config(4, 32, 4)


def model(shape: LlamaConfig, seed: int) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(shape, attn_implementation="eager")


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    rng = np.random.default_rng(0)
    rows = [
        TokenSequence(rng.integers(0, V, n, dtype=np.int32), np.arange(n) >= n // 2)
        for n in (9, 12, 7, 14, 8)
    ]
    write_blocks(rows, tmp_path / "b", "train", room=24, seed=0)
    blocks = Blocks(tmp_path / "b", "train")
    return blocks.batch(range(len(blocks)))


def seen(m: Any, batch: Batch, **more: Any) -> Any:
    """The model's own forward pass; with a cache transformers would not see the examples'
    borders."""
    with torch.no_grad():
        return m(
            input_ids=batch.input_ids_BL,
            position_ids=batch.position_ids_BL,
            use_cache=False,
            **more,
        )


def spec_of(**more: Any) -> TrainSpec:
    return TrainSpec(student="x", teacher={"model": "t"}, **more)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "uld"])
def test_a_student_equal_to_its_teacher_has_no_loss_but_sft(loss: str, batch: Batch) -> None:
    layers = {
        "hidden": {"layers": [[0, 0], [1, 1], [2, 2]]},
        "attention_transfer": {"layers": [[1, 1], [2, 2]]},
    }
    same = Student(model(STUDENT, 1), spec_of(loss=loss, **layers), model(STUDENT, 1))
    value, _ = same(batch)
    value.backward()
    if loss == "sft":
        assert value > 1
    else:
        assert abs(value.item()) < 1e-5
        assert (
            loss == "tvd"
            or max(param.grad.abs().max() for param in same.parameters() if param.grad is not None)
            < 1e-4
        )


def test_the_live_distribution_is_that_of_the_teachers_own_logits(batch: Batch) -> None:
    student, teacher = model(STUDENT, 1), model(TEACHER, 2)
    p, q = (
        seen(m, batch).logits.flatten(0, 1)[batch.where_N].double().softmax(1)
        for m in (teacher, student)
    )
    value, right = Student(student, spec_of(loss="reverse_kl"), teacher)(batch)
    torch.testing.assert_close(value.item(), float((q * (q / p).log()).sum()), rtol=1e-5, atol=0)
    assert int(right) == int((q.argmax(1) == batch.labels_N).sum())


def test_maps_after_dropout_are_not_compared(tmp_path: Path) -> None:
    TEACHER.save_pretrained(tmp_path / "teacher")
    spec = TrainSpec(
        student="x",
        teacher={"model": str(tmp_path / "teacher")},
        attention_transfer={"layers": [[1, 1]]},
    )
    with pytest.raises(StageError, match=r"attention_dropout of 0\.1; set that to 0"):
        check_pairs(spec, config(2, 16, 2, attention_dropout=0.1))


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_hidden_states_are_matched_by_a_learned_projection(kind: str, batch: Batch) -> None:
    ours = model(STUDENT, 1), model(TEACHER, 2)
    spec = spec_of(hidden={"layers": [[1, 2], [2, 4]], "loss": kind, "weight": 0.5})
    student = Student(*ours[:1], spec, ours[1])
    value, _ = student(batch)
    plain, _ = Student(ours[0], TrainSpec(student="x"))(batch)
    expected = 0.0
    states = [seen(m, batch, output_hidden_states=True).hidden_states for m in ours]
    for (a, b), projection in zip([(1, 2), (2, 4)], student.match.projections, strict=True):
        h, t = (
            states[0][a].flatten(0, 1)[batch.where_N] @ projection.weight.detach().T,
            states[1][b].flatten(0, 1)[batch.where_N],
        )
        cosine = (h * t).sum(1) / (h.norm(dim=1) * t.norm(dim=1))
        expected += float(((h - t) ** 2).mean(1).sum() if kind == "mse" else (1 - cosine).sum())
    assert float((value - plain).detach()) == pytest.approx(0.5 * expected, rel=1e-4)
    value.backward()
    assert all(projection.weight.grad.any() for projection in student.match.projections)


def test_attention_maps_are_matched_over_different_numbers_of_heads(batch: Batch) -> None:
    ours = model(STUDENT, 1), model(TEACHER, 2)
    student = Student(
        ours[0], spec_of(attention_transfer={"layers": [[2, 3]], "weight": 1e4}), ours[1]
    )
    value, _ = student(batch)
    plain, _ = Student(ours[0], TrainSpec(student="x"))(batch)
    q, p = (
        seen(m, batch, output_attentions=True)
        .attentions[layer - 1]
        .mean(1)
        .flatten(0, 1)[batch.where_N]
        .double()
        for m, layer in zip(ours, (2, 3), strict=True)
    )
    torch.testing.assert_close(p.sum(1), torch.ones(len(p), dtype=torch.float64), rtol=1e-5, atol=0)
    assert (p > 0).sum(
        1
    ).max() < 15  # no attention across examples, of which the longest has 14 tokens
    expected = torch.where(p > 0, p * (p / q).log(), 0).sum()
    # a divergence of 5e-4 between maps of float32, which other processors round otherwise
    assert float((value - plain).detach()) == pytest.approx(1e4 * float(expected), rel=1e-3)


def test_the_teacher_is_frozen_and_stays_in_evaluation(batch: Batch) -> None:
    student = Student(model(STUDENT, 1), spec_of(loss="forward_kl"), model(TEACHER, 2)).train()
    student(batch)[0].backward()
    assert student.model.training
    assert not student.teacher.training
    assert all(
        not param.requires_grad and param.grad is None for param in student.teacher.parameters()
    )


@pytest.mark.parametrize(
    ("more", "teacher", "message"),
    [
        (
            {"loss": "forward_kl"},
            config(1, 16, 2, 64),
            "train.teacher has 64 tokens and the student 48 .* learn from a stored top-k instead",
        ),
        (
            {"hidden": {"layers": [[3, 1]]}},
            TEACHER,
            "layer 3 of the student, which has 2; choose 0 to 2",
        ),
        (
            {"hidden": {"layers": [[1, 5]]}},
            TEACHER,
            "layer 5 of the teacher, which has 4; choose 0 to 4",
        ),
        (
            {"attention_transfer": {"layers": [[0, 1]]}},
            TEACHER,
            "layer 0 of the student, which has 2; choose 1 to 2",
        ),
    ],
)
def test_shapes_that_cannot_be_matched_are_refused(
    more: dict[str, Any], teacher: LlamaConfig, message: str, tmp_path: Path
) -> None:
    teacher.save_pretrained(tmp_path)
    with pytest.raises(StageError, match=message):
        check_pairs(TrainSpec(student="x", teacher={"model": str(tmp_path)}, **more), STUDENT)


def test_a_loaded_student_has_its_teacher_and_eager_attention_for_the_maps(
    tmp_path: Path, batch: Batch
) -> None:
    for name, shape in (("student", STUDENT), ("teacher", TEACHER)):
        model(shape, 1).save_pretrained(tmp_path / name)
    spec = TrainSpec(
        student=str(tmp_path / "student"),
        precision="fp32",
        loss="jsd",
        teacher={"model": str(tmp_path / "teacher")},
        attention_transfer={"layers": [[1, 1]]},
        gradient_checkpointing=True,
    )
    student = load_student(spec.student, spec, "cpu", 0)
    assert (
        student.model.config._attn_implementation
        == student.teacher.config._attn_implementation
        == "eager"
    )
    student(batch)[0].backward()
    assert student.model.model.embed_tokens.weight.grad.any()
