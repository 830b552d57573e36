"""The driver's side of asking: which rows are missing, cut into shards, streamed through replicas,
teacher by teacher.

What happens inside a replica is replica.py. Generate and evaluate both come here.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.asking.replica import OPEN, AnswerJob, build_answerer, spent_usd
from engine.asking.routing import Wanted, count_prompts, wanted_rows
from engine.errors import EngineError, StageError, Stopped
from engine.job.spec import API_KINDS, GenerateSpec
from engine.machines.layout import Layout
from engine.run import parts
from engine.run.context import Context
from engine.run.interrupts import asked_once
from engine.store.paths import Folder

Stream = Callable[..., Iterator[dict[str, Any]]]
SMALLEST_SHARD, FEWEST_SHARDS, MOST_SHARDS = 32, 16, 256  # the last two per replica


def missing_shards(
    wanted: Sequence[Wanted],
    teacher: str,
    answered: tuple[np.ndarray, np.ndarray],
    shard_rows: int,
    rows_in_flight: int,
    replicas: int,
) -> list[dict[str, Any]]:
    """Shards of the wanted rows that have no final answer yet, as ranges [from, to, sample] of rows
    of a prompt file.

    Many per replica, and several in what it holds, so that replicas finish together; no more of
    them than that in a large job, because Ray Data remembers about 10 KB of each in the driver.
    Never more than `shard_rows` rows.
    """
    missing = _without(wanted, answered)
    total = sum(len(rows) for rows, _ in missing)
    even = max(
        min(SMALLEST_SHARD, math.ceil(total / replicas)),
        math.ceil(total / (FEWEST_SHARDS * replicas)),
    )  # work for each replica
    size = min(
        shard_rows,
        max(1, min(even, rows_in_flight // 4), math.ceil(total / (MOST_SHARDS * replicas))),
    )
    return [
        {
            "id": f"{teacher}-{number:03d}-{start:07d}",
            "file": number,
            "count": len(rows[start : start + size]),
            "rows": _ranges(rows[start : start + size], samples[start : start + size]),
        }
        for number, (rows, samples) in enumerate(missing)
        for start in range(0, len(rows), size)
    ]


def _without(
    wanted: Sequence[Wanted], answered: tuple[np.ndarray, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row and sample, by file, of what is wanted and not answered; all files at once, because
    `isin` sorts what is answered."""
    if not wanted:
        return []
    rows, ids, samples = (
        np.concatenate([getattr(one, name) for one in wanted])
        for name in ("row", "prompt_id", "sample_index")
    )
    answered_ids, answered_samples = answered
    left = np.ones(len(rows), bool)
    for sample in np.unique(samples):
        mine = samples == sample
        left[mine] = ~np.isin(ids[mine], answered_ids[answered_samples == sample])
    edges = np.cumsum([len(one.row) for one in wanted])[:-1]
    by_file = (np.split(column, edges) for column in (rows, samples, left))
    return [(rows[mine], samples[mine]) for rows, samples, mine in zip(*by_file, strict=True)]


def _ranges(rows: np.ndarray, samples: np.ndarray) -> list[list[int]]:
    edges = np.flatnonzero((np.diff(rows) != 1) | (np.diff(samples) != 0)) + 1
    starts, stops = [0, *edges], [*edges, len(rows)]
    return [
        [int(rows[start]), int(rows[stop - 1]) + 1, int(samples[start])]
        for start, stop in zip(starts, stops, strict=True)
    ]


@dataclass
class Tally:
    """What one call of `answer_prompts` wanted and did; `answered`, tokens and seconds are of this
    run alone."""

    prompts: int = 0
    wanted: int = 0
    missing: int = 0
    answered: int = 0
    tokens: int = 0
    started: float = float("inf")
    finished: float = 0.0
    over_budget: bool = False

    def add(self, receipt: dict[str, Any]) -> None:
        self.answered += receipt["rows"]
        self.tokens += receipt["tokens"]
        self.started = min(self.started, receipt["started"])
        self.finished = max(self.finished, receipt["finished"])
        self.over_budget |= receipt["over_budget"]

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second between the first request and the last commit, engine
        start-up excluded."""
        return (
            round(self.tokens / (self.finished - self.started), 1)
            if self.finished > self.started
            else None
        )


def answer_prompts(
    spec: GenerateSpec,
    prompt_files: Sequence[Folder],
    folder: Folder,
    ctx: Context,
    *,
    stream: Stream,
) -> Tally:
    """Let the teachers of `spec` answer what they have not answered yet, into parts under `folder`;
    they take turns.

    StageError if a replica cannot start or its answers do not come back; what was committed stays,
    and so does what the other teachers answer.
    """
    epoch = parts.open_epoch(folder)
    rows = parts.final_rows(parts.accepted_records(folder))
    wanted = wanted_rows(spec, prompt_files, ctx.seed)
    jobs = {
        teacher.name: AnswerJob(
            teacher, spec, tuple(prompt_files), folder, epoch, ctx.seed, ctx.device
        )
        for teacher in spec.teachers
    }
    plans = {
        name: missing_shards(
            wanted[name],
            name,
            rows.answered(name),
            spec.shard_rows,
            job.rows_in_flight,
            job.teacher.replica_range[1],
        )
        for name, job in jobs.items()
    }
    tally = Tally(
        prompts=count_prompts(wanted),
        wanted=sum(len(one.row) for files in wanted.values() for one in files),
        missing=sum(shard["count"] for shards in plans.values() for shard in shards),
    )
    del rows, wanted  # a million rows: what follows does not need them
    _require_all({name: job for name, job in jobs.items() if plans[name]}, ctx, stream)
    failures: list[EngineError] = []
    for name, job in jobs.items():
        if plans[name]:
            try:
                _let_answer(
                    replace(job, spent_usd=spent_usd(spec, folder)), plans[name], tally, ctx, stream
                )
            except Stopped:
                raise
            except EngineError as error:  # the other teachers' work is theirs
                failures.append(error)
    if failures:
        more = "".join(f"\nand {error}" for error in failures[1:])
        raise type(failures[0])(f"{failures[0]}{more}") from failures[0]
    if tally.over_budget:
        raise StageError(
            f"generate.max_cost_usd={spec.max_cost_usd:g} is used up:"
            f" {tally.missing - tally.answered} of {tally.wanted} rows are not"
            " asked; raise it, and the same command goes on"
        )
    if tally.answered != tally.missing:
        raise StageError(
            f"{tally.answered} of {tally.missing} rows came back; run the same command again to"
            " finish the rest"
        )
    return tally


def _require_all(jobs: Mapping[str, AnswerJob], ctx: Context, stream: Stream) -> None:
    """Before the first of several teachers is asked: the others' devices are there, and their keys
    good. A single one finds out itself."""
    for job in jobs.values() if len(jobs) > 1 else ():
        shards = [OPEN] if job.teacher.kind in API_KINDS else []
        list(
            stream(
                shards,
                functools.partial(build_answerer, job),
                on_figures=lambda _: None,
                **_stream_options(job, ctx),
            )
        )


def _stream_options(job: AnswerJob, ctx: Context) -> dict[str, Any]:
    return {
        "what": f"{ctx.progress.name}: model '{job.teacher.name}' ({job.teacher.model})",
        "silent_s": job.spec.request_timeout_s,
        "start_s": job.spec.start_timeout_s,
        "tags": {"job": ctx.job, "teacher": job.teacher.name},
        "layout": Layout.of(job.teacher, job.device),
    }


def _let_answer(
    job: AnswerJob, shards: list[dict[str, Any]], tally: Tally, ctx: Context, stream: Stream
) -> None:
    """One teacher's turn."""
    teacher = job.teacher
    before, first = tally.wanted - tally.missing + tally.answered, time.time()
    note = f"starting '{teacher.name}' ({teacher.kind}: {teacher.replica_range[0]} replicas)"
    ctx.progress.update(done=before, total=tally.wanted, note=note)

    def show(figures: Mapping[str, float]) -> None:
        seconds, asked = time.time() - first, figures.get("rows", 0)
        if not asked:
            return
        bad = [name for name in figures if name.startswith("rows_") and name != "rows_ok"]
        statuses = {name.removeprefix("rows_"): int(figures[name]) for name in bad}
        cost = {}
        if teacher.prices:
            spent = job.spent_usd + figures.get("cost_usd", 0.0)
            to_come = figures.get("cost_usd", 0.0) / asked * sum(shard["count"] for shard in shards)
            cost = {"usd": round(spent, 4), "usd at end": round(job.spent_usd + to_come, 4)}
        ctx.progress.update(
            done=before + int(asked),
            open=int(figures.get("open", 0)),
            **statuses,
            **cost,
            **{
                "tok/s": figures.get("tokens_out", 0) / seconds,
                "tok/s in": figures.get("tokens_in", 0) / seconds,
            },
        )

    answered = 0
    receipts = stream(
        shards, functools.partial(build_answerer, job), on_figures=show, **_stream_options(job, ctx)
    )
    # Closed before an error goes on: its threads still call Ray, which must not be gone by then.
    with asked_once(functools.partial(_stop_asking, job, ctx)), contextlib.closing(receipts):
        for receipt in receipts:
            parts.end_attempts(job.folder, job.epoch, receipt["shard"])
            tally.add(receipt)
            answered += receipt["rows"]
    ctx.progress.update(done=before + answered)


def _stop_asking(job: AnswerJob, ctx: Context) -> None:
    """Tell the replicas to finish what is open and to commit it."""
    if not parts.is_asking(
        job.folder, job.epoch
    ):  # engines still start: nothing is open that could be kept
        raise KeyboardInterrupt
    parts.ask_to_stop(job.folder, job.epoch)
    ctx.progress.say(
        f"{ctx.progress.name}: stopping: nothing more is asked, and what is open is waited for, at"
        " most"
        f" {job.spec.request_timeout_s:g} s; once more ends at once"
    )
