"""The faults: each function runs a job under one of them, on real Ray Data replicas, and lets the
checker judge it.

Every choice is drawn from the seed that is given. Processes are killed by the id that they wrote
into the call history themselves or that we started them with, never by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.checker import Call, Death, Verdict, check, read_calls

REPOSITORY = Path(__file__).parents[2]
CRASH_POINTS = ("before_part", "mid_part", "before_record", "after_record")
PATIENCE_S = 240.0


@dataclass(frozen=True)
class Outcome:
    """What the checker saw of one run, calls that a second run of the finished job made, and what
    belongs to this fault alone."""

    verdict: Verdict
    second_run_calls: int
    kills: int
    facts: dict[str, Any] = field(default_factory=dict)


class Job:
    """A job of the fake teacher or of an API, in a folder of its own; one sample, reproducible."""

    def __init__(
        self,
        work: Path,
        *,
        rows: int,
        seed: int,
        fake: dict[str, Any] | None = None,
        api: dict[str, Any] | None = None,
        runs: Path | None = None,
        replicas: int = 2,
        **generate: Any,
    ) -> None:
        work.mkdir(parents=True)
        self.calls, self.runs, self._file = (
            work / "calls.txt",
            runs or work / "runs",
            work / "job.yaml",
        )
        prompts = work / "prompts.jsonl"
        prompts.write_text(
            "".join(json.dumps({"prompt": _prompt(seed, number)}) + "\n" for number in range(rows))
        )
        own = {
            "kind": "fake",
            "replicas": replicas,
            "fake": {"calls": str(self.calls)} | (fake or {}),
        }
        teacher = {"name": "t", "model": "fake"} | (api or own)
        spec = {
            "version": 1,
            "name": "chaos",
            "task": "conversation",
            "seed": seed,
            "device": "cpu",
            "prompts": {"train": str(prompts), "validation_fraction": 0.02},
            "generate": {"teachers": [teacher], "sampling": {"temperature": 0.7}} | generate,
            "train": {
                "student": str(REPOSITORY / "jobs/quickstart/student"),
                "tokenizer": str(REPOSITORY / "jobs/quickstart/teacher"),
                "init": "random",
                "block_tokens": 256,
            },
            "loadtest": {"models": []},
        }
        self._file.write_text(json.dumps(spec, indent=1))  # JSON is YAML

    def run(self) -> None:
        """In this process, on the Ray cluster that it is connected to."""
        from engine import pipeline
        from engine.job.jobfile import load_job

        pipeline.run(load_job(self._file), self.runs, until="generate")

    def command(self) -> list[str]:
        """The same as a user's command."""
        return [
            sys.executable,
            "-m",
            "engine.cli",
            "run",
            str(self._file),
            "--runs",
            str(self.runs),
            "--until",
            "generate",
        ]

    def start(self, *, address: str | None) -> subprocess.Popen[bytes]:
        """A driver of its own; with an address on that cluster, else with its own local one."""
        variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        variables |= {"PYTHONPATH": str(REPOSITORY)} | (
            {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"} if address else {}
        )
        with self._file.with_name("driver.log").open("ab") as log:
            return subprocess.Popen(
                self.command(), env=variables, stdout=log, stderr=log, start_new_session=True
            )

    def folder(self, stage: str) -> Path:
        """The run's one folder of a stage."""
        (found,) = (self.runs / "chaos").glob(f"?-{stage}-*")
        return found

    def history(self) -> list[Call]:
        return read_calls(self.calls)

    def epochs(self) -> list[float]:
        """When each driver opened its epoch."""
        return sorted(
            path.stat().st_mtime
            for path in self.runs.glob("chaos/2-generate-*/commits/epoch-*.json")
        )

    def has_answers(self, drivers: int) -> bool:
        """Whether the n-th driver's replicas are at work."""
        epochs = self.epochs()
        return len(epochs) == drivers and any(call.time > epochs[-1] for call in self.history())

    def last_words(self) -> str:
        """The end of what the drivers printed."""
        return self._file.with_name("driver.log").read_text(errors="replace")[-4000:]

    def judge(self, deaths: list[Death], **facts: Any) -> Outcome:
        """Check the finished run, then run it once more: nothing may be asked again and no byte may
        change."""
        verdict = check(
            self.folder("generate"), self.folder("prompts"), [self.calls], deaths=deaths
        )
        before = _content(self.folder("generate"))
        self.run()
        calls = len(self.history())
        again = check(self.folder("generate"), self.folder("prompts"), [self.calls], deaths=deaths)
        assert _content(self.folder("generate")) == before, (
            "a second run changed files of a finished stage"
        )
        return Outcome(
            verdict, again.calls - verdict.calls, len(deaths), {"history_lines": calls} | facts
        )


def _prompt(seed: int, number: int) -> str:
    draw = random.Random(f"{seed} {number}")
    return f"row {number} " + " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(8))


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _wait(until: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `until`; TimeoutError with `what` after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not (found := until()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {patience_s:g} s")
        time.sleep(0.2)
    return found


def _fenced(job: Job) -> list[Death]:
    """Replicas of every driver but the last. They outlive their driver for a moment: what they
    commit until the next driver's epoch counts, and nothing after that."""
    epochs, first = job.epochs(), {}
    for call in job.history():
        first.setdefault(call.pid, call.time)
    return [
        Death(pid, min(later))
        for pid, time in first.items()
        if (later := [epoch for epoch in epochs if epoch > time])
    ]


def crash_point(work: Path, *, name: str, seed: int, rows: int = 1000) -> Outcome:
    """A replica kills itself at a named point of the writer, once; Ray replaces it and the run goes
    on."""
    marker, nth = work / "crashed", random.Random(seed).randint(1, 4)
    knobs = {"crash_point": f"{name}:{nth}", "crash_once": str(marker), "latency_s": 0.005}
    job = Job(work, rows=rows, seed=seed, fake=knobs, part_rows=64, part_seconds=1.0)
    job.run()
    assert marker.exists(), f"{name}:{nth} was never reached: the run proves nothing"
    return job.judge(
        [Death(int(marker.read_text()), marker.stat().st_mtime)], point=f"{name}:{nth}"
    )


def replica_kills(
    work: Path, *, seed: int, rows: int, kills: int, latency_s: float, gap_s: tuple[float, float]
) -> Outcome:
    """SIGKILL to a random one of four replicas, again and again while the run goes on, with the
    stage's own part sizes."""
    job = Job(
        work, rows=rows, seed=seed, fake={"latency_s": latency_s}, replicas=4, rows_in_flight=64
    )
    draw, deaths, over = random.Random(seed), [], threading.Event()

    def nemesis() -> None:
        while len(deaths) < kills and not over.wait(draw.uniform(*gap_s)):
            dead, now = {death.pid for death in deaths}, time.time()
            if alive := sorted({call.pid for call in job.history() if call.time > now - 3} - dead):
                victim = draw.choice(alive)
                os.kill(victim, signal.SIGKILL)
                deaths.append(Death(victim, time.time()))

    thread = threading.Thread(target=nemesis)
    thread.start()
    try:
        reruns = _run_to_the_end(job)
    finally:
        over.set()
        thread.join()
    assert len(deaths) == kills, (
        f"the run ended after {len(deaths)} of {kills} kills: give it more rows or latency"
    )
    return job.judge(deaths, reruns=reruns)


def _run_to_the_end(job: Job) -> int:
    """Run; rows that met too many deaths end in `error`, and the same command tries them again.
    Returns how often it had to."""
    from engine.errors import StageError

    for attempt in range(3):
        try:
            job.run()
            return attempt
        except StageError as error:
            if "rows failed" not in str(error):
                raise
    raise AssertionError("rows still failed after three runs")


def driver_kills(
    work: Path, *, seed: int, rows: int, kills: int, latency_s: float, address: str | None
) -> Outcome:
    """SIGKILL to the driver at a random moment of its work, again and again; the same command
    resumes each time."""
    job, draw = (
        Job(
            work,
            rows=rows,
            seed=seed,
            fake={"latency_s": latency_s},
            part_rows=64,
            part_seconds=1.0,
        ),
        random.Random(seed),
    )
    for number in range(kills):
        driver = job.start(address=address)
        _wait(lambda: job.has_answers(number + 1) or driver.poll() is not None, "a first answer")  # noqa: B023
        time.sleep(draw.uniform(0.5, 4.0))
        assert driver.poll() is None, (
            f"the run ended before kill {number + 1}: give it more rows or"
            f" latency\n{job.last_words()}"
        )
        driver.kill()
        driver.wait()
    last = job.start(address=address)
    assert last.wait(PATIENCE_S) == 0, job.last_words()
    return job.judge(_fenced(job), driver_kills=kills)


def late_writer(work: Path, *, seed: int, rows: int = 1000) -> Outcome:
    """A node freezes, its driver dies, and a replica of it wakes up when a new driver is at work:
    what it writes then does not count."""
    job = Job(work, rows=rows, seed=seed, fake={"latency_s": 0.1}, part_rows=8, part_seconds=0.5)
    draw = random.Random(seed)
    with _other_cluster() as (address, raylet):
        first = job.start(address=address)
        _wait(lambda: len(job.history()) > draw.randint(100, 300), "work of the first driver")
        replicas = {call.pid for call in job.history()}
        for pid in (
            raylet,
            *replicas,
        ):  # frozen, the raylet cannot end the replicas of a driver that is gone
            os.kill(pid, signal.SIGSTOP)
        first.kill()
        first.wait()
        second = job.start(address=None)
        _wait(lambda: job.has_answers(2), "work of the second driver")
        time.sleep(draw.uniform(0.0, 1.0))
        late = draw.choice(sorted(replicas))
        os.kill(late, signal.SIGCONT)
        assert second.wait(PATIENCE_S) == 0, job.last_words()
        outcome = job.judge(_fenced(job))  # while it may still write
        for pid in replicas:
            os.kill(pid, signal.SIGKILL)
    assert outcome.verdict.unlisted_records, "the late writer wrote nothing: the run proves nothing"
    return outcome


@contextlib.contextmanager
def _other_cluster() -> Iterator[tuple[str, int]]:
    """A local Ray cluster in a process of its own; yields its address and its raylet's pid."""
    code = """if True:
        import pathlib, sys, ray
        from engine.backends import ray_cluster
        with ray_cluster.connected("local", shared=pathlib.Path("."), num_cpus=4):
            print("at", ray.get_runtime_context().gcs_address, flush=True)
            sys.stdin.read()
    """
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    address = next(
        line.split()[1] for line in iter(holder.stdout.readline, "") if line.startswith("at ")
    )
    (raylet,) = (
        child.pid
        for child in psutil.Process(holder.pid).children(recursive=True)
        if child.name() == "raylet"
    )
    try:
        yield address, raylet
    finally:
        os.kill(raylet, signal.SIGCONT)
        holder.stdin.close()
        holder.wait(60)


def full_disk(work: Path, *, seed: int, rows: int = 2000) -> Outcome:
    """The run folder's disk is too small: a clear message, a failure, and a resume once there is
    room.

    The disk is a tmpfs in a mount namespace of its own, which ends with the command.
    PermissionError where neither root nor user namespaces are allowed.
    """
    disk = work.with_name(f"{work.name}-disk")
    disk.mkdir()
    job = Job(
        work, rows=rows, seed=seed, runs=disk, part_rows=64, part_seconds=1.0, capture={"top_k": 32}
    )
    copy = work / "runs"
    command, log, status = (
        shlex.join(job.command()),
        shlex.quote(str(work / "full.log")),
        shlex.quote(str(work / "status")),
    )
    script = f"""
        mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(disk))} || exit 77
        {command} >{log} 2>&1; echo $? >{status}
        mount -o remount,size=512m {shlex.quote(str(disk))}
        {command} && cp -a {shlex.quote(str(disk))} {shlex.quote(str(copy))}
    """
    namespace = (
        ["unshare", "--mount"]
        if os.geteuid() == 0
        else ["unshare", "--user", "--map-root-user", "--mount"]
    )
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": str(REPOSITORY)
    }
    done = subprocess.run(
        [*namespace, "sh", "-c", script], env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        raise PermissionError(f"no tmpfs could be mounted: {done.stderr.strip()}")
    assert done.returncode == 0, (
        f"the run did not resume when there was room:\n{done.stdout}{done.stderr}"[-4000:]
    )
    job.runs = copy
    words = (work / "full.log").read_text()
    code = int((work / "status").read_text())
    assert code != 0, "a run on a full disk claims success"
    for needed in ("No space left on device", "make room there"):
        assert needed in words, f"the message does not say '{needed}':\n{words[-2000:]}"
    line = next(line for line in words.splitlines()[::-1] if "No space left" in line)
    return job.judge(
        _fenced(job), exit_code=code, message=line.strip()[-300:].replace(str(disk), "DISK")
    )


def misbehaving_api(work: Path, *, seed: int, rows: int = 1000) -> Outcome:
    """An OpenAI-protocol server that answers 30 % with 429, 5 % with 500, 1 % never and 0.5 % with
    half a JSON."""
    from tests.doubles import misbehaving_api as server

    def shuffled(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        words = body["messages"][-1]["content"].split()
        status, content = server.answer(path, body)
        content["choices"][0]["message"]["content"] = " ".join(words[::-1])
        return status, content

    os.environ["CHAOS_API_KEY"] = server.KEY
    faults = server.Faults(busy=0.3, error=0.05, hang=0.01, cut=0.005, latency_s=0.02, seed=seed)
    with server.serve(faults, shuffled) as api:
        teacher = {
            "kind": "openai",
            "base_url": f"{api.url}/v1",
            "api_key_env": "CHAOS_API_KEY",
            "concurrency": 32,
        }
        job = Job(work, rows=rows, seed=seed, api=teacher, request_timeout_s=2.0, max_attempts=10)
        driver = job.start(address=None)  # its cluster starts with the key in its environment
        assert driver.wait(PATIENCE_S) == 0, job.last_words()
        asked, early = len(api.calls), len(api.early_calls(grace_s=0.02))
        outcome = job.judge([])
        return replace(
            outcome,
            second_run_calls=len(api.calls) - asked,
            facts={"requests": asked, "before_retry_after": early},
        )
