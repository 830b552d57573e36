"""The words and figures in which platforms describe a machine: names of accelerators, memory of a
GPU, quantities of Kubernetes, Slurm and SkyPilot.

What an accelerator has and can do is in accelerators.py, what it costs in prices.py.
"""

from __future__ import annotations

import re
from typing import Any

from engine.machines.accelerators import ACCELERATORS

_SIZE = re.compile(r"(?<![A-Z0-9])(\d{2,3}) ?G(?:I?B)?(?![A-Z0-9])")
_QUANTITY = re.compile(r"([\d.]+) ?([A-Za-z]*)\+?")
_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def accelerator_in(words: str) -> str | None:
    """Ray's name of the GPU in words such as `NVIDIA-H100-80GB-HBM3`; the words themselves where it
    is not known, None where there are none."""
    upper = words.upper()
    for name in ACCELERATORS:
        if re.search(rf"(?<![A-Z0-9]){name}(?![A-Z0-9])", upper):
            return name
    return words.strip() or None


def is_known(words: str) -> bool:
    """Whether an accelerator of the table is named."""
    return accelerator_in(words) in ACCELERATORS


def device_memory_gb(accelerator: str | None, words: str = "") -> float | None:
    """Memory of one GPU in GB: what stands in `words` (A100-SXM4-40GB), else that of its kind, the
    larger where there are two; None if unknown."""
    if size := _SIZE.search(words.upper()):
        return float(size.group(1))
    known = ACCELERATORS.get(accelerator or "")
    return known.memory_gb if known else None


def number(quantity: Any) -> float | None:
    """A count as Kubernetes writes it (`160`, `500m`) or SkyPilot (`32+`); None where there is
    none."""
    if quantity is None:
        return None
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None or found.group(2) not in _UNITS:
        return None
    return float(found.group(1)) * _UNITS[found.group(2)]


def gigabytes(quantity: Any) -> float | None:
    """Bytes as Kubernetes writes them (`1536Gi`) in GB of 1e9; None where there are none."""
    size_bytes = number(quantity)
    return size_bytes / 1e9 if size_bytes else None
