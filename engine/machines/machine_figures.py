"""The words and figures in which platforms describe a machine: names of accelerators, memory of a
GPU, quantities of Kubernetes, Slurm and SkyPilot.

What accelerators can do a second, and what they cost, is not here.
"""

from __future__ import annotations

import re
from typing import Any

# GB of 1e9 bytes of one GPU, by Ray's name of it; vendors' data sheets. Where a kind comes in two
# sizes this is the larger, and a size that stands beside the name wins (A100-SXM4-40GB).
DEVICE_MEMORY_GB: dict[str, float] = {
    "GB300": 288,
    "GB200": 186,
    "B300": 288,
    "B200": 180,
    "H200": 141,
    "H800": 80,
    "H100": 80,
    "H20": 96,
    "A100": 80,
    "A800": 80,
    "L40S": 48,
    "L40": 48,
    "L20": 48,
    "L4": 24,
    "A10G": 24,
    "A10": 24,
    "V100": 32,
    "T4": 16,
    "MI355X": 288,
    "MI325X": 256,
    "MI300X": 192,
}
_SIZE = re.compile(r"(?<!\d)(\d{2,3}) ?G(?:I?B)?(?![A-Z0-9])")
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
    for name in DEVICE_MEMORY_GB:
        if re.search(rf"(?<![A-Z0-9]){name}(?![A-Z0-9])", upper):
            return name
    return words.strip() or None


def is_known(words: str) -> bool:
    """Whether an accelerator of the table is named."""
    return accelerator_in(words) in DEVICE_MEMORY_GB


def device_memory_gb(accelerator: str | None, words: str = "") -> float | None:
    """Memory of one GPU in GB: what stands in `words`, else that of its kind; None if unknown."""
    if size := _SIZE.search(words.upper()):
        return float(size.group(1))
    return DEVICE_MEMORY_GB.get(accelerator or "")


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
