"""One measurement of TRL in a process of its own, in its own environment.

    python -m benchmarks.training.trl_side VARIANT MICRO WORK    writes WORK/result.json

The clock runs from the end of step `warmup` to the end of the last whole step, so all between steps
counts. It knows nothing of engine/.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from benchmarks.training.task import (
    BETA2,
    CLIP,
    LEARNING_RATE,
    SEED,
    SEQUENCE,
    STEP_TOKENS,
    examples_per_step,
)

PACKED_ROWS = STEP_TOKENS // SEQUENCE
ROLLOUT_TOKENS = 90  # about as many as the median answer has


class Clock(TrainerCallback):
    """When each optimizer step ended, and how many target tokens it had."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.targets: list[int] = []
        self.rollouts: list[float] = []  # seconds of each
        self._open = 0

    def count(self, targets: torch.Tensor) -> None:
        """Targets of one micro-batch."""
        self._open += int(targets.sum())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())
        self.targets.append(self._open)
        self._open = 0


def _arguments(rows: int, micro: int) -> dict[str, Any]:
    """What every trainer is told: `rows` per optimizer step in micro-batches of `micro`."""
    return {
        "output_dir": "unused",
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": -(-rows // micro),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "adam_beta2": BETA2,
        "weight_decay": 0.0,
        "max_grad_norm": CLIP,
        "seed": SEED,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 10,
        "dataloader_drop_last": True,
        "disable_tqdm": True,
    }


def _model(work: Path, name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(work / name, dtype=torch.float32)


def sft(
    work: Path, examples: list[Any], micro: int, strategy: str | None, **more: Any
) -> tuple[Any, Clock]:
    """SFTTrainer on the same ids, packed by `strategy` or not."""
    clock = Clock()

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            clock.count(inputs["labels"] != -100)
            return super().training_step(model, inputs, *rest)

    rows = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for prompt, answer in examples
    ]
    arguments = _arguments(PACKED_ROWS if strategy else examples_per_step(examples), micro) | more
    config = SFTConfig(
        max_length=SEQUENCE, packing=bool(strategy), packing_strategy=strategy or "bfd", **arguments
    )
    tokenizer = AutoTokenizer.from_pretrained(work / "student")
    trainer = Counted(
        _model(work, "student"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    return trainer, clock


def distillation(
    work: Path, examples: list[Any], micro: int, *, rollouts: bool = False
) -> tuple[Any, Clock]:
    """DistillationTrainer (forward KL, its chunked loss) that takes the given answers, or makes its
    own as it always does."""
    clock = Clock()
    answer_of = {tuple(prompt): answer for prompt, answer in examples}

    class Given(DistillationTrainer):
        def _tokenize_prompts(self, prompts: list[str]) -> tuple[Any, ...]:
            return [examples[int(prompt)][0] for prompt in prompts], None, {}

        def _generate_single_turn(
            self,
            prompt_ids: list[Any],
            images: Any,
            more: dict[str, Any],
            has_tool_images: bool = False,
        ) -> Any:
            started = time.perf_counter()
            answers = (
                super()._generate_single_turn(prompt_ids, images, more, has_tool_images)
                if rollouts
                else None
            )
            clock.rollouts.append(time.perf_counter() - started)
            return answers or [answer_of[tuple(prompt)] for prompt in prompt_ids]

        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            clock.count(inputs["completion_mask"])
            return super().compute_loss(model, inputs, *rest, **more)

    arguments = _arguments(examples_per_step(examples), micro)
    config = DistillationConfig(
        beta=0.0, temperature=1.0, max_completion_length=ROLLOUT_TOKENS, **arguments
    )
    tokenizer = AutoTokenizer.from_pretrained(work / "student", padding_side="left")
    trainer = Given(
        _model(work, "student"),
        teacher_model=_model(work, "teacher"),
        args=config,
        processing_class=tokenizer,
        callbacks=[clock],
        train_dataset=Dataset.from_list(
            [{"prompt": str(number)} for number in range(len(examples))]
        ),
    )
    return trainer, clock


def gkd(work: Path, examples: list[Any], micro: int) -> tuple[Any, Clock]:
    """GKDTrainer (experimental) with lmbda 0, so without rollouts, and beta 0: forward KL over
    whole logits."""
    clock = Clock()

    class Counted(GKDTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            clock.count(inputs["labels"] != -100)
            return super().training_step(model, inputs, *rest)

    config = GKDConfig(
        beta=0.0,
        lmbda=0.0,
        temperature=1.0,
        max_length=SEQUENCE,
        **_arguments(examples_per_step(examples), micro),
    )
    rows = [
        {
            "prompt": "",
            "input_ids": prompt + answer,
            "completion_mask": [0] * len(prompt) + [1] * len(answer),
        }
        for prompt, answer in examples
    ]
    trainer = Counted(
        _model(work, "student"),
        teacher_model=_model(work, "teacher"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(work / "student"),
        callbacks=[clock],
    )
    return trainer, clock


VARIANTS = {
    "unpacked": lambda work, examples, micro: sft(work, examples, micro, None),
    "bfd": lambda work, examples, micro: sft(work, examples, micro, "bfd"),
    "bfd_split": lambda work, examples, micro: sft(work, examples, micro, "bfd_split"),
    "wrapped": lambda work, examples, micro: sft(work, examples, micro, "wrapped"),
    "grouped": lambda work, examples, micro: sft(
        work, examples, micro, None, train_sampling_strategy="group_by_length"
    ),
    "distillation": distillation,
    "rollouts": lambda work, examples, micro: distillation(
        work, examples[: 11 * micro], micro, rollouts=True
    ),
    "gkd": gkd,
}


def main() -> None:
    """Measure one variant once."""
    name, micro, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    task = json.loads((work / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    transformers.logging.set_verbosity_error()
    trainer, clock = VARIANTS[name](work, json.loads((work / "examples.json").read_text()), micro)
    trainer.train()
    assert torch.get_num_threads() == task["threads"]
    first, targets = task["warmup"], clock.targets[task["warmup"] :]
    assert len(targets) >= 4, f"{name}: {len(clock.ends)} steps are too few; give more examples"
    seconds = clock.ends[-1] - clock.ends[first - 1]
    found = {
        "tokens_per_second": sum(targets) / seconds,
        "steps": len(targets),
        "targets": sum(targets),
    }
    if name == "rollouts":
        found["rollouts_share"] = sum(clock.rollouts[first : len(clock.ends)]) / seconds
    (work / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
