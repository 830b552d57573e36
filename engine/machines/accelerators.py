"""What accelerators can do: memory, bandwidth, arithmetic and links, from vendors' data sheets.

Peaks are dense. What of them software reaches is in rates.py, what an hour costs in prices.py.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields

from engine.errors import SpecError


@dataclass(frozen=True)
class Accelerator:
    """One GPU. Memory in GB of 1e9 bytes, bandwidth in TB/s, arithmetic in dense TFLOP/s (0: no
    such units), links in GB/s one way: to its neighbours in the node, and its share of the network.
    """

    name: str
    memory_gb: float
    bandwidth_tb_s: float
    bf16_tflops: float
    fp8_tflops: float
    fp4_tflops: float
    link_gb_s: float
    network_gb_s: float

    def tflops(self, bytes_per_weight: float) -> float:
        """Peak for weights of this width; where no unit takes them, they are widened to 16 bits."""
        if bytes_per_weight < 0.9:
            return self.fp4_tflops or self.bf16_tflops
        if bytes_per_weight < 1.5:
            return self.fp8_tflops or self.bf16_tflops
        if bytes_per_weight < 3:
            return self.bf16_tflops
        return self.bf16_tflops / 2  # TF32

    def has_fp4(self, bytes_per_weight: float) -> bool:
        """Whether weights of this width are multiplied in four bits."""
        return bytes_per_weight < 0.9 and self.fp4_tflops > 0


# By Ray's name. Sources: serving sizing B4 (data sheets as repeated there) and NVIDIA's and AMD's
# product pages; links: NVLink per direction, PCIe 5.0 x16 63 and 4.0 x16 32 GB/s; network: 400 Gb/s
# InfiniBand per GPU on HGX boards, NVLink across an NVL72 rack.
ACCELERATORS = {
    one.name: one
    for one in (
        Accelerator("A100", 80, 2.04, 312, 0, 0, 300, 25),
        Accelerator("A100-40G", 40, 1.56, 312, 0, 0, 300, 25),
        Accelerator("A100-80G", 80, 2.04, 312, 0, 0, 300, 25),
        Accelerator("A800", 80, 2.04, 312, 0, 0, 200, 25),
        Accelerator("A10", 24, 0.6, 125, 0, 0, 32, 12),
        Accelerator("A10G", 24, 0.6, 70, 0, 0, 32, 12),
        Accelerator("V100", 32, 0.9, 125, 0, 0, 150, 12),
        Accelerator("T4", 16, 0.32, 65, 0, 0, 16, 12),
        Accelerator("L4", 24, 0.3, 121, 242, 0, 32, 12),
        Accelerator("L20", 48, 0.864, 119, 239, 0, 32, 25),
        Accelerator("L40", 48, 0.864, 181, 362, 0, 32, 25),
        Accelerator("L40S", 48, 0.864, 362, 733, 0, 32, 25),
        Accelerator("H20", 96, 4.0, 148, 296, 0, 450, 50),
        Accelerator("H100", 80, 3.35, 989, 1979, 0, 450, 50),
        Accelerator("H800", 80, 3.35, 989, 1979, 0, 200, 50),
        Accelerator("H200", 141, 4.8, 989, 1979, 0, 450, 50),
        Accelerator("B200", 180, 8.0, 2250, 4500, 9000, 900, 50),
        Accelerator("B300", 288, 8.0, 2250, 4500, 13500, 900, 100),
        Accelerator("GB200", 186, 8.0, 2500, 5000, 10000, 900, 900),
        Accelerator("GB300", 288, 8.0, 2500, 5000, 15000, 900, 900),
        Accelerator("RTX6000PRO", 96, 1.6, 500, 1000, 2000, 63, 50),
        Accelerator("MI300X", 192, 5.3, 1307, 2615, 0, 448, 50),
        Accelerator("MI325X", 256, 6.0, 1307, 2615, 0, 448, 50),
        Accelerator("MI355X", 288, 8.0, 2500, 5000, 10000, 537, 50),
    )
}
FIGURES = tuple(field.name for field in fields(Accelerator) if field.name != "name")


def accelerator_named(given: str) -> Accelerator:
    """An accelerator of the table, or by its own figures: NAME:memory_gb=96,bandwidth_tb_s=1.6,…

    Figures that are left out are those of the table, or 0 where the name is new. SpecError where
    neither tells enough.
    """
    name, _, written = given.partition(":")
    known = ACCELERATORS.get(name)
    if not written and known:
        return known
    figures = _figures(given, written) if written else {}
    needed = {"memory_gb", "bandwidth_tb_s", "bf16_tflops"}
    if not known and not figures.keys() >= needed:
        near = difflib.get_close_matches(name, ACCELERATORS, 3, 0.5)
        meant = f"did you mean {' or '.join(near)}? Known are" if near else "known are"
        raise SpecError(
            f"accelerator {name} has no figures here; {meant} {', '.join(ACCELERATORS)}. Give"
            f" another one's: --gpu {name}:memory_gb=96,bandwidth_tb_s=1.6,bf16_tflops=500"
            " (also fp8_tflops, fp4_tflops, link_gb_s, network_gb_s)"
        )
    base = dict.fromkeys(FIGURES, 0.0) | {"link_gb_s": 32.0, "network_gb_s": 12.0}
    if known:
        base = {field: getattr(known, field) for field in FIGURES}
    return Accelerator(name, **base | figures)


def _figures(given: str, written: str) -> dict[str, float]:
    figures = {}
    for part in written.split(","):
        field, _, value = part.partition("=")
        try:
            figures[field.strip()] = float(value)
        except ValueError:
            raise SpecError(
                f"--gpu {given}: {part!r} is no figure=number, such as memory_gb=96"
            ) from None
    if unknown := sorted(figures.keys() - set(FIGURES)):
        raise SpecError(
            f"--gpu {given}: no figure is called {', '.join(unknown)}; there are"
            f" {', '.join(FIGURES)}"
        )
    return figures
