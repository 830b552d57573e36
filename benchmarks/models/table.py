"""The table of models in engine/machines/README.md, written from the newest result: `python -m
benchmarks.models.table`. It computes nothing, and says "not run" of what was not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import Result, load_results, table_line, with_table
from engine.machines.tiny_models import FAMILIES, Family

HERE = Path(__file__).parent
README = HERE.parents[1] / "engine" / "machines" / "README.md"
BEGIN = "<!-- models: python -m benchmarks.models.table -->"
END = "<!-- end of models -->"
HEADER = ("architecture", "as", "answers, top 8", "trains, exports", "serves", "as transformers")
NOT_RUN = "not run"


def table_lines(result: Result) -> list[str]:
    """A line for each architecture, then what failed and why, and where it was seen."""
    models = result.data["models"]
    lines = [table_line(HEADER), table_line(["---"] * len(HEADER))]
    reasons = []
    for family in FAMILIES:
        steps = models.get(family.name, {})
        lines.append(table_line(_cells(family, steps)))
        reasons += _reasons(family, steps)
    where = f"Seen on {result.date}: {result.machine}; vLLM {result.words['vllm']},"
    where += f" transformers {result.data['versions']['transformers']}."
    return [*lines, "", *reasons, where]


def _cells(family: Family, steps: Mapping[str, Any]) -> list[str]:
    trained = _word(steps, "train")
    loss = steps.get("train", {}).get("loss")
    if loss:
        trained += f" ({loss})"
    return [
        family.name,
        f"`{family.model_type}`",
        _word(steps, "generate"),
        trained,
        _word(steps, "serve"),
        _alike(steps.get("serve", {})),
    ]


def _word(steps: Mapping[str, Any], step: str) -> str:
    if step not in steps:
        return NOT_RUN
    return "fails" if "failed" in steps[step] else "yes"


def _alike(served: Mapping[str, Any]) -> str:
    """How many answers are those of transformers, and the largest difference of a log-probability
    in nats."""
    if "prompts" not in served:
        return "–"
    words = f"{served['equal']} of {served['prompts']}"
    if served["ties"]:
        words += f", {served['ties']} part at a tie"
    return f"{words} ({served['largest_logprob_error_nats']:.0e})"


def _reasons(family: Family, steps: Mapping[str, Any]) -> list[str]:
    """Why a step failed, in the library's words."""
    found = []
    for step, seen in steps.items():
        if "failed" in seen:
            reason = seen["failed"].splitlines()[0]
            found += [f"- **{family.name}**, {step}: {reason}", ""]
    return found


def main() -> None:
    """Write the table into the README."""
    lines = table_lines(load_results(HERE)[0])
    README.write_text(with_table(README.read_text(), lines, BEGIN, END))


if __name__ == "__main__":
    main()
