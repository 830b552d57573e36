"""The stage as a whole: in process with plain torch, a few tests on the real workers."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles.torch_engine import GENERATE, TorchEngine, run_in_process
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.errors import StageError, Stopped
from engine.job.spec import AnyLoss, ForwardKlLoss, JsdLoss, LiveTeacherSpec, TrainSpec
from engine.run.context import Context
from engine.run.manifests import Counts, finished
from engine.stages import train
from engine.training.checkpoints import MARKER, complete
from engine.training.metrics import load_metrics


def run_here(spec: TrainSpec, curated: Path, out: Path, ctx: Context) -> Counts:
    out.mkdir(exist_ok=True)
    return train.run(
        spec,
        {"curate": finished(curated)},
        out,
        ctx,
        GENERATE,
        launch=run_in_process,
        build_engine=TorchEngine,
    )


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in load_metrics(out / "metrics.jsonl") if "loss" in line]


def assert_same_student(one: Path, other: Path, *, rtol: float, atol: float) -> None:
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(folder / "student").state_dict()
        for folder in (one, other)
    )
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def loss_of(kind: str) -> AnyLoss:
    return TrainSpec(student="x", loss=kind).loss


@pytest.mark.parametrize(("loss", "top_k"), [("sft", 0), ("forward_kl", 4)])
def test_training_lowers_the_loss_and_exports_a_student_that_loads(
    loss: str,
    top_k: int,
    spec: TrainSpec,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
) -> None:
    spec = spec.model_copy(update={"loss": loss_of(loss), "epochs": 4})
    counts = run_here(spec, write_curated(top_k=top_k), tmp_path / "out", ctx)
    curve = losses(tmp_path / "out")
    assert curve[-1] < 0.8 * curve[0]
    assert counts.rows_in == counts.rows_out == 60
    assert counts.info.steps == len(curve)
    assert counts.info.final_loss == curve[-1]
    assert counts.info.tokens == 4 * 60 * 6
    assert counts.info.validation_loss is not None
    assert {
        "student/model.safetensors",
        "baseline/model.safetensors",
        "metrics.jsonl",
    } <= counts.files.keys()
    assert all((tmp_path / "out" / name).exists() for name in counts.files)
    assert "student/README.md" in counts.files
    card = (tmp_path / "out/student/README.md").read_text()
    assert "distilled by distill-engine from `org/teacher`" in card
    assert "Curation: 60 of 62 rows kept (dropped: wrong answer 2)." in card
    assert f"| optimizer steps | {len(curve)} |" in card
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out/student")
    baseline = AutoModelForCausalLM.from_pretrained(tmp_path / "out/baseline")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/student")
    assert tokenizer.chat_template
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not torch.equal(student.model.embed_tokens.weight, baseline.model.embed_tokens.weight)
    assert list((tmp_path / "out/tensorboard").iterdir())


def test_a_resume_ends_with_the_same_weights(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    curated = write_curated()
    run_here(spec, curated, tmp_path / "whole", ctx)
    # The first start fixes the global batch; the resume has other micro-batches.
    broken = tmp_path / "broken"
    run_here(spec, curated, broken, ctx)
    newest = max((broken / "checkpoints").iterdir())
    (newest / MARKER).unlink()  # as if the last save had been killed
    (broken / "student/config.json").unlink()
    run_here(
        spec.model_copy(update={"batch_size": 1, "accumulation": 2, "workers": 1}),
        curated,
        broken,
        ctx,
    )
    assert losses(broken) == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert_same_student(tmp_path / "whole", broken, rtol=1e-4, atol=1e-5)


def test_the_global_batch_of_the_first_start_is_kept(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "state.json").write_text(json.dumps({"global_batch": 4}))
    counts = run_here(
        spec.model_copy(update={"epochs": 1, "batch_size": 1}), write_curated(), out, ctx
    )
    assert counts.info.global_batch == 4


@pytest.mark.parametrize("loss", ["sft", "forward_kl"])
def test_micro_batches_do_not_change_the_curve(
    loss: str, spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    curated = write_curated(top_k=4)
    curves = []
    for batch_size in (1, 3, 8):
        out = tmp_path / f"b{batch_size}"
        run_here(
            spec.model_copy(
                update={"loss": loss_of(loss), "batch_size": batch_size, "global_batch": 6}
            ),
            curated,
            out,
            ctx,
        )
        curves.append(losses(out))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0] == pytest.approx(curves[2], rel=1e-4)


def test_an_empty_training_set_says_what_curate_dropped(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    with pytest.raises(
        StageError, match=r"no training examples are left .*wrong_answer.*loosen the curate block"
    ):
        run_here(spec, write_curated(train=[]), tmp_path / "out", ctx)


def test_long_examples_are_counted(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    short = spec.model_copy(update={"block_tokens": 16, "max_grad_norm": 1.0, "epochs": 1})
    curated = write_curated()
    counts = run_here(short, curated, tmp_path / "fits", ctx)
    assert counts.dropped == {}
    with pytest.raises(StageError, match=r"too_long.*60.*raise train\.block_tokens"):
        run_here(short.model_copy(update={"block_tokens": 4}), curated, tmp_path / "dropped", ctx)


def test_kl_with_another_tokenizer_is_refused_before_any_worker(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    curated = write_curated(top_k=4, fingerprint="another")
    with pytest.raises(
        StageError, match=r"another tokenizer than the student; set train\.loss: sft"
    ):
        run_here(spec.model_copy(update={"loss": ForwardKlLoss()}), curated, tmp_path / "out", ctx)


def test_kl_without_signal_names_the_rows(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    with pytest.raises(StageError, match=r"60 of 60 examples .* lack the top-k signal"):
        run_here(
            spec.model_copy(update={"loss": ForwardKlLoss()}),
            write_curated(),
            tmp_path / "out",
            ctx,
        )


def test_a_vocabulary_that_is_too_small_is_refused(
    spec: TrainSpec,
    student_folder: Path,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
) -> None:
    config = json.loads((student_folder / "config.json").read_text())
    (student_folder / "config.json").write_text(json.dumps(config | {"vocab_size": 12}))
    with pytest.raises(StageError, match=r"outside the student's vocabulary of 12"):
        run_here(spec, write_curated(), tmp_path / "out", ctx)


class EngineWithEvents(TorchEngine):
    """Tells its class how many steps were taken in all, and does what was asked for at one of
    them."""

    steps = 0
    at_step: tuple[int, Callable[[], None]] | None = None

    def step(self, *args: Any) -> tuple[float, float, float]:
        EngineWithEvents.steps += 1
        if self.at_step and self.steps == self.at_step[0]:
            self.at_step[1]()
        return super().step(*args)


@pytest.fixture
def events() -> Iterator[type[EngineWithEvents]]:
    yield EngineWithEvents
    EngineWithEvents.steps, EngineWithEvents.at_step = 0, None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_same_command_resumes(
    number: signal.Signals,
    spec: TrainSpec,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
    events: type[EngineWithEvents],
) -> None:
    curated, out = write_curated(), tmp_path / "out"
    run_here(spec, curated, tmp_path / "whole", ctx)
    events.at_step = (3, lambda: os.kill(os.getpid(), number))
    out.mkdir()
    before = signal.getsignal(number)
    total = len(losses(tmp_path / "whole"))
    with pytest.raises(
        Stopped,
        match=rf"stopped as asked; step 3 of {total} is saved, and the same command resumes",
    ):
        train.run(
            spec,
            {"curate": finished(curated)},
            out,
            ctx,
            GENERATE,
            launch=run_in_process,
            build_engine=events,
        )
    assert signal.getsignal(number) == before
    train.run(
        spec,
        {"curate": finished(curated)},
        out,
        ctx,
        GENERATE,
        launch=run_in_process,
        build_engine=events,
    )
    assert events.steps == total
    assert losses(out) == losses(tmp_path / "whole")
    assert student_weights(out) == student_weights(tmp_path / "whole")


def test_a_disk_that_fills_while_training_ends_it_and_the_same_command_goes_on(
    spec: TrainSpec,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
    events: type[EngineWithEvents],
    small_disk: tuple[Path, Callable[[], None]],
) -> None:
    curated, (disk, fill) = write_curated(), small_disk
    run_here(spec, curated, tmp_path / "whole", ctx)
    events.at_step = (7, fill)  # between the saves of steps 5 and 10
    with pytest.raises((OSError, StageError), match="No space left on device"):
        train.run(
            spec,
            {"curate": finished(curated)},
            disk,
            ctx,
            GENERATE,
            launch=run_in_process,
            build_engine=events,
        )
    (disk / "filler").unlink()
    events.at_step = None
    train.run(
        spec,
        {"curate": finished(curated)},
        disk,
        ctx,
        GENERATE,
        launch=run_in_process,
        build_engine=events,
    )
    assert losses(disk) == losses(tmp_path / "whole")
    assert student_weights(disk) == student_weights(tmp_path / "whole")


def student_weights(out: Path, name: str = "student/model.safetensors") -> bytes:
    return (out / name).read_bytes()


def test_the_best_weights_are_exported_and_training_stops_early(
    spec: TrainSpec, write_curated: Callable[..., Path], tmp_path: Path, ctx: Context
) -> None:
    """At so high a learning rate the validation loss rises again."""
    out = tmp_path / "out"
    spec = spec.model_copy(
        update={
            "export": "best",
            "early_stopping": 2,
            "epochs": 40,
            "validate_steps": 4,
            "learning_rate": 0.03,
            "schedule": "constant",
        }
    )
    counts = run_here(spec, write_curated(), out, ctx)
    validations = {
        line["step"]: line["validation_loss"]
        for line in load_metrics(out / "metrics.jsonl")
        if "validation_loss" in line
    }
    best = min(validations, key=validations.__getitem__)
    assert (counts.info.best_step, counts.info.best_validation_loss) == (
        best,
        validations[best],
    )
    assert best == list(validations)[-3]
    assert counts.info.steps == best + 8
    checkpoint = next(c for c in complete(out / "checkpoints") if c.step == best)
    ours = AutoModelForCausalLM.from_pretrained(out / "student").state_dict()
    theirs = {
        name.removeprefix("weight/model."): tensor
        for name, tensor in checkpoint.load().items()
        if name.startswith("weight/")
    }
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(("field", "value"), [("export", "best"), ("early_stopping", 3)])
def test_the_best_cannot_be_known_without_validation(
    field: str,
    value: object,
    spec: TrainSpec,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
) -> None:
    curated = write_curated(validation=[])
    with pytest.raises(
        StageError,
        match=rf"train\.{field}={value} goes by validation losses, but no validation"
        rf" example is left",
    ):
        run_here(spec.model_copy(update={field: value}), curated, tmp_path / "out", ctx)


def test_a_checkpoint_of_another_job_stops_before_the_first_step(
    spec: TrainSpec,
    student_folder: Path,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
) -> None:
    curated, out = write_curated(), tmp_path / "out"
    run_here(spec, curated, out, ctx)
    seen = losses(out)
    with pytest.raises(
        StageError,
        match=r"checkpoint of another job: its seed is 7, here it is 8; move .*checkpoints away",
    ):
        run_here(spec, curated, out, dataclasses.replace(ctx, seed=8))
    config = json.loads((student_folder / "config.json").read_text())
    (student_folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    shutil.rmtree(out / "baseline")
    with pytest.raises(
        StageError,
        match=r"checkpoint of another model: 6 parameters differ, the first is"
        r" model.model.layers.0.mlp",
    ):
        run_here(spec, curated, out, ctx)
    assert losses(out) == seen


@pytest.fixture
def two_workers(
    spec: TrainSpec,
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
    ray_cluster: None,
) -> Callable[..., Counts]:
    """Train in one process into `alone`, and on two workers of Ray Train with gloo and ZeRO-2 into
    `out`; returns what trains on, with another layout."""
    curated, out = write_curated(top_k=4), tmp_path / "out"
    spec = spec.model_copy(
        update={
            "loss": ForwardKlLoss(),
            "global_batch": 5,
            "workers": 2,
            "batch_size": 2,
            "epochs": 4,
        }
    )
    run_here(spec, curated, tmp_path / "alone", ctx)
    out.mkdir()

    def go_on(**layout: Any) -> Counts:
        again = spec.model_copy(update=layout)
        return train.run(again, {"curate": finished(curated)}, out, ctx, GENERATE)

    return go_on


@pytest.mark.slow
def test_two_real_workers_give_the_curve_of_one_process(
    two_workers: Callable[..., Counts], tmp_path: Path
) -> None:
    counts = two_workers()
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert counts.info.steps == len(losses(tmp_path / "out"))
    assert_same_student(tmp_path / "alone", tmp_path / "out", rtol=1e-3, atol=1e-4)


@pytest.mark.proof
def test_one_real_worker_of_another_zero_stage_goes_on_from_two_workers_checkpoint(
    two_workers: Callable[..., Counts], tmp_path: Path
) -> None:
    """Every layout without Ray: tests/backends/test_deepspeed_engine.py."""
    two_workers()
    newest = max((tmp_path / "out/checkpoints").iterdir())
    (newest / MARKER).unlink()  # back to the one before
    two_workers(workers=1, zero_stage=3, batch_size=1)
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert_same_student(tmp_path / "alone", tmp_path / "out", rtol=1e-3, atol=1e-4)


def test_a_live_teacher_with_another_tokenizer_is_refused(
    spec: TrainSpec,
    make_tokenizer: Callable[..., Any],
    write_curated: Callable[..., Path],
    tmp_path: Path,
    ctx: Context,
) -> None:
    make_tokenizer([*(f"w{number}" for number in range(46)), "<pad>", "<eos>"]).save_pretrained(
        tmp_path / "teacher"
    )
    live = spec.model_copy(
        update={"loss": JsdLoss(), "teacher": LiveTeacherSpec(model=str(tmp_path / "teacher"))}
    )
    with pytest.raises(StageError, match="has another tokenizer than the student"):
        run_here(live, write_curated(), tmp_path / "out", ctx)
