"""Run the quickstart from nothing and compare it with the figures that it promises. See README.md
beside this file."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.result import bounded, write_result

REPOSITORY = Path(__file__).parents[2]

LIMIT_S, SECOND_LIMIT_S = 900, 30


def timed_run(runs: Path) -> float:
    """Seconds of one `distill run`; CalledProcessError if it fails."""
    command = [
        sys.executable,
        "-m",
        "engine.cli",
        "run",
        str(REPOSITORY / "jobs/quickstart.yaml"),
        "--runs",
        str(runs),
    ]
    started = time.monotonic()
    subprocess.run(command, check=True)
    return round(time.monotonic() - started, 1)


def main() -> int:
    """Exit 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    target = parser.parse_args().json
    with tempfile.TemporaryDirectory() as temporary:
        first, second = timed_run(Path(temporary)), timed_run(Path(temporary))
        report = json.loads((Path(temporary) / "quickstart/report.json").read_text())
    quality = report["quality"]
    failed = sum(
        level["failed"] for model in report["serving"].values() for level in model["levels"]
    )
    figures = {
        "teacher": (quality["teacher"], ">=", 0.90),
        "baseline": (quality["baseline"], "<=", 0.10),
        "student": (quality["student"], ">=", 0.80),
        "retention": (quality["retention"], ">=", 0.85),
        "failed_requests": (failed, "<=", 0),
        "seconds": (first, "<=", LIMIT_S),
        "second_run_seconds": (second, "<=", SECOND_LIMIT_S),
    }
    ratios = {name: bounded(*figure) for name, figure in figures.items()}
    stages = {name: stage["seconds"] for name, stage in report["stages"].items()}
    return write_result(
        target, ratios, stage_seconds=stages, quality=quality, serving=report["serving"]
    )


if __name__ == "__main__":
    sys.exit(main())
