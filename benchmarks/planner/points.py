"""Published rates of generation as CSV -> points, and what engine/machines/rates.py says of them.

A point's accelerator and model are names that the tables know, or figures in columns of their own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from engine.errors import InputError, SpecError
from engine.machines.accelerators import FIGURES, Accelerator, accelerator_named
from engine.machines.architectures import facts
from engine.machines.rates import rate
from engine.machines.replica import EFFICIENCIES, Efficiencies, Load, Numbers, Replica, Split
from engine.machines.shape import Architecture

# What the published tables call a model, by the name that known_models.py has.
FAMILIES = {
    "deepseek-r1": "deepseek-v3",
    "llama-405b": "llama-3.1-405b",
    "llama-70b": "llama-3.3-70b",
    "llama-8b": "llama-3.1-8b",
    "qwen3-235b": "qwen3-235b-a22b",
    "qwen3-30b": "qwen3-30b-a3b",
    "llama4-maverick": "llama-4-maverick-17b-128e",
    "llama4-scout": "llama-4-scout-17b-16e",
}
# Other spellings of columns.
_COLUMNS = {
    "mem_gb": "memory_gb",
    "bw": "bandwidth_tb_s",
    "bandwidth": "bandwidth_tb_s",
    "bf16": "bf16_tflops",
    "fp8": "fp8_tflops",
    "fp4": "fp4_tflops",
    "link": "link_gb_s",
    "net": "network_gb_s",
    "network": "network_gb_s",
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "dp": "data_parallel",
    "accelerator": "gpu",
    "model": "family",
}
_SHAPE = {field.name: str(field.type) for field in fields(Architecture)}
TRTLLM_SEQUENCES = 2048  # trtllm-bench's, where a point does not say


@dataclass(frozen=True)
class Point:
    """One published rate: a replica, its load, and the answer tokens per second that were seen."""

    family: str
    gpu: str
    source: str
    replica: Replica
    load: Load
    published: float

    def predicted(self, efficiencies: Efficiencies = EFFICIENCIES) -> float:
        """Answer tokens per second."""
        return rate(replace(self.replica, efficiencies=efficiencies), self.load).tokens_per_s

    def error(self, efficiencies: Efficiencies = EFFICIENCIES) -> float:
        """Natural logarithm of predicted / published."""
        return math.log(max(self.predicted(efficiencies), 1e-3) / self.published)


def read_points(path: Path) -> list[Point]:
    """The points of a CSV file. InputError where a row lacks a figure."""
    points = []
    with path.open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            filled = {}
            for name, value in row.items():
                if name and value:
                    filled[_COLUMNS.get(name, name)] = value
            try:
                points.append(_point(filled))
            except (KeyError, ValueError, SpecError) as error:
                raise InputError(f"{path}:{line}: {error}") from None
    return points


def _point(row: Mapping[str, str]) -> Point:
    weight_bytes = float(row["weight_bytes"])
    split = Split(
        int(row.get("tensor_parallel", 1)),
        int(row.get("pipeline_parallel", 1)),
        int(row.get("data_parallel", 1)),
    )
    numbers = Numbers(
        weight_bytes,
        float(row.get("rest_bytes", weight_bytes)),
        float(row.get("kv_bytes", 2)),
        max_num_seqs=int(float(row.get("max_num_seqs", TRTLLM_SEQUENCES))),
    )
    load = Load(
        float(row["input_tokens"]),
        float(row["output_tokens"]),
        float(row.get("rows", math.inf)),
        float(row.get("cached", 0)),
    )
    return Point(
        row["family"],
        row["gpu"],
        row.get("source", ""),
        Replica(_model(row), _accelerator(row), split, numbers),
        load,
        float(row["tokens_per_second_of_replica"]),
    )


def _accelerator(row: Mapping[str, str]) -> Accelerator:
    """By name; figures of the row go before those of the table."""
    figures = [f"{name}={row[name]}" for name in FIGURES if name in row]
    given = row["gpu"]
    if figures:
        given += f":{','.join(figures)}"
    return accelerator_named(given)


def _model(row: Mapping[str, str]) -> Architecture:
    """By name, or by the figures of the row."""
    name = row["family"].lower()
    found = facts(FAMILIES.get(name, name))
    if found:
        return found
    given = {}
    for column, kind in _SHAPE.items():
        if column in row:
            given[column] = float(row[column]) if kind == "float" else int(float(row[column]))
    defaults = {"mla_rank": 0, "max_context": 0, "bytes_per_param": float(row["weight_bytes"])}
    try:
        return Architecture(**defaults | given)
    except TypeError:
        raise KeyError(
            f"no model {row['family']} is known; give its figures in columns params_b, layers,"
            " hidden, heads, kv_heads, head_dim, vocab (and experts, experts_b, top_k)"
        ) from None


@dataclass(frozen=True)
class Summary:
    """How far predictions are off: geometric mean and range of predicted / published, and the share
    within 35 % either way."""

    points: int
    geometric_mean: float
    rms_factor: float
    within_35: float
    least: float
    most: float

    @property
    def worst_factor(self) -> float:
        """Of all points, either way."""
        return max(self.most, 1 / self.least)


def summarised(errors: Iterable[float]) -> Summary:
    """Of natural logarithms of predicted / published."""
    found = list(errors)
    count = len(found)
    near = sum(math.log(0.65) < error < math.log(1.35) for error in found)
    squares = sum(error * error for error in found)
    return Summary(
        count,
        math.exp(sum(found) / count),
        math.exp(math.sqrt(squares / count)),
        near / count,
        math.exp(min(found)),
        math.exp(max(found)),
    )
