"""What the gates let through, and what stops a job before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles.torch_engine import TorchEngine
from transformers import AutoModelForCausalLM, LlamaConfig

from engine.errors import StageError
from engine.job.spec import GatesSpec, GenerateSpec, TrainSpec
from engine.rows.records import EXAMPLE, Example
from engine.rows.tables import to_table, write_parquet
from engine.training import gates
from engine.training.blocks import Blocks
from engine.training.data import TokenSequence
from engine.training.packing import Packed, write_blocks
from engine.training.student import Student

V, K = 48, 6


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def captured(folder: Path, path: Path, off_by: float = 0.0) -> Path:
    """Answers with the teacher's real top-k, all log-probabilities off by a constant."""
    model, rng = AutoModelForCausalLM.from_pretrained(folder).eval(), np.random.default_rng(0)
    rows = []
    for number in range(20):
        ids = torch.from_numpy(rng.integers(0, V, (1, 12)))
        with torch.no_grad():
            logprobs, topk = model(ids).logits[0, 4:-1].log_softmax(1).topk(K)
        rows.append(
            Example(
                number,
                "t",
                0,
                "train",
                [],
                prompt_token_ids=ids[0, :5].tolist(),
                token_ids=ids[0, 5:].tolist(),
                topk_ids=topk.flatten().tolist(),
                topk_logprobs=(logprobs + off_by).flatten().tolist(),
                tail=(1 - logprobs.exp().sum(1)).tolist(),
            )
        )
    write_parquet(to_table(rows, EXAMPLE, {"top_k": K, "vocab_size": V, "teacher": "t"}), path)
    return path


def generate(model: Path | str, **more: Any) -> GenerateSpec:
    return GenerateSpec(teachers=[{"name": "t", "model": str(model), **more}])


SPEC = TrainSpec(student="x", loss="forward_kl")


def test_a_signal_of_the_teachers_own_weights_does_not_drift(teacher: Path, tmp_path: Path) -> None:
    assert gates.drift([captured(teacher, tmp_path / "a.parquet")], generate(teacher), SPEC) == {
        "t": pytest.approx(0, abs=1e-5)
    }


def test_a_signal_of_another_teacher_is_refused_with_its_distance(
    teacher: Path, tmp_path: Path
) -> None:
    off = captured(teacher, tmp_path / "a.parquet", off_by=0.25)
    with pytest.raises(
        StageError,
        match=r"teacher 't' left in a\.parquet differ by 0\.250 nats .*max_drift \(0\.1\)",
    ):
        gates.drift([off], generate(teacher), SPEC)
    lenient = SPEC.model_copy(update={"gates": GatesSpec(max_drift=0.3)})
    assert gates.drift([off], generate(teacher), lenient) == {"t": pytest.approx(0.25, abs=1e-4)}


@pytest.mark.parametrize("elsewhere", ["deepseek-ai/DeepSeek-V3", "an-api"])
def test_a_teacher_that_is_not_at_hand_is_not_compared(
    elsewhere: str, teacher: Path, tmp_path: Path
) -> None:
    api = {"kind": "openai", "api_key_env": "KEY"} if elsewhere == "an-api" else {}
    assert gates.drift(
        [captured(teacher, tmp_path / "a.parquet", off_by=9)], generate(elsewhere, **api), SPEC
    ) == {"t": None}


def packed(mass: float | None) -> Packed:
    return Packed(1, {}, [], [], {}, 16, 10, 5, 1, captured_mass=mass, aligned=None)


def test_a_top_k_that_misses_most_of_the_distribution_is_refused() -> None:
    assert gates.captured_mass(packed(0.9), SPEC) == 0.9
    assert gates.captured_mass(packed(None), SPEC) is None
    with pytest.raises(StageError, match=r"holds 0\.31 .* larger generate\.capture\.top_k"):
        gates.captured_mass(packed(0.31), SPEC)


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    rng = np.random.default_rng(0)
    rows = [
        TokenSequence(rng.integers(0, V, 14, dtype=np.int32), np.arange(14) >= 5) for _ in range(6)
    ]
    write_blocks(rows, tmp_path / "blocks", "train", room=32, seed=0)
    return Blocks(tmp_path / "blocks", "train")


def engine_of(folder: Path, spec: TrainSpec, **config: Any) -> tuple[TorchEngine, Student]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, value in config.items():
        setattr(model.config, name, value)
    teacher = AutoModelForCausalLM.from_pretrained(folder) if spec.teacher else None
    student = Student(model, spec, teacher)
    return TorchEngine(spec, student, device="cpu"), student


LIVE = {"loss": "jsd", "teacher": {"model": "t"}, "hidden": {"layers": [[1, 2]]}}


@pytest.mark.parametrize("more", [{}, LIVE], ids=["sft", "live teacher"])
def test_the_loss_in_pieces_is_the_loss_in_float64(
    more: dict[str, Any], teacher: Path, blocks: Blocks
) -> None:
    spec = TrainSpec(student="x", precision="fp32", logits_mib=1, **more)
    engine, student = engine_of(teacher, spec)
    assert gates.first_loss(engine, student, blocks, spec, workers=1) < 1e-5
    assert not student.exact


def test_a_student_whose_logits_are_not_what_the_loss_takes_them_for_is_refused(
    teacher: Path, blocks: Blocks
) -> None:
    spec = TrainSpec(student="x", precision="fp32")
    engine, student = engine_of(
        teacher, spec, logit_scale=8.0
    )  # Cohere's field, which Llama's own forward pass does not read
    with pytest.raises(StageError, match=r"first 18 targets is .* by the student's own logits"):
        gates.first_loss(engine, student, blocks, spec, workers=1)


def test_a_student_that_mixes_the_tokens_of_neighbouring_examples_is_refused(
    tmp_path: Path, blocks: Blocks
) -> None:
    from transformers import MambaConfig

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.5
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    spec = TrainSpec(student="x", precision="fp32")
    engine, student = engine_of(tmp_path / "model", spec)
    with pytest.raises(StageError, match="mixes neighbouring tokens by more than attention"):
        gates.first_loss(engine, student, blocks, spec, workers=1)


@pytest.mark.parametrize("field", ["logit_scale", "logits_scaling", "final_logit_softcapping"])
def test_what_models_do_behind_the_head_is_done_to_the_pieces_too(
    field: str, tmp_path: Path, blocks: Blocks
) -> None:
    from transformers import CohereConfig, Gemma2Config, GraniteConfig

    kinds = {
        "logit_scale": (CohereConfig, 3.0),
        "logits_scaling": (GraniteConfig, 0.2),
        "final_logit_softcapping": (Gemma2Config, 0.05),
    }
    kind, value = kinds[field]
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    shape["head_dim"] = 8
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    AutoModelForCausalLM.from_config(
        kind(vocab_size=V, **shape, **ends, **{field: value})
    ).save_pretrained(tmp_path / "model")
    spec = TrainSpec(student="x", precision="fp32")
    engine, student = engine_of(tmp_path / "model", spec)
    assert gates.first_loss(engine, student, blocks, spec, workers=1) < 1e-5
    engine, student = engine_of(tmp_path / "model", spec)
    student._adjust = lambda logits: logits
    with pytest.raises(StageError, match="logit_adjustment"):
        gates.first_loss(
            engine,
            student,
            blocks,
            spec.model_copy(update={"gates": GatesSpec(max_loss_error=1e-3)}),
            workers=1,
        )
