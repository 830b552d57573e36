"""The layouts of the train stage that are proved, in the order of their worth. Standard library
only: run.py reads it before the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STEPS = 20
EXACT, HALF = (
    1e-4,
    3e-2,
)  # relative difference of losses by precision: sums in another order, and rounding to eight bits

FROZEN = 0.99


@dataclass(frozen=True)
class Layout:
    """Fields of the train block, and the layout whose losses it must repeat (none: it is one of
    those)."""

    fields: Mapping[str, Any]
    like: str | None = None
    tolerance: float = EXACT
    # the last loss over the first, at most: equal losses prove nothing of a student that stands
    # still
    learns: float = 0.9
    killed: bool = False  # once, after its first checkpoint; then the same again
    on_cpu: bool = True
    short: bool = False  # part of the short form too


def slug(name: str) -> str:
    """A part's name as a file name."""
    return re.sub(r"\W+", "-", name)


def _bf16(stage: int, on_cpu: bool = True, **more: Any) -> Layout:
    fields = {"precision": "bf16", "zero_stage": stage, **more}
    return Layout(fields, "bf16 zero 0" if stage or more else None, HALF, on_cpu=on_cpu)


# Adapters go on from the student of TRAINED: around untrained weights they would learn, and prove,
# nothing.
_LORA = {
    "precision": "bf16",
    "init": "pretrained",
    "learning_rate": 0.01,
    "lora": {"rank": 8, "alpha": 16},
}
_QLORA = _LORA | {"lora": {"rank": 8, "alpha": 16, "quantize": "nf4"}}
TRAINED = "bf16 zero 0"

# In the order of their worth, should time run out: what jobs use first, references before what is
# compared with them.
LAYOUTS = {
    "bf16 zero 0": _bf16(0),  # its attention is the variable-length one of torch on a GPU
    "bf16 zero 2": _bf16(2),
    "bf16 zero 3": _bf16(3),
    "resume": Layout(_bf16(3).fields, "bf16 zero 3", 1e-3, killed=True),
    "fp32 zero 0": Layout({"zero_stage": 0}),
    "fp32 zero 2": Layout({"zero_stage": 2}, "fp32 zero 0"),
    "attention sdpa": _bf16(0, on_cpu=False, attention="sdpa"),
    "activation checkpointing": _bf16(2, on_cpu=False, gradient_checkpointing=True),
    "offload zero 2": _bf16(2, on_cpu=False, offload="cpu"),
    "offload zero 3": _bf16(3, offload="cpu"),
    "lora zero 0": Layout({**_LORA, "zero_stage": 0}, learns=FROZEN),
    "lora zero 3": Layout({**_LORA, "zero_stage": 3}, "lora zero 0", HALF, FROZEN),
    "qlora zero 0": Layout({**_QLORA, "zero_stage": 0}, "lora zero 0", 0.1, FROZEN, on_cpu=False),
    "qlora zero 2": Layout({**_QLORA, "zero_stage": 2}, "qlora zero 0", HALF, FROZEN, on_cpu=False),
    "fp32 zero 3": Layout({"zero_stage": 3}, "fp32 zero 0", on_cpu=False),
    "fp32 zero 1": Layout({"zero_stage": 1}, "fp32 zero 0", on_cpu=False),
    "bf16 zero 1": _bf16(1, on_cpu=False),
    "lora zero 2": Layout({**_LORA, "zero_stage": 2}, "lora zero 0", HALF, FROZEN, on_cpu=False),
    "resume fp32": Layout({"zero_stage": 2}, "fp32 zero 0", killed=True, short=True, on_cpu=False),
}
