"""lm-eval, run in a process of its own and asked by lines of JSON (lm_eval_worker.py is the other
side): load these task files; score this model by them.

It is offline: no hub is asked for a task, a data set, a metric or a tokenizer. An API key goes over
the pipe or stays in the environment, never into an argument or a file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from engine.errors import StageError
from engine.job.spec import AnthropicTeacherSpec, OpenAITeacherSpec

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
WORKER = (sys.executable, "-m", "engine.backends.lm_eval_worker")
LAST_WORDS = 600  # characters of the log, where the process ended by itself
_ROOT = Path(__file__).parents[2]
OnProgress = Callable[[int, int], None]  # done, total of the requests of one kind


@dataclass(frozen=True)
class Served:
    """A model behind an endpoint of ours (`url` ends in /v1), and where its tokenizer lies."""

    name: str
    url: str
    key: str | None
    tokenizer: str
    revision: str | None
    trust_remote_code: bool
    max_tokens: int
    seed: int

    def as_message(self) -> dict[str, Any]:
        """For the worker."""
        return {"kind": "served"} | asdict(self)


@dataclass(frozen=True)
class Api:
    """A teacher behind somebody's API; `limit_usd` is what asking it may cost."""

    teacher: OpenAITeacherSpec | AnthropicTeacherSpec
    limit_usd: float | None
    max_tokens: int
    seed: int

    def as_message(self) -> dict[str, Any]:
        """For the worker."""
        return {
            "kind": "api",
            "teacher": self.teacher.model_dump(mode="json"),
            "limit_usd": self.limit_usd,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }


class Harness:
    """The process, with the task files loaded: `version` of lm-eval, and of each task and group its
    kind, rows and shots."""

    def __init__(
        self, process: subprocess.Popen[str], log: Path, work: Path, files: Sequence[str]
    ) -> None:
        self._process = process
        self._log = log
        self._work = work
        loaded = self._ask(None, do="load", files=list(files))
        self.version: str = loaded["version"]
        self.tasks: dict[str, dict[str, Any]] = loaded["tasks"]

    def score(
        self,
        model: Served | Api,
        samples: Path,
        bootstrap_samples: int,
        on_progress: OnProgress,
    ) -> dict[str, Any]:
        """Its scores by all tasks, as do_score of the worker says; samples go to the JSONL file
        `samples`. Answers that were there before a kill are not asked for again."""
        work = self._work / samples.stem
        work.mkdir(parents=True, exist_ok=True)
        return self._ask(
            on_progress,
            do="score",
            model=model.as_message(),
            samples=str(samples),
            work=str(work),
            bootstrap_samples=bootstrap_samples,
        )

    def _ask(self, on_progress: OnProgress | None, **request: Any) -> dict[str, Any]:
        into = cast("IO[str]", self._process.stdin)
        answers = cast("IO[str]", self._process.stdout)
        try:
            into.write(json.dumps(request) + "\n")
            into.flush()
        except OSError:
            raise self._ended() from None
        for line in answers:
            said = json.loads(line)
            if "error" in said:
                raise StageError(f"evaluate.lm_eval: {said['error']}; its log is {self._log}")
            if "done" not in said:
                return said
            if on_progress is not None:
                on_progress(said["done"], said["total"])
        raise self._ended()

    def _ended(self) -> StageError:
        words = self._log.read_text(errors="replace")[-LAST_WORDS:]
        status = self._process.wait()
        return StageError(
            f"evaluate.lm_eval: lm-eval's process ended (exit status {status}); its log"
            f" {self._log} ends: {words}"
        )


@contextmanager
def opened(files: Sequence[str], work: Path, command: Sequence[str] = WORKER) -> Generator[Harness]:
    """lm-eval with these task files loaded; it ends with the block. StageError where it cannot read
    one. `work` keeps its log, and answers until a model has all."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log.txt"
    paths = [str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    cache = work / "datasets"
    environment = os.environ | OFFLINE
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"HF_DATASETS_CACHE": str(cache)}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the engine's to answer
        )
    try:
        yield Harness(process, log, work, files)
    finally:
        if process.returncode is None:  # not waited for, so the number is still its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(cache, ignore_errors=True)  # Arrow copies of the data
