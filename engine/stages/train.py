"""Stage 4, examples -> checkpoint: tokenise and pack once, train on workers, export the student.

out/blocks          packed examples, memory-mapped by the workers
out/state.json      the global batch, kept for ever
out/checkpoints     resumable state, independent of the layout
out/metrics.jsonl   one line per step
out/baseline        the untrained student, with init: random
out/student         the result
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.backends import deepspeed_engine, ray_train
from engine.errors import StageError, Stopped
from engine.job.spec import GenerateSpec, TrainSpec
from engine.rows.tables import file_metadata
from engine.run.context import Context
from engine.run.facts import TrainInfo
from engine.run.interrupts import asked_once
from engine.run.manifests import Counts, Finished
from engine.run.progress import Progress
from engine.store.files import write_atomic
from engine.store.paths import file_sizes
from engine.training import gates
from engine.training.blocks import Blocks, shard_cache
from engine.training.data import load_sequences
from engine.training.engine import Engine
from engine.training.export import rehearse, write_card
from engine.training.loop import STOP_FILE, train_worker
from engine.training.metrics import curve_summary, follow, load_metrics
from engine.training.packing import Packed, write_blocks
from engine.training.schedule import Schedule
from engine.training.student import vocabulary_size, write_untrained
from engine.training.tokenizer import load_tokenizer, require_one_tokenizer, teacher_tokenizers
from engine.training.trackers import require_trackers


def run(
    spec: TrainSpec,
    inputs: Mapping[str, Finished],
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
    require_one_tokenizer(spec, tokenizer)
    packed = _pack(spec, inputs["curate"], out, tokenizer, generate, ctx.seed)
    checked = _check_signal(spec, inputs["curate"], packed, generate, ctx)
    start_from = _first_weights(spec, tokenizer, ctx.seed, out)
    global_batch = _global_batch(spec, out)
    work = functools.partial(
        train_worker,
        spec=spec,
        out=out.resolve(),
        start_from=start_from,
        seed=ctx.seed,
        device=ctx.device,
        global_batch=global_batch,
        build_engine=build_engine,
    )
    steps = _count_steps(spec, out, global_batch, ctx.seed)
    ctx.progress.update(note=f"starting {_range_text(*spec.worker_range)} workers")
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
    checked["first_loss_error"] = ending.pop("first_loss_error")
    info = _info(spec, out, packed, global_batch, ending | {"gates": checked})
    facts = _card_facts(inputs["curate"], out, packed, ctx, info)
    write_card(out / "student", spec, facts)
    return _counts(out, packed, info)


@contextmanager
def _saving_when_interrupted(stop: Path, progress: Progress) -> Generator[None]:
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
    # The file came too late to be seen after a step: training ended, but the run was told to stop.
    if stop.exists():
        raise Stopped(
            "train: stopped as asked, when the last step had just been taken; the same command goes"
            " on"
        )


def _pack(
    spec: TrainSpec,
    curated: Finished,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    generate: GenerateSpec,
    seed: int,
) -> Packed:
    vocab_size = vocabulary_size(spec)
    theirs = teacher_tokenizers(spec, generate)
    packed: dict[str, Packed] = {}
    for split in ("train", "validation"):
        files = curated.files(split)
        packed[split] = write_blocks(
            load_sequences(files, spec, tokenizer, vocab_size, theirs),
            out / "blocks",
            split,
            room=spec.block_tokens,
            seed=seed,
            long_examples=spec.long_examples,
        )
    _require_examples(spec, curated, packed["train"], packed["validation"])
    return packed["train"]


def _require_examples(
    spec: TrainSpec, curated: Finished, train: Packed, validation: Packed
) -> None:
    if not train.shards:
        raise StageError(
            "train: no training examples are left (curate dropped"
            f" {curated.manifest.dropped}, packing dropped {train.dropped}); loosen the curate"
            f" block, or raise train.block_tokens={spec.block_tokens} if examples are too long"
        )
    if validation.shards:
        return
    asked = None
    if spec.export == "best":
        asked = "train.export=best"
    elif spec.early_stopping:
        asked = f"train.early_stopping={spec.early_stopping}"
    if asked:
        raise StageError(
            f"train: {asked} goes by validation losses, but no validation example is left; give"
            " prompts.validation, or leave it out"
        )


def _check_signal(
    spec: TrainSpec, curated: Finished, packed: Packed, generate: GenerateSpec, ctx: Context
) -> dict[str, Any]:
    """What the gates found in the stored signal, if the loss reads it."""
    if not spec.reads_stored_signal:
        return {}
    ctx.progress.update(note="comparing the stored signal with its teacher")
    drifts = {}
    if spec.gates.rescored_examples:
        drifts = gates.drift(curated.files("train"), generate, spec)
    return {"captured_mass": gates.captured_mass(packed, spec), "drift": drifts}


def _first_weights(
    spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, seed: int, out: Path
) -> str:
    """The folder or hub name of what a first start takes; an untrained student is made here."""
    if spec.init == "pretrained":
        rehearse(spec, tokenizer, out)
        return spec.student
    untrained = out / "baseline"
    if not untrained.exists():
        write_untrained(spec, tokenizer, seed, untrained)
    return str(untrained)


def _global_batch(spec: TrainSpec, out: Path) -> int:
    """Blocks per optimizer step: decided at the first start, then kept whatever the placement."""
    path = out / "state.json"
    if not path.exists():
        chosen = spec.global_batch or spec.batch_size * spec.worker_range[1] * spec.accumulation
        write_atomic(path, json.dumps({"global_batch": chosen}))
    return int(json.loads(path.read_text())["global_batch"])


def _count_steps(spec: TrainSpec, out: Path, global_batch: int, seed: int) -> int:
    blocks = Blocks(out / "blocks", "train", shard_cache(spec))
    return Schedule(blocks.shard_sizes, global_batch, seed, spec).steps


def _range_text(fewest: int, most: int) -> str:
    if fewest == most:
        return str(fewest)
    return f"{fewest} to {most}"


def _info(
    spec: TrainSpec, out: Path, packed: Packed, global_batch: int, ending: dict[str, Any]
) -> TrainInfo:
    baseline = "baseline" if spec.init == "random" else spec.student
    return TrainInfo(
        **curve_summary(load_metrics(out / "metrics.jsonl")),
        **ending,
        zero_stage=spec.zero_stage,
        global_batch=global_batch,
        student="student",
        baseline=baseline,
        baseline_revision=spec.revision,
        packing=packed.summary(),
    )


def _card_facts(
    curated: Finished, out: Path, packed: Packed, ctx: Context, info: TrainInfo
) -> dict[str, Any]:
    """What the model card says beside the spec, see export.model_card."""
    before = curated.manifest
    teachers: dict[str, dict[str, Any]] = {}
    for file in curated.files("train"):
        metadata = file_metadata(file)
        teachers[metadata["teacher"]] = metadata
    return {
        "job": ctx.job,
        "task": ctx.task,
        "folder": out.name,
        "info": info,
        "teachers": list(teachers.values()),
        "data": {
            "Curation": (before.rows_in, before.rows_out, before.dropped),
            "Packing": (packed.rows, _count_kept(packed), packed.dropped),
        },
    }


def _counts(out: Path, packed: Packed, info: TrainInfo) -> Counts:
    files: dict[str, int] = {}
    for folder in (out / "student", out / "baseline", out / "adapter"):
        if not folder.exists():
            continue
        for file in sorted(folder.iterdir()):
            if file.is_file():
                files[f"{folder.name}/{file.name}"] = 0
    files["metrics.jsonl"] = len(load_metrics(out / "metrics.jsonl"))
    return Counts(
        rows_in=packed.rows,
        rows_out=_count_kept(packed),
        dropped=packed.dropped,
        files=files,
        info=info,
    )


def _count_kept(packed: Packed) -> int:
    return packed.rows - sum(packed.dropped.values())
