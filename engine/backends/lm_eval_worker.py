"""lm-eval in a process of its own: `python -m engine.backends.lm_eval_worker`, asked by lines of
JSON on stdin, answering on stdout; what libraries print goes to stderr.

Its imports take seconds, it seeds and configures what it finds, and task files may bring Python:
nothing of that belongs into the driver. It is asked to load task files once, then to score models
one after the other, and ends with its stdin. lm_eval_harness.py is the other side.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from engine.backends.lm_eval_tasks import read_suite
from engine.errors import EngineError
from engine.job.spec import TeacherSpec
from engine.store.files import write_atomic

# The harness' own, so that few-shot examples are those of everybody else's figures.
FEWSHOT_SEED = 1234
TOLD_S = 0.5  # between two words of progress


class Session:
    """What is told on `channel`, and the task files that were asked for."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._files: list[str] = []
        self._told = 0.0

    def serve(self, lines: Iterable[str]) -> None:
        """Answer each line with one, after lines of progress; an error is an answer too."""
        for line in lines:
            asked = json.loads(line)
            try:
                with _away_and_back():
                    answer = getattr(self, f"do_{asked.pop('do')}")(**asked)
            except EngineError as error:
                answer = {"error": str(error)}
            except Exception as error:  # noqa: BLE001 - whatever a task file makes the harness do
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {_first_line(error)}"}
            self._tell(answer)

    def _tell(self, said: dict[str, Any]) -> None:
        self._channel.write(json.dumps(said) + "\n")
        self._channel.flush()

    def on_answer(self, done: int, total: int) -> None:
        """Progress, now and then."""
        now = time.monotonic()
        if done == total or now - self._told >= TOLD_S:
            self._told = now
            self._tell({"done": done, "total": total})

    def do_load(self, files: list[str]) -> dict[str, Any]:
        """Whether the harness can read all files and their data: its version, and each task."""
        self._files = files
        tasks, groups = _loaded(files)
        described = {}
        for name, task in tasks.items():
            described[name] = {
                "kind": task.OUTPUT_TYPE,
                "n": len(task.eval_docs),
                "shots": task.config.num_fewshot or 0,
                "version": _text(task.VERSION),
            }
        for name, group in groups.items():
            described[name] = {"kind": "group", "version": _text(group.version)}
        return {"version": importlib.metadata.version("lm_eval"), "tasks": described}

    def do_score(
        self, model: dict[str, Any], samples: str, work: str, bootstrap_samples: int
    ) -> dict[str, Any]:
        """Scores of one model; every sample goes to the JSONL file `samples`, and answers are kept
        in the folder `work` until all are there."""
        from lm_eval.api.model import CachingLM  # ty: ignore[import-not-found]  # an extra
        from lm_eval.evaluator import evaluate  # ty: ignore[import-not-found]

        random.seed(0)
        np.random.seed(FEWSHOT_SEED)
        tasks, groups = _loaded(self._files)
        unknown = {}
        if model["kind"] != "served":
            unknown = _without_logprobs(tasks, groups)
            tasks = {name: task for name, task in tasks.items() if name not in unknown}
            groups = {name: group for name, group in groups.items() if name not in unknown}
        asked, is_chat = _model(model, Path(work), self.on_answer)
        found: dict[str, Any] = {"results": {}, "higher_is_better": {}, "samples": {}}
        if tasks:
            found = evaluate(
                lm=CachingLM(asked, str(Path(work) / "answers.db")),
                task_dict={"tasks": tasks, "groups": groups},
                bootstrap_iters=bootstrap_samples,
                apply_chat_template=is_chat,
                fewshot_as_multiturn=is_chat,
            )
        count = _write_samples(Path(samples), found["samples"])
        return {
            "scores": list(_scores(found)),
            "unknown": unknown,
            "samples": count,
            "chat_template": is_chat,
            "shortened": getattr(asked, "shortened", 0),
            "refused": getattr(asked, "refused", 0),
            "cost_usd": getattr(asked, "spent_usd", None),
        }


@contextlib.contextmanager
def _away_and_back() -> Generator[None]:
    """Loading works in the folder of each task file."""
    here = os.getcwd()
    try:
        yield
    finally:
        os.chdir(here)


def _loaded(files: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tasks and groups by name; their data are read. Relative paths start in a file's folder."""
    from lm_eval.tasks import TaskManager  # ty: ignore[import-not-found]  # an extra

    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for file in files:
        folder = Path(file).parent
        os.chdir(folder)
        group = read_suite(Path(file)).group
        # Members, and the group itself, by name: the harness takes no path of a group.
        beside = None if group is None else str(folder)
        try:
            manager = TaskManager(include_path=beside, include_defaults=False)
            loaded = manager.load([group or file])
        except Exception as error:
            raise EngineError(
                f"{file}: lm-eval cannot read it: {type(error).__name__}: {_first_line(error)}"
            ) from error
        tasks |= loaded["tasks"]
        groups |= loaded.get("groups", {})
    for name, task in tasks.items():
        if not len(task.eval_docs):
            raise EngineError(f"task {name} has no rows to ask; give it data, or leave it out")
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks, groups


def _without_logprobs(tasks: dict[str, Any], groups: dict[str, Any]) -> dict[str, str]:
    """Why tasks, and the groups that they are in, have no score of an API."""
    from engine.backends.lm_eval_api import NO_LOGPROBS

    unknown = {}
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            unknown[name] = f"{task.OUTPUT_TYPE}: {NO_LOGPROBS}"
    for name, group in groups.items():
        left_out = [task.task_name for task in group.get_all_tasks() if task.task_name in unknown]
        if left_out:
            unknown[name] = f"of its tasks {', '.join(left_out)} is not known"
    return unknown


def _model(model: dict[str, Any], work: Path, on_answer: Any) -> tuple[Any, bool]:
    """What the harness asks, and whether it asks in conversations."""
    shared = {
        "max_tokens": model["max_tokens"],
        "seed": model["seed"],
        "on_answer": on_answer,
    }
    if model["kind"] != "served":
        from engine.backends.lm_eval_api import ApiModel

        teacher: Any = TypeAdapter(TeacherSpec).validate_python(model["teacher"])
        spent = work / "spent.txt"
        return ApiModel(teacher, limit_usd=model["limit_usd"], spent=spent, **shared), True
    from transformers import AutoTokenizer

    from engine.backends.lm_eval_client import Client
    from engine.backends.lm_eval_served import ServedModel

    tokenizer: Any = AutoTokenizer.from_pretrained(
        model["tokenizer"],
        revision=model["revision"],
        trust_remote_code=model["trust_remote_code"],
    )
    client = Client(model["url"], model["name"], model["key"])
    is_chat = bool(tokenizer.chat_template)
    return ServedModel(client, tokenizer, is_chat=is_chat, **shared), is_chat


def _scores(found: dict[str, Any]) -> Any:
    """Every figure with its standard error; the harness writes both beside each other, as
    `acc,none` and `acc_stderr,none`."""
    for task, figures in found["results"].items():
        better = found["higher_is_better"].get(task, {})
        for key, value in figures.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            yield {
                "task": task,
                "metric": metric,
                "filter": name,
                "value": _finite(value),
                "stderr": _finite(figures.get(f"{metric}_stderr,{name}")),
                "higher_is_better": better.get(metric),
            }


def _write_samples(path: Path, samples: dict[str, list[dict[str, Any]]]) -> int:
    """One line per document, task and filter."""
    lines = []
    for task, rows in samples.items():
        for row in rows:
            lines.append(json.dumps({"task": task} | row, ensure_ascii=False, default=str))
    text = "".join(line + "\n" for line in lines)
    write_atomic(path, text)
    return len(lines)


def _finite(value: Any) -> float | None:
    """None for what the harness cannot tell (N/A), and for what is no number."""
    if isinstance(value, int | float | np.number) and math.isfinite(value):
        return float(value)
    return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else ""


def main() -> None:
    """Talk on what was stdout; what is printed from here on goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Session(channel).serve(sys.stdin)


if __name__ == "__main__":
    main()
