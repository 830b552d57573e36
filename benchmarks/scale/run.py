"""Time per row, the driver's memory and the time of a resume at 10k, 100k and 1M prompts. See
README.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.result import bounded, write_result

REPOSITORY = Path(__file__).parents[2]

MIB = 1024**2
SIZES = [10_000, 100_000, 1_000_000]
REPEATS = 3


def write_job(folder: Path, rows: int) -> Path:
    """Prompts of about 60 bytes and a job whose fake teacher answers at once, on two Ray Data
    replicas."""
    folder.mkdir()
    draw = random.Random(rows)
    with (folder / "prompts.jsonl").open("w") as file:
        for number in range(rows):
            file.write(
                json.dumps(
                    {
                        "prompt": f"row {number} "
                        + " ".join("".join(draw.choices("abcdef", k=5)) for _ in range(8))
                    }
                )
                + "\n"
            )
    spec = {
        "version": 1,
        "name": "scale",
        "task": "conversation",
        "device": "cpu",
        "prompts": {"train": str(folder / "prompts.jsonl"), "validation_fraction": 0.01},
        "generate": {
            "teachers": [
                {"name": "t", "kind": "fake", "model": "fake", "replicas": 2, "concurrency": 64}
            ]
        },
        "train": {
            "student": str(REPOSITORY / "jobs/quickstart/student"),
            "tokenizer": str(REPOSITORY / "jobs/quickstart/teacher"),
            "init": "random",
            "block_tokens": 256,
        },
        "loadtest": {"models": []},
    }
    (folder / "job.yaml").write_text(json.dumps(spec, indent=1))  # JSON is YAML
    return folder / "job.yaml"


def drive(job: Path) -> dict[str, float]:
    """One `distill run --until generate`: seconds, and the driver's greatest resident memory in
    MiB, of prompts and of all.

    The driver is that one process; Ray's own processes and the replicas are not counted.
    """
    command = [
        sys.executable,
        "-m",
        "engine.cli",
        "run",
        str(job),
        "--runs",
        str(job.parent),
        "--until",
        "generate",
    ]
    started, rss = time.monotonic(), {"prompts": 0, "all": 0}
    with job.with_name("driver.log").open("ab") as log:
        driver = psutil.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
        )
        while driver.poll() is None:
            try:
                now = driver.memory_info().rss
            except psutil.NoSuchProcess:
                break
            rss["all"] = max(rss["all"], now)
            if not list(job.parent.glob("scale/1-prompts-*/manifest.json")):
                rss["prompts"] = max(rss["prompts"], now)
            time.sleep(0.1)
    if driver.wait():
        raise subprocess.CalledProcessError(
            driver.returncode, command, stderr=job.with_name("driver.log").read_text()[-2000:]
        )
    seconds = time.monotonic() - started
    return {
        "wall_s": round(seconds, 2),
        "rss_mib": round(rss["all"] / MIB, 1),
        "rss_prompts_mib": round(rss["prompts"] / MIB, 1),
    }


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds of each finished stage, from its manifest."""
    manifests = [json.loads(path.read_text()) for path in folder.glob("scale/?-*/manifest.json")]
    return {f"{manifest['stage']}_s": manifest["seconds"] for manifest in manifests}


def measure(folder: Path, rows: int) -> dict[str, float]:
    """One run from nothing, in a folder of its own."""
    job = write_job(folder, rows)
    return drive(job) | stage_seconds(folder)


def resume(folder: Path) -> dict[str, float]:
    """The same command on the finished run, and on one whose driver died just before it wrote the
    manifest."""
    again = drive(folder / "job.yaml")["wall_s"]
    (manifest,) = folder.glob("scale/2-generate-*/manifest.json")
    rows = json.loads(manifest.read_text())["rows_out"]
    manifest.unlink()
    unpublished = drive(folder / "job.yaml")
    published = json.loads(manifest.read_text())
    assert (published["rows_out"], published["info"]["answered_this_run"]) == (rows, 0), (
        "a resume of a finished run asked the teacher"
    )
    return {
        "second_run_s": again,
        "resume_s": unpublished["wall_s"],
        "resume_rss_mib": unpublished["rss_mib"],
    }


def main() -> int:
    """Exit 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=3,
        default=SIZES,
        help="for a quick look; the bounds are for the default",
    )
    options = parser.parse_args()
    seen: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for rows in options.sizes:
            seen[rows] = []
            for number in range(REPEATS):
                seen[rows].append(measure(Path(temporary) / f"{rows}-{number}", rows))
                print(f"{rows:>9,} rows: {seen[rows][-1]}", flush=True)
        resumed = resume(Path(temporary) / f"{options.sizes[-1]}-0")
    small, middle, large = options.sizes
    figure = {
        rows: {
            key: statistics.median(run[key] for run in runs)
            for key in ("generate_s", "prompts_s", "wall_s", "rss_mib")
        }
        for rows, runs in seen.items()
    }
    slope, first = (
        (figure[more]["generate_s"] - figure[less]["generate_s"]) / (more - less)
        for more, less in ((large, middle), (middle, small))
    )
    ratios = {
        "time_per_row": bounded(round(slope / first, 3), "<=", 1.2),
        "driver_memory": bounded(
            round(figure[large]["rss_mib"] / figure[middle]["rss_mib"], 3), "<=", 1.5
        ),
        "second_run_seconds": bounded(resumed["second_run_s"], "<=", 60),
        "resume_seconds": bounded(resumed["resume_s"], "<=", 60),
    }
    return write_result(
        options.json,
        ratios,
        runs={str(rows): runs for rows, runs in seen.items()},
        resume=resumed,
        microseconds_per_row={
            "small_to_middle": round(first * 1e6, 1),
            "middle_to_large": round(slope * 1e6, 1),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
