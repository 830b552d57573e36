"""Memory, time and accuracy of the losses from hidden states, against the dense computation. See
README.md beside this file."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.kd_memory.measure import CASES, draw, piece_loss, run_once, spec_of, stored
from benchmarks.result import bounded, write_result

REPOSITORY = Path(__file__).parents[2]

TOKENS, EXACT_TOKENS, EXACT_PIECE = 2048, 24, 7
MEASURED = ("sft_stored", "forward_kl_stored", "forward_kl_live")
MEMORY_LIMIT, TIME_LIMIT, ERROR_LIMIT = 1 / 8, 1.3, 1e-4


def measure(kind: str, case: str, tokens: int) -> dict[str, Any]:
    """One fresh process; CalledProcessError if it fails."""
    module = "benchmarks.kd_memory.measure"
    command = [sys.executable, "-m", module, kind, case, str(tokens)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return json.loads(
        subprocess.run(
            command, stdout=subprocess.PIPE, env=environment, check=True, text=True
        ).stdout
    )


def errors(case: str) -> dict[str, float]:
    """Relative errors of loss and gradients (norm of the difference) in fp32 and pieces, against
    float64 and dense, all else equal."""
    name, live = CASES[case]
    spec = spec_of(name)
    found = []
    for kind, dtype in (("dense", torch.float64), ("pieces", torch.float32)):
        drawn = draw(EXACT_TOKENS)
        signal = stored(drawn)
        drawn = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in drawn.items()
        }
        drawn["hidden"].requires_grad_()
        drawn["weight"].requires_grad_()
        value = run_once(
            kind,
            drawn,
            piece_loss(drawn, signal, spec, live),
            4 * len(drawn["weight"]) * EXACT_PIECE,
        )
        found.append(
            (torch.tensor(value, dtype=torch.float64), drawn["hidden"].grad, drawn["weight"].grad)
        )
    pairs = zip(("loss", "grad_hidden", "grad_head"), *found, strict=True)
    return {key: float((ours.double() - exact).norm() / exact.norm()) for key, exact, ours in pairs}


def main() -> int:
    """Exit 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(options.repeats):
        for case in MEASURED:
            for kind in ("dense", "pieces"):
                seen[f"{case}/{kind}"].append(measure(kind, case, options.tokens))
                last = seen[f"{case}/{kind}"][-1]
                print(
                    f"{case:<18} {kind:<7} {last['extra_bytes'] / 2**20:>8,.0f} MiB "
                    f" {last['seconds']:>6.2f} s",
                    flush=True,
                )
    ratios = {}
    for case in MEASURED:
        memory, seconds = (
            [
                statistics.median(row[key] for row in seen[f"{case}/{kind}"])
                for kind in ("pieces", "dense")
            ]
            for key in ("extra_bytes", "seconds")
        )
        ratios[f"memory_{case}"] = bounded(round(memory[0] / memory[1], 4), "<=", MEMORY_LIMIT)
        ratios[f"time_{case}"] = bounded(round(seconds[0] / seconds[1], 3), "<=", TIME_LIMIT)
    found = {}
    for case in CASES:
        found[case] = errors(case)
        print(
            f"{case:<24} " + "  ".join(f"{key} {value:.1e}" for key, value in found[case].items()),
            flush=True,
        )
        ratios[f"error_{case}"] = bounded(max(found[case].values()), "<=", ERROR_LIMIT)
    return write_result(
        options.json, ratios, measurements=seen, errors=found, tokens=options.tokens
    )


if __name__ == "__main__":
    sys.exit(main())
