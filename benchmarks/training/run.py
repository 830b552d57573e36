"""Target tokens per second of the train stage beside TRL 1.16, for sft and for distillation. See
README.md beside this file."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.result import bounded, write_result
from benchmarks.training import task

REPOSITORY = Path(__file__).parents[2]

TRL = "1.16.0"
SHARED = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "numpy",
)  # in the versions of our lock
WARMUP = 6  # steps; Ray's helpers start beside the first ones
# What is compared: name -> (module, variant, micro-batch or None for all examples of a step in one
# forward pass)
OURS = {"ours_sft": "sft", "ours_kd_teacher": "kd_teacher", "ours_kd_stored": "kd_stored"}
PACKED = task.STEP_TOKENS // task.SEQUENCE
THEIRS = {
    "sft": [("unpacked", None), ("grouped", None), ("bfd", PACKED), ("bfd_split", PACKED)],
    "sft_tuned": [("unpacked", 1), ("bfd", 1)],
    "sft_cut": [("wrapped", PACKED), ("wrapped", 4)],
    "kd": [("distillation", None), ("gkd", None)],
    "kd_tuned": [("distillation", 1), ("gkd", 1)],
    "rollouts": [("rollouts", None)],  # shown, compared with nothing
}
LEAST = defaultdict(
    lambda: 1.0, sft=1.5, kd=1.5
)  # where both sides take the same batch in one pass; the rest: never slower


def environment(folder: Path) -> Path:
    """The Python of an environment of TRL's own, made in `folder` where it is missing."""
    python = folder / "bin/python"
    if not (folder / "done").exists():
        lock = (REPOSITORY / "requirements/cpu.txt").read_text()
        shared = [re.search(rf"^{name}==\S+", lock, re.MULTILINE)[0] for name in SHARED]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        links = os.environ.get("PIP_FIND_LINKS")  # uv does not read pip's
        variables = os.environ | ({"UV_FIND_LINKS": links} if links else {})
        backend = [] if links else ["--torch-backend=cpu"]
        uv = [
            str(Path(sys.executable).with_name("uv")),
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            *backend,
        ]
        subprocess.run([*uv, f"trl=={TRL}", *shared], env=variables, check=True)
        (folder / "done").touch()
    return python


def measure(python: str, module: str, variant: str, micro: int, work: Path) -> dict[str, Any]:
    """One fresh process; CalledProcessError, with its last lines shown, if it fails."""
    command = [python, "-m", f"benchmarks.training.{module}", variant, str(micro), str(work)]
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    with (work / f"log-{variant}-{micro}.txt").open("w+") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=variables, cwd=work, check=False)
        if done.returncode:
            log.seek(0)
            print("\n".join(log.read().splitlines()[-30:]), file=sys.stderr)
        done.check_returncode()
    return json.loads((work / "result.json").read_text())


def main() -> int:
    """Exit 1 if a ratio misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--environment",
        type=Path,
        default=REPOSITORY / "build/trl",
        help="TRL's environment, made where it is missing",
    )
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--micro", type=int, default=PACKED, help="our blocks per forward pass; a step has as many"
    )
    parser.add_argument("--groups", nargs="+", default=list(THEIRS), choices=THEIRS)
    options = parser.parse_args()
    trl = str(environment(options.environment.absolute()))
    speeds: dict[str, list[float]] = defaultdict(list)
    facts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        task.make(work, options.examples)
        (work / "task.json").write_text(json.dumps({"threads": os.cpu_count(), "warmup": WARMUP}))
        whole = task.examples_per_step(json.loads((work / "examples.json").read_text()))
        kinds = {group.partition("_")[0] for group in options.groups}
        runs = [
            ("", name, sys.executable, "ours", variant, options.micro)
            for name, variant in OURS.items()
            if name.split("_")[1] in kinds
        ]
        runs += [
            (group, f"trl_{variant}_{micro or whole}", trl, "trl_side", variant, micro or whole)
            for group in options.groups
            for variant, micro in THEIRS[group]
        ]
        fastest: dict[str, float] = defaultdict(float)  # by group, so far
        for repeat in range(options.repeats):
            for group, name, *run in runs:
                if (
                    repeat
                    and group
                    and (group == "rollouts" or speeds[name][0] < 0.8 * fastest[group])
                ):
                    continue  # it is compared with nothing, or cannot become the fastest
                facts[name] = measure(*run, work)
                speeds[name].append(round(facts[name].pop("tokens_per_second"), 1))
                fastest[group] = max(fastest[group], speeds[name][0])
                print(f"{name:<24} {speeds[name][-1]:>8,.0f} tok/s", flush=True)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    ratios = {}
    for group in options.groups:
        kind = group.partition("_")[0]
        best = max(
            (f"trl_{variant}_{micro or whole}" for variant, micro in THEIRS[group]), key=medians.get
        )
        for name in (name for name in OURS if name.split("_")[1] == kind):
            suffix = group.removeprefix(kind)
            ratios[f"{name}_to_{best}{suffix}"] = bounded(
                round(medians[name] / medians[best], 3), ">=", LEAST[group]
            )
    return write_result(
        options.json,
        ratios,
        tokens_per_second=speeds,
        facts=facts,
        trl=TRL,
        examples=options.examples,
    )


if __name__ == "__main__":
    sys.exit(main())
