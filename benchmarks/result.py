"""The form in which every benchmark writes what it saw: machine, versions, commit and ratios with
their bounds."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.run.identity import git_commit, versions

Ratios = dict[str, dict[str, Any]]  # by name, each as of `bounded`
Found = tuple[Ratios, dict[str, Any]]  # with the raw figures that they were made of


def bounded(value: float, sign: str, bound: float) -> dict[str, Any]:
    """One ratio: its value, its bound (`>= 0.95`, `<= 120`) and whether it holds."""
    return {
        "value": value,
        "bound": f"{sign} {bound}",
        "ok": bool(value >= bound if sign == ">=" else value <= bound),
    }


def write_result(target: Path, ratios: dict[str, dict[str, Any]], **more: Any) -> int:
    """Write the result as JSON, print the ratios, and return the exit status: 1 if one of them
    misses its bound."""
    _write(target, ratios, more)
    for name, ratio in ratios.items():
        print(
            f"{'ok  ' if ratio['ok'] else 'MISS'} {name}: {ratio['value']:.6g} (bound"
            f" {ratio['bound']})"
        )
    return 0 if all(ratio["ok"] for ratio in ratios.values()) else 1


def _write(target: Path, ratios: Ratios, more: Mapping[str, Any]) -> None:
    result = {
        "machine": machine(),
        "versions": versions(),
        "git_commit": git_commit(),
        "ratios": ratios,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result | more, indent=1) + "\n")


def run_parts(target: Path, parts: Mapping[str, Sequence[Callable[[], Found]]], **more: Any) -> int:
    """Measure part after part, and write what all found, how long each part took, and `more`: after
    each part, so that one that fails takes nothing with it. Returns the exit status."""
    ratios: Ratios = {}
    raw: dict[str, Any] = {}
    took_s: dict[str, float] = {}
    for name, measures in parts.items():
        started = time.monotonic()
        for measure in measures:
            found, figures = measure()
            ratios |= found
            raw |= figures
        took_s[name] = round(time.monotonic() - started, 1)
        _write(target, ratios, more | {"took_s": took_s, "raw": raw})
    return write_result(target, ratios, **more, took_s=took_s, raw=raw)


def machine() -> dict[str, Any]:
    """What it ran on; no name of a host."""
    found = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = subprocess.run(
        ["lscpu"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("Model name")]
    return (
        found | {"memory_gib": round(memory / 1024**3, 1)} | ({"cpu": models[0]} if models else {})
    )
