"""One command for the minutes on a bare GPU machine: installs a pack, then proves the train stage
part by part (see README.md).

Until the pack is installed this is the standard library only. Each part is a process of its own
with its own time limit, and the result is written anew after each, so that what fails, hangs or is
cut off costs nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import pack as packed
from benchmarks.gpu.layouts import LAYOUTS, STEPS, TRAINED, slug

HERE, CHECKOUT = Path(__file__).parent, Path(__file__).parents[2]
TAIL_LINES, LEAST_S = 25, 10
NO_REFERENCE = 1e-9  # a loss that nothing agrees with
ALSO = (
    "triton",
    "peft",
    "bitsandbytes",
    "liger-kernel",
    "nvidia-cublas",
    "nvidia-nccl-cu13",
)  # whose versions matter here
LIBRARIES_GB = 0.1  # work space of cuBLAS and the like, which no plan of weights knows
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """What is proved, by commands one after the other that share a time limit; the last one's
    result file is read.

    `judge(result, results of earlier parts)` gives ratios with their bounds. `codes` are the exit
    codes that each command may have. One that waits for a line on stdin before it works (`waits`)
    is started while the part before runs.
    """

    name: str
    limit_s: float
    commands: Sequence[Sequence[str]]
    judge: Callable[[dict[str, Any], Results], dict[str, Any]] = lambda result, results: {}
    codes: Sequence[Sequence[int]] = ((0,),)
    waits: bool = False
    needs: Sequence[str] = ()
    leaves: Sequence[Path] = ()  # folders that go when it has ended, well or not


@dataclass
class Session:
    """Runs parts until the deadline, and writes what was seen to `target` after each."""

    target: Path
    work: Path
    deadline: float
    environment: Mapping[str, str]
    head: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, Any] = field(default_factory=dict)
    parts: Results = field(default_factory=dict)

    def run(self, parts: Sequence[Part]) -> None:
        """All parts in their order."""
        self._early: subprocess.Popen[bytes] | None = None
        try:
            self._run(parts)
        finally:
            _end(self._early)

    def _run(self, parts: Sequence[Part]) -> None:
        for at, part in enumerate(parts):
            process, self._early = self._early, None
            left = self.deadline - time.monotonic()
            lacking = [name for name in part.needs if self.parts.get(name, {}).get("state") != "ok"]
            if lacking or left < LEAST_S:
                why = f"needs {', '.join(lacking)}" if lacking else "no time is left"
                self._note(part.name, {"state": "left out", "why": why})
                _end(process)
                continue
            following = parts[at + 1] if at + 1 < len(parts) else None
            process = process or self._start(part, 0)
            if following and following.waits and part.waits:
                self._early = self._start(following, 0)
            self._note(part.name, self._outcome(part, process, min(part.limit_s, left)))
            for folder in part.leaves:
                shutil.rmtree(folder, ignore_errors=True)

    def _outcome(
        self, part: Part, process: subprocess.Popen[bytes], limit_s: float
    ) -> dict[str, Any]:
        began = time.monotonic()
        try:
            for number, codes in enumerate(part.codes):
                process = process if number == 0 else self._start(part, number)
                self._go(part, process)
                process.wait(max(0.0, began + limit_s - time.monotonic()))
                if process.returncode not in codes:
                    return self._failure(
                        part, began, "failed", f"exit code {process.returncode}, not {codes[0]}"
                    )
            result = json.loads(self._result(part).read_text())
            ratios = part.judge(result, self.parts)
            self.ratios |= ratios
        except subprocess.TimeoutExpired:
            return self._failure(
                part, began, "out of time", f"it did not end within {limit_s:.0f} s"
            )
        except (OSError, LookupError, TypeError, ValueError) as error:
            return self._failure(part, began, "failed", f"{type(error).__name__}: {error}")
        finally:
            _end(process)
        missed = not all(ratio["ok"] for ratio in ratios.values())
        outcome = {
            "state": "ok",
            "seconds": round(time.monotonic() - began, 1),
            "limit_s": part.limit_s,
            "result": result,
        }
        return outcome | ({"last_lines": self._last_lines(part)} if missed else {})

    def _failure(self, part: Part, began: float, state: str, why: str) -> dict[str, Any]:
        seen = {
            "state": state,
            "seconds": round(time.monotonic() - began, 1),
            "limit_s": part.limit_s,
            "why": why,
        }
        return seen | {"last_lines": self._last_lines(part)}

    def _last_lines(self, part: Part) -> list[str]:
        return self._log(part).read_text(errors="replace").splitlines()[-TAIL_LINES:]

    def _start(self, part: Part, number: int) -> subprocess.Popen[bytes]:
        self._result(part).unlink(missing_ok=True)
        with self._log(part).open("ab") as log:
            return subprocess.Popen(
                part.commands[number],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                cwd=CHECKOUT,
                start_new_session=True,
            )

    def _go(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(
            BrokenPipeError
        ):  # it died while it imported, which its exit code says
            process.stdin.write(b"go\n")
            process.stdin.close()

    def _log(self, part: Part) -> Path:
        return self.work / f"{slug(part.name)}.log"

    def _result(self, part: Part) -> Path:
        return result_file(self.work, part.name)

    def _note(self, name: str, outcome: dict[str, Any]) -> None:
        self.parts[name] = outcome
        said = f"{outcome['seconds']:6.1f} s" if "seconds" in outcome else " " * 8
        print(
            f"{outcome['state']:<12} {said}  {name}  {outcome.get('why', '')}".rstrip(), flush=True
        )
        self.write()

    def write(self) -> None:
        """The whole result, at once or not at all."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        partial = self.target.with_suffix(".partial")
        partial.write_text(
            json.dumps(self.head | {"ratios": self.ratios, "parts": self.parts}, indent=1) + "\n"
        )
        partial.replace(self.target)

    def status(self) -> int:
        """Print the ratios; 1 if a bound is missed or a part did not end well."""
        for name, ratio in self.ratios.items():
            print(
                f"{'ok  ' if ratio['ok'] else 'MISS'} {name}: {ratio['value']:.6g} (bound"
                f" {ratio['bound']})"
            )
        good = all(part["state"] == "ok" for part in self.parts.values()) and all(
            ratio["ok"] for ratio in self.ratios.values()
        )
        return 0 if good else 1


def result_file(work: Path, name: str) -> Path:
    """Where a part's process writes what it saw."""
    return work / f"{slug(name)}.json"


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """The process and all that it started."""
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(
        subprocess.TimeoutExpired
    ):  # one that is stuck in a driver's call does not even die
        process.wait(5)


def parts_of(options: argparse.Namespace, work: Path) -> Iterator[Part]:
    """The most valuable first."""
    from benchmarks.result import bounded

    python, device, short = sys.executable, options.device, options.short
    smoke = ["--smoke"] if device == "cpu" else []
    for name, limit_s in () if short else (("train", 150), ("losses", 90)):
        command = [
            python,
            "-m",
            "benchmarks.gpu_training.run",
            "--only",
            name,
            *smoke,
            "--json",
        ]
        title = f"1B student, {name}"
        yield Part(
            title,
            limit_s,
            [[*command, str(result_file(work, title))]],
            lambda result, results: result["ratios"],
            codes=((0, 1),),
        )
    for name, layout in LAYOUTS.items():
        if not (layout.short if short else layout.on_cpu or device == "gpu"):
            continue
        command = [
            python,
            "-m",
            "benchmarks.gpu.train_layout",
            name,
            "--device",
            device,
            "--pack",
            str(options.pack),
            "--out",
            str(work / slug(name)),
            "--result",
            str(result_file(work, name)),
        ]

        def judge(
            result: dict[str, Any], results: Results, name: str = name, layout: Any = layout
        ) -> dict[str, Any]:
            found = {f"{name}: steps": bounded(result["steps"], ">=", STEPS)}
            found[f"{name}: last loss to the first"] = bounded(
                result["losses"][-1] / result["losses"][0], "<=", layout.learns
            )
            if layout.like and not (short and not LAYOUTS[layout.like].short):
                theirs = results.get(layout.like, {}).get("result", {}).get("losses")
                pairs = zip(result["losses"], theirs or [NO_REFERENCE], strict=bool(theirs))
                apart = max(abs(a - b) / abs(b) for a, b in pairs)
                found[f"{name}: losses apart from {layout.like}"] = bounded(
                    apart, "<=", layout.tolerance
                )
            if layout.killed:
                found[f"{name}: resumed after step"] = bounded(result["resumed_from"], ">=", 1)
            if device == "gpu" and result["planned_state_gb"]:
                room = result["planned_state_gb"] + LIBRARIES_GB
                found[f"{name}: GB between steps to the plan"] = bounded(
                    result["state_gb"] / room, "<=", 1.05
                )
            return found

        commands, codes = (
            ([[*command, "--kill"], command], ((-signal.SIGKILL,), (0,)))
            if layout.killed
            else ([command], ((0,),))
        )
        limit_s = 120 if layout.killed else 75
        leaves = [
            work / slug(name) / big
            for big in ("checkpoints", "baseline", *(() if name == TRAINED else ("student",)))
        ]
        yield Part(name, limit_s, commands, judge, codes, waits=True, leaves=leaves)
        if name == "resume" or (short and layout.killed):
            yield from _product_parts(
                options, work
            )  # before the rarer layouts: this is what a user does


def _product_parts(options: argparse.Namespace, work: Path) -> Iterator[Part]:
    """`distill run` through Ray Train, and what its student answers."""
    from benchmarks.result import bounded

    def command(module: str, title: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            f"benchmarks.gpu.{module}",
            "--device",
            options.device,
            "--pack",
            str(options.pack),
            "--runs",
            str(work / "runs"),
            "--result",
            str(result_file(work, title)),
        ]

    product = "distill run through Ray Train"
    yield Part(
        product,
        240 if options.device == "cpu" else 120,
        [command("through_ray", product)],
        lambda result, results: {"Ray Train: exit code": bounded(result["exit_code"], "<=", 0)},
    )
    least = {"exact_match": 0.0 if options.short else 0.9, "same_on_cpu": 0.9}
    greedy = "greedy answers in transformers"
    yield Part(
        greedy,
        60,
        [command("greedy", greedy)],
        lambda result, results: {
            f"student: {name}": bounded(result[name], ">=", bound) for name, bound in least.items()
        },
        needs=[product],
    )


def prepare(options: argparse.Namespace, work: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Join and install the pack; what was installed, and the environment of all parts, with which
    this process goes on too."""
    site = work / "site"
    installed: dict[str, Any] = {}
    if (options.pack / packed.LIST).exists():
        packed.join(options.pack)
    if options.install:
        installed = packed.install(options.pack, site)
    # the checkout first: the pack's wheel of the product holds the engine/ of its day
    paths = [str(CHECKOUT), str(site)]
    sys.path[:0] = paths
    importlib.invalidate_caches()
    more = {
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    more |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return installed, os.environ | more | {"PYTHONPATH": os.pathsep.join([*paths, *inherited])}


def graphics() -> list[str]:
    """Name, driver and memory of the GPUs, as nvidia-smi says them; none where there is no such
    command."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def main() -> int:
    """Exit 1 if a part failed, ran out of time or was left out, or a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9, help="all parts end within them")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument(
        "--pack", type=Path, default=HERE / "pack", help="what pack.sh made, or its pieces"
    )
    parser.add_argument(
        "--work", type=Path, default=CHECKOUT / "build/gpu", help="scratch folder, emptied first"
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="one layout, Ray Train, its student: that the script runs",
    )
    parser.add_argument(
        "--no-install",
        dest="install",
        action="store_false",
        help="everything is installed here already",
    )
    parser.add_argument("--commit", help="of the checkout, where it comes without .git")
    options = parser.parse_args()
    began, work = time.monotonic(), options.work.absolute()
    options.pack = options.pack.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        installed, environment = prepare(options, work)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        Session(
            options.json,
            work,
            0,
            {},
            {"device": options.device, "install": f"{type(error).__name__}: {error}"},
        ).write()
        raise
    from benchmarks.result import machine
    from engine.run.identity import git_commit, versions

    head = {
        "machine": machine() | {"gpus": graphics()},
        "device": options.device,
        "versions": versions(),
    }
    head["versions"] |= {name: version for name in ALSO if (version := packed.version_here(name))}
    head |= {
        "git_commit": options.commit or git_commit(),
        "pack": installed,
        "short": options.short,
    }
    head |= {"install_seconds": round(time.monotonic() - began, 1)}
    session = Session(options.json, work, began + 60 * options.minutes, environment, head)
    session.write()
    session.run(list(parts_of(options, work)))
    session.head["seconds"] = round(time.monotonic() - began, 1)
    session.write()
    return session.status()


if __name__ == "__main__":
    sys.exit(main())
