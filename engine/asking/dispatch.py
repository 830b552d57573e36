"""The driver's side of asking: which rows are missing, cut into shards, streamed through replicas,
one respondent after the other.

What happens inside a replica is replica.py. Generate and evaluate both come here.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.asking.replica import AnswerJob, build_answerer, spent_usd
from engine.asking.respondents import Respondent
from engine.asking.routing import Wanted, count_prompts
from engine.asking.shards import OPENING, Figures, Range, Receipt, Shard
from engine.errors import EngineError, StageError, Stopped
from engine.job.spec import AskingSpec
from engine.run import batches, parts
from engine.run.context import Context
from engine.run.interrupts import asked_once
from engine.store.paths import Folder

Stream = Callable[..., Generator[Receipt, None, None]]
SMALLEST_SHARD = 32
FEWEST_SHARDS = 16  # per replica, so that replicas finish together
MOST_SHARDS = 256  # per replica: Ray Data remembers about 10 KB of each in the driver


def missing_shards(
    wanted: Sequence[Wanted],
    respondent: str,
    answered: tuple[np.ndarray, np.ndarray],
    shard_rows: int,
    rows_in_flight: int,
    replicas: int,
) -> list[Shard]:
    """Shards of the wanted rows that have no final answer yet.

    Many per replica, and several in what it holds; no more of them than the driver can remember in
    a large job. Never more than `shard_rows` rows.
    """
    missing = _without(wanted, answered)
    total = sum(len(rows) for rows, _ in missing)
    for_each_replica = math.ceil(total / replicas)
    for_an_end_together = math.ceil(total / (FEWEST_SHARDS * replicas))
    for_the_driver = math.ceil(total / (MOST_SHARDS * replicas))
    smallest = min(SMALLEST_SHARD, for_each_replica)
    even = max(smallest, for_an_end_together)
    several_held = min(even, rows_in_flight // 4)
    size = min(shard_rows, max(1, several_held, for_the_driver))
    shards = []
    for number, (rows, samples) in enumerate(missing):
        for start in range(0, len(rows), size):
            mine = slice(start, start + size)
            count = len(rows[mine])
            name = f"{respondent}-{number:03d}-{start:07d}"
            ranges = _ranges(rows[mine], samples[mine])
            shard = Shard(name, number, count, ranges)
            shards.append(shard)
    return shards


def _without(
    wanted: Sequence[Wanted], answered: tuple[np.ndarray, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row and sample, by file, of what is wanted and not answered; all files at once, because
    `isin` sorts what is answered."""
    if not wanted:
        return []
    rows = np.concatenate([one.row for one in wanted])
    ids = np.concatenate([one.prompt_id for one in wanted])
    samples = np.concatenate([one.sample_index for one in wanted])
    answered_ids, answered_samples = answered
    left = np.ones(len(rows), bool)
    for sample in np.unique(samples):
        mine = samples == sample
        already = answered_ids[answered_samples == sample]
        left[mine] = ~np.isin(ids[mine], already)
    ends = np.cumsum([len(one.row) for one in wanted])
    missing = []
    start = 0
    for end in ends:
        of_file = slice(start, end)
        is_missing = left[of_file]
        file_rows = rows[of_file][is_missing]
        file_samples = samples[of_file][is_missing]
        missing.append((file_rows, file_samples))
        start = end
    return missing


def _ranges(rows: np.ndarray, samples: np.ndarray) -> tuple[Range, ...]:
    """Runs of following rows that have the same sample."""
    is_gap = np.diff(rows) != 1
    is_other_sample = np.diff(samples) != 0
    edges = np.flatnonzero(is_gap | is_other_sample) + 1
    starts = [0, *edges]
    stops = [*edges, len(rows)]
    ranges = []
    for start, stop in zip(starts, stops, strict=True):
        first_row = int(rows[start])
        end_row = int(rows[stop - 1]) + 1
        sample = int(samples[start])
        ranges.append((first_row, end_row, sample))
    return tuple(ranges)


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
    at_work: dict[str, tuple[float, float]] = field(default_factory=dict)  # from, to, by replica

    def add(self, receipt: Receipt) -> None:
        began, ended = self.at_work.get(receipt.replica, (receipt.started, receipt.finished))
        span = (min(began, receipt.started), max(ended, receipt.finished))
        self.at_work[receipt.replica] = span
        self.answered += receipt.rows
        self.tokens += receipt.tokens
        self.started = min(self.started, receipt.started)
        self.finished = max(self.finished, receipt.finished)
        self.over_budget |= receipt.over_budget

    @property
    def replicas(self) -> float | None:
        """Replicas at work on average between the first request and the last commit."""
        seconds = self.finished - self.started
        if seconds <= 0:
            return None
        at_work = sum(ended - began for began, ended in self.at_work.values())
        return round(at_work / seconds, 2)

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second between the first request and the last commit, engine
        start-up excluded."""
        seconds = self.finished - self.started
        if seconds <= 0:
            return None
        return round(self.tokens / seconds, 1)


def answer_prompts(
    spec: AskingSpec,
    respondents: Sequence[Respondent],
    wanted: Mapping[str, Sequence[Wanted]],
    prompt_files: Sequence[Folder],
    folder: Folder,
    ctx: Context,
    *,
    stream: Stream,
    block: str = "generate",
) -> Tally:
    """Let each respondent answer what is wanted of it (by its name, a Wanted per prompt file) and
    not answered yet, into parts under `folder`; they take turns. `block` is where `spec` stands in
    the job.

    StageError if a replica cannot start or its answers do not come back; what was committed stays,
    and so does what the others answer.
    """
    epoch = parts.open_epoch(folder)
    rows = parts.final_rows(parts.accepted_records(folder))
    prices = {one.name: one.prices for one in respondents if one.prices}
    files = tuple(prompt_files)
    jobs: dict[str, AnswerJob] = {}
    shards_of: dict[str, list[Shard]] = {}
    for one in respondents:
        job = AnswerJob(
            respondent=one,
            spec=spec,
            prompt_files=files,
            folder=folder,
            epoch=epoch,
            seed=ctx.seed,
            device=ctx.device,
            prices=prices,
        )
        _, most_replicas = one.replica_range
        shards = missing_shards(
            wanted[one.name],
            one.name,
            rows.answered(one.name),
            shard_rows=job.shard_rows,
            rows_in_flight=job.rows_in_flight,
            replicas=most_replicas,
        )
        if shards:
            if not one.in_batches:
                _refuse_batches(folder, one.name, rows)
            jobs[one.name] = job
            shards_of[one.name] = shards
    tally = Tally(
        prompts=count_prompts(wanted),
        wanted=sum(len(one.row) for one in _all_of(wanted)),
        missing=sum(shard.count for shard in _all_of(shards_of)),
    )
    del rows  # a million rows: what follows does not need them
    _require_all(list(jobs.values()), ctx, stream)
    failures: list[EngineError] = []
    for name, job in jobs.items():
        try:
            already_usd = spent_usd(prices, folder)
            job = replace(job, spent_usd=already_usd)
            _let_answer(job, shards_of[name], tally, ctx, stream)
        except Stopped:
            raise
        except EngineError as error:  # the others' work is theirs
            failures.append(error)
    if failures:
        first = failures[0]
        told = "\nand ".join(map(str, failures))
        raise type(first)(told) from first
    _require_answers(tally, spec, block)
    return tally


def _refuse_batches(folder: Folder, teacher: str, rows: parts.Rows) -> None:
    """Answers in a vendor's batches, which asking live would pay for again."""
    left = batches.uncollected(folder, teacher, rows)
    if left:
        raise StageError(
            f"teacher '{teacher}' has answers in {batches.told(left)}, which are paid for and not"
            " here yet; run it with `batch: true` until they are, or delete"
            f" {folder / 'batches'} to pay again"
        )


def _all_of(by_name: Mapping[str, Sequence[Any]]) -> Iterator[Any]:
    for items in by_name.values():
        yield from items


def _require_answers(tally: Tally, spec: AskingSpec, block: str) -> None:
    if tally.over_budget:
        not_asked = tally.missing - tally.answered
        raise StageError(
            f"{block}.max_cost_usd={spec.max_cost_usd:g} is used up:"
            f" {not_asked} of {tally.wanted} rows are not asked; raise it, and"
            " the same command goes on"
        )
    if tally.answered != tally.missing:
        raise StageError(
            f"{tally.answered} of {tally.missing} rows came back; run the same command again to"
            " finish the rest"
        )


def _require_all(jobs: Sequence[AnswerJob], ctx: Context, stream: Stream) -> None:
    """Before the first of several is asked: the others' devices are there, and their keys good. A
    single one finds out itself."""
    if len(jobs) < 2:
        return
    for job in jobs:
        shards = [OPENING] if job.respondent.is_remote else []
        build = functools.partial(build_answerer, job)
        options = _stream_options(job, ctx)
        opening = stream(shards, build, on_figures=lambda _: None, **options)
        list(opening)


def _stream_options(job: AnswerJob, ctx: Context) -> dict[str, Any]:
    one = job.respondent
    return {
        "what": f"{ctx.progress.name}: model '{one.name}' ({one.model.model})",
        "silent_s": job.spec.request_timeout_s,
        "start_s": job.spec.start_timeout_s,
        "tags": {"job": ctx.job, "teacher": one.name},
        "layout": one.layout(job.device),
    }


def _let_answer(
    job: AnswerJob, shards: list[Shard], tally: Tally, ctx: Context, stream: Stream
) -> None:
    """One respondent's turn."""
    one = job.respondent
    before = tally.wanted - tally.missing + tally.answered
    replicas, _ = one.replica_range
    note = f"starting '{one.name}' ({one.model.kind}: {replicas} replicas)"
    ctx.progress.update(done=before, total=tally.wanted, note=note)
    asked_for = sum(shard.count for shard in shards)
    show = _Live(job, before, asked_for, ctx)
    answered = 0
    build = functools.partial(build_answerer, job)
    options = _stream_options(job, ctx)
    receipts = stream(shards, build, on_figures=show, **options)
    stop = functools.partial(_stop_asking, job, ctx)
    # Closed before an error goes on: its threads still call Ray, which must not be gone by then.
    with asked_once(stop), contextlib.closing(receipts):
        for receipt in receipts:
            parts.end_attempts(job.folder, job.epoch, receipt.shard)
            tally.add(receipt)
            answered += receipt.rows
    ctx.progress.update(done=before + answered)


class _Live:
    """Shows the figures of one respondent's replicas: rows, statuses, speed, and what they cost."""

    def __init__(self, job: AnswerJob, before: int, asked_for: int, ctx: Context) -> None:
        self._job = job
        self._before = before
        self._asked_for = asked_for
        self._ctx = ctx
        self._first = time.time()

    def __call__(self, figures: Figures) -> None:
        if not figures.rows and not figures.notes:
            return
        seconds = time.time() - self._first
        shown: dict[str, Any] = dict(figures.statuses)
        if self._job.respondent.in_batches:
            shown["batches"] = "; ".join(figures.notes) or "none"
        shown.pop("ok", None)
        shown |= self._cost(figures)
        shown["tok/s"] = figures.tokens_out / seconds
        shown["tok/s in"] = figures.tokens_in / seconds
        done = self._before + figures.rows
        self._ctx.progress.update(done=done, open=figures.open, **shown)

    def _cost(self, figures: Figures) -> dict[str, float]:
        if not self._job.respondent.prices or not figures.rows:
            return {}
        before_usd = self._job.spent_usd
        row_usd = figures.cost_usd / figures.rows
        spent = before_usd + figures.cost_usd
        at_end = before_usd + row_usd * self._asked_for
        return {
            "usd": round(spent, 4),
            "usd at end": round(at_end, 4),
        }


def _stop_asking(job: AnswerJob, ctx: Context) -> None:
    """Tell the replicas to finish what is open and to commit it."""
    if not parts.is_asking(job.folder, job.epoch):
        # Engines still start: nothing is open that could be kept.
        raise KeyboardInterrupt
    parts.ask_to_stop(job.folder, job.epoch)
    waits = f"what is open is waited for, at most {job.spec.request_timeout_s:g} s"
    if job.respondent.in_batches:
        left = batches.told(batches.under_way(job.folder))
        waits = (
            f"what came is kept. Under way at the vendor, and not cancelled: {left}. The same"
            " command goes on with them; `distill batches RUN --cancel` cancels them"
        )
    ctx.progress.say(
        f"{ctx.progress.name}: stopping: nothing more is asked, and {waits}; once more ends at once"
    )
