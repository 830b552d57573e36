"""Stage 4, examples -> checkpoint: tokenise and pack once, train on workers, export the student.

out/blocks        packed examples, memory-mapped by the workers     out/state.json     the global
batch, kept for ever out/checkpoints   resumable state, independent of the layout
out/metrics.jsonl  one line per step out/baseline      the untrained student, with init: random
out/student        the result
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from engine.backends import deepspeed_engine, ray_train
from engine.errors import StageError, Stopped
from engine.job.spec import GenerateSpec, TrainSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.tables import file_metadata
from engine.run.context import Context
from engine.run.interrupts import asked_once
from engine.run.manifests import Counts, load_manifest, stage_files
from engine.run.progress import Progress
from engine.store.files import write_atomic
from engine.store.paths import file_sizes
from engine.training import gates
from engine.training.blocks import Blocks, shard_cache
from engine.training.data import load_sequences
from engine.training.engine import Engine
from engine.training.export import rehearse, write_card
from engine.training.loop import STOP_FILE, train_worker
from engine.training.metrics import follow, load_metrics
from engine.training.packing import Packed, write_blocks
from engine.training.schedule import Schedule
from engine.training.student import load_tokenizer, vocabulary_size, write_untrained
from engine.training.trackers import require_trackers


def run(
    spec: TrainSpec,
    inputs: dict[str, Path],
    out: Path,
    ctx: Context,
    generate: GenerateSpec,
    *,
    launch: Callable[..., Any] = ray_train.run_workers,
    build_engine: Callable[..., Engine] = deepspeed_engine.build,
) -> Counts:
    """Train the student on the curated examples; resumes from what `out` holds.

    `launch` runs the worker function on every rank, `build_engine` makes what moves the weights.
    Ctrl-C and SIGTERM save after the step in hand, and end in Stopped; a second one ends at once.
    """
    require_trackers(spec.trackers)
    tokenizer = load_tokenizer(spec)
    ctx.progress.update(note="packing examples")
    _require_the_teachers_tokenizer(spec, tokenizer)
    packed = _pack(spec, inputs["curate"], out, tokenizer, generate, ctx.seed)
    checked = _check_signal(spec, inputs["curate"], packed, generate, ctx)
    untrained = out / "baseline"
    if spec.init == "pretrained":
        rehearse(spec, tokenizer, out)
    elif not untrained.exists():
        write_untrained(spec, tokenizer, ctx.seed, untrained)
    global_batch = _global_batch(spec, out)
    work = functools.partial(
        train_worker,
        spec=spec,
        out=out.resolve(),
        start_from=str(untrained) if spec.init == "random" else spec.student,
        seed=ctx.seed,
        device=ctx.device,
        global_batch=global_batch,
        build_engine=build_engine,
    )
    steps = Schedule(
        Blocks(out / "blocks", "train", shard_cache(spec)).shard_sizes, global_batch, ctx.seed, spec
    ).steps
    fewest, most = spec.worker_range
    ctx.progress.update(
        note=f"starting {fewest if fewest == most else f'{fewest} to {most}'} workers"
    )
    with (
        _saving_when_interrupted(out / STOP_FILE, ctx.progress),
        follow(out / "metrics.jsonl", ctx.progress, steps),
    ):
        ending = launch(
            work,
            workers=spec.worker_range,
            device=ctx.device,
            folder=out / "ray_train",
            max_failures=spec.max_failures,
            taken=lambda: file_sizes(out, ["metrics.jsonl"]),
        )
    checked |= {"first_loss_error": ending.pop("first_loss_error")}
    info = _info(spec, out, packed, global_batch, ending | {"gates": checked})
    write_card(out / "student", spec, _card_facts(inputs["curate"], out, packed, ctx, info))
    return _counts(out, packed, info)


@contextmanager
def _saving_when_interrupted(stop: Path, progress: Progress) -> Iterator[None]:
    """While the block runs, Ctrl-C and SIGTERM make the file by which workers are told to save and
    leave. One of an earlier start goes."""
    stop.unlink(missing_ok=True)

    def ask() -> None:
        stop.touch()
        progress.say(
            "train: stopping: the step in hand is finished and saved; once more ends at once, with"
            " what was saved before"
        )

    with asked_once(ask):
        yield
    if stop.exists():
        raise Stopped(
            "train: stopped as asked, when the last step had just been taken; the same command goes"
            " on"
        )


def _require_the_teachers_tokenizer(spec: TrainSpec, tokenizer: Any) -> None:
    """A live teacher reads the student's token ids: they must mean the same to it."""
    if spec.teacher is None:
        return
    theirs = AutoTokenizer.from_pretrained(spec.teacher.model, revision=spec.teacher.revision)
    if tokenizer_fingerprint(theirs.get_vocab()) != tokenizer_fingerprint(tokenizer.get_vocab()):
        raise StageError(
            f"train: train.teacher {spec.teacher.model} has another tokenizer than the student, so"
            " it would read other text than the"
            " student does; take a teacher with the student's tokenizer, or learn from its stored"
            " answers (loss: sft or uld)"
        )


def _check_signal(
    spec: TrainSpec, curated: Path, packed: Packed, generate: GenerateSpec, ctx: Context
) -> dict[str, Any]:
    """What the gates found in the stored signal, if the loss reads it."""
    if spec.loss == "sft" or spec.teacher:
        return {}
    ctx.progress.update(note="comparing the stored signal with its teacher")
    found = (
        gates.drift(stage_files(curated, "data/train-"), generate, spec)
        if spec.gates.rescored_examples
        else {}
    )
    return {"captured_mass": gates.captured_mass(packed, spec), "drift": found}


def _pack(
    spec: TrainSpec, curated: Path, out: Path, tokenizer: Any, generate: GenerateSpec, seed: int
) -> Packed:
    vocab_size = vocabulary_size(spec)
    theirs = {
        teacher.name: AutoTokenizer.from_pretrained(teacher.model, revision=teacher.revision)
        for teacher in generate.teachers
        if spec.loss == "uld" and teacher.kind == "vllm"
    }
    packed = {}
    for split in ("train", "validation"):
        sequences = load_sequences(
            stage_files(curated, f"data/{split}-"), spec, tokenizer, vocab_size, theirs
        )
        packed[split] = write_blocks(
            sequences,
            out / "blocks",
            split,
            room=spec.block_tokens,
            seed=seed,
            long_examples=spec.long_examples,
        )
    if not packed["train"].shards:
        dropped = load_manifest(curated).dropped
        raise StageError(
            f"train: no training examples are left (curate dropped {dropped}, packing dropped"
            f" {packed['train'].dropped});"
            f" loosen the curate block, or raise train.block_tokens={spec.block_tokens} if examples"
            " are too long"
        )
    if (spec.export == "best" or spec.early_stopping) and not packed["validation"].shards:
        asked = (
            "train.export=best"
            if spec.export == "best"
            else f"train.early_stopping={spec.early_stopping}"
        )
        raise StageError(
            f"train: {asked} goes by validation losses, but no validation example is left; give"
            " prompts.validation, or leave it out"
        )
    return packed["train"]


def _global_batch(spec: TrainSpec, out: Path) -> int:
    """Blocks per optimizer step: decided at the first start, then kept whatever the placement."""
    path = out / "state.json"
    if not path.exists():
        chosen = spec.global_batch or spec.batch_size * spec.worker_range[1] * spec.accumulation
        write_atomic(path, json.dumps({"global_batch": chosen}))
    return int(json.loads(path.read_text())["global_batch"])


def _info(
    spec: TrainSpec, out: Path, packed: Packed, global_batch: int, ending: dict[str, Any]
) -> dict[str, Any]:
    lines = load_metrics(out / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    validations = [line["validation_loss"] for line in lines if "validation_loss" in line]
    tokens, seconds = sum(line["tokens"] for line in steps), sum(line["seconds"] for line in steps)
    return {
        "steps": len(steps),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "final_loss": steps[-1]["loss"],
        "validation_loss": validations[-1] if validations else None,
        "zero_stage": spec.zero_stage,
        "global_batch": global_batch,
        **ending,
        "student": "student",
        "baseline": "baseline" if spec.init == "random" else spec.student,
        "baseline_revision": spec.revision,
        "packing": packed.summary(),
    }


def _card_facts(
    curated: Path, out: Path, packed: Packed, ctx: Context, info: dict[str, Any]
) -> dict[str, Any]:
    """What the model card says beside the spec, see export.model_card."""
    before = load_manifest(curated)
    metadata = [file_metadata(file) for file in stage_files(curated, "data/train-")]
    kept = packed.rows - sum(packed.dropped.values())
    return {
        "job": ctx.job,
        "task": ctx.task,
        "folder": out.name,
        "info": info,
        "teachers": list({found["teacher"]: found for found in metadata}.values()),
        "data": {
            "Curation": (before.rows_in, before.rows_out, before.dropped),
            "Packing": (packed.rows, kept, packed.dropped),
        },
    }


def _counts(out: Path, packed: Packed, info: dict[str, Any]) -> Counts:
    models = [name for name in ("student", "baseline") if (out / name).exists()]
    files = {
        f"{name}/{file.name}": 0
        for name in models
        for file in sorted((out / name).iterdir())
        if file.is_file()
    }
    return Counts(
        rows_in=packed.rows,
        rows_out=packed.rows - sum(packed.dropped.values()),
        dropped=packed.dropped,
        files=files | {"metrics.jsonl": len(load_metrics(out / "metrics.jsonl"))},
        info=info,
    )
