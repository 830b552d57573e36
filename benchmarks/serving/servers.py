"""The servers that are compared, as processes: how each is started, when it is there, what it costs
in processor time, and how it ends with all that it started."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving.stand_ins import HOST, REPOSITORY, free_port
from engine.backends.vllm_settings import engine_arguments, engine_environment
from engine.job.spec import Model, ServeSpec

TEACHER = REPOSITORY / "jobs/quickstart/teacher"
MODEL = "teacher"
OLD_COMMIT = "bda1a98"  # tokens travelled through Ray Serve
DTYPE, KV_CACHE_GIB = "float32", 0.5
START_S = 600
STOP_S = 90  # an orderly end waits for what is open
LEFT_S = 2  # for what it started, after it
ENGINE = "VLLM::EngineCore"  # the engine's process, by its title
# Ray's niceness of 15 would measure its variants with what other work leaves over.
VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class Start:
    """How a server is started in a process: `variables` are added to this one's environment."""

    name: str
    command: list[str]
    port: int
    folder: Path  # where it runs
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """One that runs. `url` ends in /v1."""

    name: str
    url: str
    process: psutil.Process

    def processor_s(self) -> dict[int, tuple[str, float]]:
        """{pid: (what it is, its processor seconds so far)} of it and all that it started."""
        found = {}
        for each in [self.process, *self.process.children(recursive=True)]:
            try:
                spent = each.cpu_times()
                found[each.pid] = (_title(each), spent.user + spent.system)
            except psutil.Error:  # it ended meanwhile
                continue
        return found


def _title(process: psutil.Process) -> str:
    """What it is, without a path: `ray::…` and `VLLM::…` by their own titles."""
    line = process.cmdline()
    if line and "::" in line[0]:
        return line[0].partition(" ")[0]
    for before, after in itertools.pairwise(line):
        if before == "-m":
            return after
    scripts = [Path(word).name for word in line if word.endswith(".py")]
    return scripts[0] if scripts else process.name()


def spent(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]
) -> dict[str, float]:
    """Processor seconds between two looks, by what spent them; of what was new, all."""
    seconds: dict[str, float] = defaultdict(float)
    for pid, (title, since_start) in after.items():
        _, earlier = before.get(pid, ("", 0.0))
        seconds[title] += since_start - earlier
    return dict(seconds)


def has_engine(looked: dict[int, tuple[str, float]]) -> bool:
    """Whether the engine's process is there under its title: else it would count as beside it."""
    return any(title.startswith(ENGINE) for title, _ in looked.values())


def beside_engine(seconds: Mapping[str, float]) -> float:
    """The sum without the engine's own process."""
    return sum(value for title, value in seconds.items() if not title.startswith(ENGINE))


def own() -> Start:
    """vLLM's API server, with the engine arguments that `ours` has."""
    port = free_port()
    model = Model(MODEL, str(TEACHER), None, ServeSpec(dtype=DTYPE, kv_cache_gib=KV_CACHE_GIB))
    # as engine.backends.vllm_server has it: counters, and no line per request
    arguments = engine_arguments(model, "cpu", compiled=True)
    del arguments["disable_log_stats"]
    arguments |= {
        "disable_uvicorn_access_log": True,
        "served_model_name": MODEL,
        "host": HOST,
        "port": port,
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags(arguments)]
    variables = engine_environment(1, "cpu") | {"PYTHONPATH": str(REPOSITORY)}
    return Start("own", command, port, REPOSITORY, variables)


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as options of a command line."""
    words = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if value is True:
            words.append(f"--{option}")
        elif value is False:
            words.append(f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def ours(work: Path) -> Start:
    """`distill serve` of a folder."""
    port = free_port()
    settings = ("device=cpu", f"serve.dtype={DTYPE}", f"serve.kv_cache_gib={KV_CACHE_GIB}")
    command = _distill_serve("--model", str(TEACHER), sets=settings, port=port, work=work)
    return Start("ours", command, port, REPOSITORY, {"PYTHONPATH": str(REPOSITORY)})


def old(work: Path) -> Start:
    """`distill serve` of the quickstart's teacher as OLD_COMMIT had it, from its own files."""
    port = free_port()
    checkout = work / "old"
    check_out(OLD_COMMIT, checkout)
    job = str(checkout / "jobs/quickstart.yaml")
    command = _distill_serve(job, "--model", MODEL, sets=(), port=port, work=work)
    return Start("old", command, port, checkout, {"PYTHONPATH": str(checkout)})


def _distill_serve(*what: str, sets: tuple[str, ...], port: int, work: Path) -> list[str]:
    command = [sys.executable, "-m", "engine.cli", "serve", *what, "--runs", str(work / "runs")]
    for setting in (*sets, f"serve.port={port}"):
        command += ["--set", setting]
    return command


def check_out(commit: str, folder: Path) -> None:
    """A commit's files, without a trace in the repository. RuntimeError where it is not there."""
    command = ["git", "-C", str(REPOSITORY), "archive", commit]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"this checkout has no commit {commit}, which `old` is: {done.stderr.decode().strip()};"
            " `git fetch --unshallow` brings it"
        )
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


@contextmanager
def running(start: Start, work: Path) -> Generator[Server]:
    """The server for the length of the block, from its first answer on. RuntimeError, with its last
    words, if it does not come; afterwards nothing that it started is left."""
    variables = os.environ | VARIABLES | dict(start.variables)
    variables.pop("RAY_ADDRESS", None)
    log = work / f"{start.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            start.command, env=variables, cwd=start.folder, stdout=output, stderr=output
        )
    server = Server(start.name, f"http://{HOST}:{start.port}/v1", psutil.Process(process.pid))
    try:
        _wait_until_it_answers(server, process, work)
        yield server
    finally:
        _stop(server, process)


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes], work: Path) -> None:
    deadline = time.monotonic() + START_S
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(1)
    logs = sorted(work.rglob("*.log"), key=lambda path: path.stat().st_mtime)
    words = "\n".join(path.read_text(errors="replace")[-3000:] for path in logs[-2:])
    raise RuntimeError(f"{server.name} ended, or did not answer within {START_S} s:\n{words}")


def _stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    """In order, and by force what is left then."""
    started = []
    if process.poll() is None:
        started = server.process.children(recursive=True)
        process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        _, started = psutil.wait_procs(started, timeout=LEFT_S)
        for each in started:
            with suppress(psutil.NoSuchProcess):
                end(each)
    psutil.wait_procs(started, timeout=LEFT_S)
