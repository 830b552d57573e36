"""One measurement of the train stage in a process of its own.

    python -m benchmarks.training.ours VARIANT MICRO WORK    writes WORK/result.json

The whole real path: curated Parquet -> packing -> Ray Train -> DeepSpeed -> export. The clock is
TensorBoard's wall time of each step's loss, from step `warmup` to the last whole one, so all
between steps counts.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training.task import (
    BETA2,
    CLIP,
    LEARNING_RATE,
    SEED,
    SEQUENCE,
    STEP_TOKENS,
    TOP_K,
    VOCABULARY,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "sft": {},
    "kd_teacher": {"loss": "forward_kl", "teacher": "teacher"},
    "kd_stored": {
        "loss": "forward_kl",
        "gates": {"min_captured_mass": 0},
    },  # a random teacher is almost uniform
}


def write_curated(folder: Path, work: Path, examples: list[Any], signals: list[Any] | None) -> None:
    """A finished curate stage with these ids; `signals` are (ids, logprobs, tail) of each
    answer."""
    from transformers import AutoTokenizer

    from engine.rows.ids import tokenizer_fingerprint
    from engine.rows.records import EXAMPLE, SCHEMA_VERSION, Example
    from engine.rows.tables import to_table, write_parquet
    from engine.run.facts import CurateInfo
    from engine.run.manifests import Counts, publish

    tokenizer = AutoTokenizer.from_pretrained(work / "student")
    fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "codec": "plain",
        "vocab_size": VOCABULARY,
        "teacher": "teacher",
    }
    metadata["tokenizer_fingerprint"] = fingerprint
    columns = [
        dict(zip(("topk_ids", "topk_logprobs", "tail"), signal, strict=True))
        for signal in signals or []
    ] or [{}] * len(examples)
    rows = [
        Example(
            number,
            "teacher",
            0,
            "train",
            [{"role": "assistant", "content": tokenizer.decode(answer)}],
            np.array(prompt, np.int32),
            np.array(answer, np.int32),
            **columns[number],
        )
        for number, (prompt, answer) in enumerate(examples)
    ]
    (folder / "data").mkdir(parents=True)
    files = {"data/train-00000.parquet": rows, "data/validation-00000.parquet": []}
    for name, chosen in files.items():
        write_parquet(
            to_table(chosen, EXAMPLE, metadata | {"top_k": TOP_K if signals else 0}), folder / name
        )
    rows_of = {name: len(chosen) for name, chosen in files.items()}
    counts = Counts(len(rows), len(rows), rows_of, info=CurateInfo(funnel=[]))
    publish(folder, "curate", {"benchmark": "training"}, counts, 0.0)


def captured(work: Path, examples: list[Any]) -> list[Any]:
    """The teacher's top k at each answer's tokens, as generate would have stored it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "teacher", dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for prompt, answer in examples:
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            values, ids = logits.log_softmax(-1).topk(TOP_K)
            found.append(
                (
                    ids.flatten().numpy(),
                    values.flatten().numpy(),
                    (1 - values.exp().sum(-1)).numpy(),
                )
            )
    return found


def train(spec: Any, work: Path, curated: Path, out: Path) -> None:
    """The stage as the pipeline calls it; WORK/teacher answered."""
    from engine.backends import ray_cluster
    from engine.job.spec import GenerateSpec
    from engine.run.context import Context
    from engine.run.manifests import finished
    from engine.stages import train as stage

    out.mkdir(parents=True)
    generate = GenerateSpec(teachers=[{"name": "teacher", "model": str(work / "teacher")}])
    with ray_cluster.connected(None, shared=out):
        stage.run(
            spec,
            {"curate": finished(curated)},
            out,
            Context("training", "conversation", SEED, "cpu"),
            generate,
        )


def whole_steps(out: Path, warmup: int) -> tuple[float, dict[str, Any]]:
    """Target tokens per second of the whole steps after the first `warmup`, with all that lies
    between steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from engine.training.metrics import load_metrics

    lines = [line for line in load_metrics(out / "metrics.jsonl") if "loss" in line]
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    times = [event.wall_time for event in events.Scalars("train/loss")]
    assert len(times) == len(lines)
    counted = lines[warmup:-1]  # the last step has what was left of the examples
    assert len(counted) >= 4, f"{len(lines)} steps are too few; give more examples"
    targets, seconds = sum(line["tokens"] for line in counted), times[-2] - times[warmup - 1]
    inside = sum(line["seconds"] for line in counted)
    facts = {
        "steps": len(counted),
        "targets": targets,
        "share_in_steps": inside / seconds,
        "last_loss": lines[-1]["loss"],
    }
    return targets / seconds, facts


def main() -> None:
    """Measure one variant once."""
    name, micro, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    from engine.job.spec import TrainSpec

    task = json.loads((work / "task.json").read_text())
    assert os.cpu_count() == task["threads"], "the worker's threads are the cores"
    examples = json.loads((work / "examples.json").read_text())
    chosen = VARIANTS[name]
    curated, out = work / f"curated-{name}", work / "out"
    shutil.rmtree(out, ignore_errors=True)
    if not curated.exists():
        write_curated(
            curated, work, examples, captured(work, examples) if name == "kd_stored" else None
        )
    more = chosen | (
        {"teacher": {"model": str(work / chosen["teacher"])}} if "teacher" in chosen else {}
    )
    spec = TrainSpec(
        student=str(work / "student"),
        precision="fp32",
        learning_rate=LEARNING_RATE,
        adam_beta2=BETA2,
        max_grad_norm=CLIP,
        epochs=1,
        block_tokens=SEQUENCE,
        batch_size=micro,
        global_batch=STEP_TOKENS // SEQUENCE,
        workers=1,
        zero_stage=0,
        checkpoint_steps=10**6,
        **more,
    )
    train(spec, work, curated, out)
    rate, facts = whole_steps(out, task["warmup"])
    (work / "result.json").write_text(json.dumps({"tokens_per_second": rate, **facts}))


if __name__ == "__main__":
    main()
