"""Prompts -> Completions inside a replica, whoever answers: build the engine, ask it, commit the
answers (engine/run/parts.py).

An engine is any class with the members of `AnswerEngine`; a new kind of teacher is one such class
and one line in ENGINES. Which rows are asked, and where, is the driver's business (dispatch.py).
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.asking.admission import Budget, Room, cost_usd
from engine.asking.engine import (
    ENGINES,
    MAX_NUM_SEQS,
    AnswerEngine,
    Generation,
    PromptTooLong,
    Sampling,
    leave,
)
from engine.asking.requests import Request, room_for_answer, set_apart, with_system
from engine.errors import EngineError, StageError, Stopped
from engine.job.spec import GenerateSpec, SamplingSpec, TeacherSpec
from engine.rows import codec
from engine.rows.ids import derive_seed
from engine.rows.records import SCHEMA_VERSION, Completion, Messages, completion_schema
from engine.rows.tables import read_tables, to_table
from engine.run import parts
from engine.run.identity import versions
from engine.store.paths import Folder

_log = logging.getLogger(__name__)
STATUS_OF_FINISH = {
    "stop": "ok",
    "length": "truncated",
    "content_filter": "refused",
    "repetition": "loop",
    "abort": "error",
    "error": "error",
}
OPEN = {
    "id": "open",
    "rows": [],
    "count": 0,
}  # a shard without rows: the engine opens, and a refused key shows
FENCE_S = 10.0  # between looks at whether another driver has taken over


@dataclass(frozen=True)
class AnswerJob:
    """What a replica must know besides its shards; small and picklable."""

    teacher: TeacherSpec
    spec: GenerateSpec
    prompt_files: tuple[Folder, ...]
    folder: Folder
    epoch: int
    seed: int
    device: str
    spent_usd: float = 0.0
    batch: int | None = None  # sequences that the engine decodes at a time, once it is there

    @property
    def sampling(self) -> SamplingSpec:
        return self.spec.sampling_of(self.teacher)

    @property
    def requests_in_flight(self) -> int:
        """Requests that one replica has open; twice the batch of a local engine, so that it never
        drains."""
        if self.teacher.kind != "vllm":
            return self.teacher.concurrency
        return 2 * (
            self.batch
            or (self.teacher.max_num_seqs or MAX_NUM_SEQS[self.device]) * self.teacher.data_parallel
        )

    @property
    def rows_in_flight(self) -> int:
        """Rows that one replica holds, open or waiting for their turn."""
        return self.spec.rows_in_flight or max(self.requests_in_flight, 64)


def spent_usd(spec: GenerateSpec, folder: Folder) -> float:
    """What the committed answers of all teachers with prices have cost, tries that came to nothing
    at the most that they can; without prices nothing is read."""
    prices = {teacher.name: teacher.prices for teacher in spec.teachers if teacher.prices}
    return sum(
        record.lost_usd + cost_usd(prices.get(record.teacher), *record.tokens())
        for record in (parts.accepted_records(folder) if prices else ())
    )


def build_answerer(job: AnswerJob) -> Answerer:
    """Build the engine of `job.teacher` in this process and an Answerer around it."""
    module, name = ENGINES[job.teacher.kind].split(":")
    kind = getattr(importlib.import_module(module), name)
    engine = kind(
        job.teacher,
        job.spec.capture,
        device=job.device,
        timeout_s=job.spec.request_timeout_s,
        attempts=job.spec.max_attempts,
    )
    return Answerer(engine, job)


class Answerer:
    """Answers shards with one engine and commits the rows; the worker inside a replica."""

    def __init__(self, engine: AnswerEngine, job: AnswerJob) -> None:
        if batch := getattr(
            engine, "max_num_seqs", None
        ):  # what it really has, where the job left it to vLLM
            job = replace(job, batch=batch)
        self._engine, self._job = engine, job
        capture = job.spec.capture
        self._metadata = {
            "schema_version": SCHEMA_VERSION,
            "packed_bits": capture.packed_bits,
            "top_k": capture.top_k,
            # Packing wants the size of the vocabulary; an API does not tell it, so its rows stay
            # plain.
            "codec": capture.codec if "vocab_size" in engine.metadata else "plain",
            "teacher": job.teacher.name,
            "teacher_model": job.teacher.model,
            "teacher_revision": job.teacher.revision,
            "engine": job.teacher.kind,
            "versions": versions(),
        } | engine.metadata
        self._writer = parts.PartWriter(
            job.folder,
            job.epoch,
            job.teacher.name,
            self._finish,
            max_rows=job.spec.part_rows,
            max_seconds=job.spec.part_seconds,
            lost_usd=lambda items: sum(item.lost_usd for item in items),
            on_step=getattr(engine, "on_step", lambda *_: None),
        )
        self._schema = completion_schema(capture.dtype)
        # All at once they would fill the threads, and the first rows, ready, would wait for a
        # thread until the last are.
        self._preparing = asyncio.Semaphore(2)
        self._requests_open = asyncio.Semaphore(job.requests_in_flight)
        self._room = Room(job.rows_in_flight)
        # Of this run alone: another run of this process may find other prompts at the same path.
        self._prompts = functools.lru_cache(maxsize=2)(_prompt_table)
        # Read here and not taken from the job: a replica before this one may have spent some since.
        self._budget = Budget(
            job.teacher.prices, job.spec.max_cost_usd, spent_usd(job.spec, job.folder)
        )
        self._asking, self._ending = (
            0,
            None,
        )  # requests that the engine has; the error for which nothing more is asked
        self._counts: Counter[str] = Counter()
        self._background: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None

    def figures(self) -> dict[str, float]:
        """How far this replica is: rows and tokens so far, rows committed, by status too, rows open
        now, dollars spent."""
        more = self._engine.figures() if hasattr(self._engine, "figures") else {}
        cost = (
            {"cost_usd": self._budget.spent_usd - self._job.spent_usd}
            if self._job.teacher.prices
            else {}
        )
        statuses = {f"rows_{status}": rows for status, rows in self._writer.committed.items()}
        return {
            **self._counts,
            **statuses,
            "open": self._room.held,
            "committed": self._writer.committed.total(),
            **cost,
            **more,
        }

    async def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Answer `{"id", "file", "rows": [[from, to, sample], …]}` of a prompt file; when this
        returns, its rows are visible.

        Rows that were in an engine when it died run in small groups with nothing beside them, then
        alone.
        """
        self._background = self._background or asyncio.ensure_future(self._commit_in_time())
        self._opened = self._opened or asyncio.ensure_future(self._open())
        await self._opened
        started = time.time()
        if shard == OPEN:
            return {
                "shard": shard["id"],
                "rows": 0,
                "tokens": 0,
                "started": started,
                "finished": started,
                "over_budget": False,
            }
        async with (
            self._preparing
        ):  # until its last row is in: what waits outside is not tokenised yet
            requests, suspects = await asyncio.to_thread(self._requests, shard)
            size, entered = max(1, self._job.rows_in_flight // 4), asyncio.Semaphore(0)
            groups = [requests[start : start + size] for start in range(0, len(requests), size)]
            running = asyncio.gather(
                *(
                    self._answer_group(shard["id"], group, on_entry=entered.release)
                    for group in groups
                )
            )
            for _ in groups:
                await entered.acquire()
        told = list(itertools.chain.from_iterable(await running))
        for group in suspects:
            told += await self._answer_group(shard["id"], group, alone=True)
        taken_over = shard["count"] - len(requests) - sum(map(len, suspects))
        return {
            "shard": shard["id"],
            "rows": taken_over + len(told),
            "tokens": sum(told),
            "started": started,
            "finished": time.time(),
            "over_budget": self._budget.is_spent,
        }

    async def _open(self) -> None:
        """A local engine that does not even answer one token by the deadline is replaced; a
        server's client has its own."""
        deadline_s = (
            self._job.spec.request_timeout_s if self._engine.max_model_len is not None else None
        )
        try:
            await asyncio.wait_for(self._engine.open(), deadline_s)
        except TimeoutError:
            leave(f"the engine's first token did not come within {deadline_s:g} s")

    async def _answer_group(
        self,
        shard: str,
        requests: list[Request],
        alone: bool = False,
        on_entry: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Tokens of each request of a group that enters the engine together; without those that the
        budget refused."""
        async with self._room.hold(len(requests), alone=alone) as give_back:
            on_entry()
            await asyncio.to_thread(
                parts.begin_attempt,
                self._job.folder,
                self._job.epoch,
                shard,
                [request.key for request in requests],
            )
            answered = await asyncio.gather(
                *(self._answer(request, give_back) for request in requests)
            )
            if self._ending:
                while self._asking:  # what was paid for is kept
                    await asyncio.sleep(0.05)
                await self._writer.commit()
                raise self._ending
            if alone or self._room.held == 0:
                await self._writer.commit()
        await self._writer.visible()
        return [tokens for tokens in answered if tokens is not None]

    async def _commit_in_time(self) -> None:
        """Commit what is old, and, when nothing is open, what is left; a commit that fails ends the
        replica's work loudly.

        A driver that started later shuts this replica's records out, so what it asked from then on
        would be asked twice.
        """
        looked = time.monotonic()
        while True:
            await asyncio.sleep(min(0.5, self._job.spec.part_seconds / 4))
            if self._writer.is_old() or self._room.held == 0:
                await self._writer.commit()
            is_due = time.monotonic() - looked >= FENCE_S
            may_look = is_due or isinstance(
                self._job.folder, Path
            )  # a look into a store is paid for
            if may_look and await asyncio.to_thread(
                parts.is_asked_to_stop, self._job.folder, self._job.epoch
            ):
                self._ending = self._ending or Stopped(
                    "interrupted; what was answered is kept, and the same command resumes"
                )
            if is_due:
                looked, newest = (
                    time.monotonic(),
                    await asyncio.to_thread(parts.newest_epoch, self._job.folder),
                )
                if newest > self._job.epoch:
                    self._ending = StageError(
                        f"another driver has opened {self._job.folder} (epoch {newest}) and goes"
                        " on; this one asks nothing more"
                    )

    def _requests(self, shard: dict[str, Any]) -> tuple[list[Request], list[list[Request]]]:
        """The shard's requests, and apart from them groups of rows that were in an engine when it
        died."""
        job, name = self._job, self._job.teacher.name
        rows, samples = zip(
            *[(row, sample) for start, stop, sample in shard["rows"] for row in range(start, stop)],
            strict=True,
        )
        table = self._prompts(job.prompt_files[shard["file"]]).take(list(rows))
        ids, splits = table["prompt_id"].to_pylist(), table["split"].to_pylist()
        done, deaths = parts.take_over(job.folder, job.epoch, shard["id"], name, ids)
        conversations = [
            with_system(messages, job.teacher.system) for messages in table["messages"].to_pylist()
        ]
        requests = [
            Request(
                prompt_id,
                sample,
                split,
                derive_seed(job.seed, prompt_id, name, sample),
                prompt,
                deaths[prompt_id, sample] + 1,
                status=problem and "error",
                error=problem,
            )
            for prompt_id, sample, split, (prompt, problem) in zip(
                ids, samples, splits, self._encoded(conversations), strict=True
            )
            if (prompt_id, sample) not in done
        ]
        return set_apart(requests)

    def _encoded(self, conversations: list[Messages]) -> list[tuple[Any, str | None]]:
        """Each as the engine takes it, or why it takes it not: chat templates refuse roles and
        orders of roles."""
        try:
            return [(prompt, None) for prompt in self._engine.encode(conversations)]
        except Exception as error:  # noqa: BLE001 - one conversation's failure is a row status
            if len(conversations) > 1:
                return [
                    found
                    for conversation in conversations
                    for found in self._encoded([conversation])
                ]
            roles = ", ".join(message["role"] for message in conversations[0])
            return [
                (
                    [],
                    f"a conversation of {roles} cannot be asked: {type(error).__name__}: {error}"[
                        :500
                    ],
                )
            ]

    async def _answer(
        self, request: Request, give_back: Callable[[], Awaitable[None]]
    ) -> int | None:
        """Tokens of the answer, which is with the writer then; None where the budget refused the
        request."""
        finished = await self._ask(request) if request.status is None else request
        generation = finished.generation
        if finished.status is None and generation is None:
            await give_back()
            return None
        await self._writer.add(finished, 0 if generation is None else generation.size_bytes)
        self._counts["rows"] += 1
        tokens_in, tokens_out = self._known_tokens(finished)
        self._counts["tokens_in"] += tokens_in
        self._counts["tokens_out"] += tokens_out
        await give_back()
        return tokens_out

    async def _ask(self, request: Request) -> Request:
        """The request with its answer or final status, or unchanged where the budget refused it."""
        settings, room = (
            self._job.sampling,
            room_for_answer(self._engine.max_model_len, request.prompt),
        )
        if room < 1:
            problem = (
                f"{len(request.prompt)} prompt tokens in a context of {self._engine.max_model_len}"
            )
            return replace(request, status="too_long", error=problem)
        greedy = request.split == "validation" or settings.temperature == 0
        sampling = Sampling(
            temperature=0.0 if greedy else settings.temperature,
            top_p=1.0 if greedy else settings.top_p,
            max_tokens=min(settings.max_tokens, room),
            seed=request.seed if settings.reproducible and not greedy else None,
            stop_loops=settings.stop_loops,
            tries=1 if self._engine.max_model_len is not None else self._job.spec.max_attempts,
        )
        async with (
            self._requests_open
        ):  # the deadline is that of an open request, not of one that waits its turn
            if self._ending:
                return request
            reserved = await self._budget.reserve(
                request.prompt, self._job.teacher.most_tokens(sampling.max_tokens), sampling.tries
            )
            if reserved is None:
                return request
            if reserved.tries < sampling.tries:
                sampling = replace(sampling, tries=reserved.tries)
            self._asking += 1
            try:
                finished = await self._ask_engine(request, sampling, reserved.most_usd)
            except EngineError as error:
                self._ending, finished = error, request
            finally:
                self._asking -= 1
            await self._budget.settle(reserved, *self._known_tokens(finished), finished.lost_usd)
            return finished

    async def _ask_engine(self, request: Request, sampling: Sampling, most_usd: float) -> Request:
        """A try that came to nothing, and an answer without token counts, count as the most that
        they can cost."""
        deadline_s = (
            self._job.spec.request_timeout_s if self._engine.max_model_len is not None else None
        )
        try:
            async with asyncio.timeout(
                deadline_s
            ):  # wait_for would run each request in a task of its own
                generation = await self._engine.generate(request.prompt, sampling)
            untold = self._engine.max_model_len is None and None in (
                generation.prompt_tokens,
                generation.tokens,
            )
            return replace(
                request,
                generation=generation,
                lost_usd=self._lost_usd(generation, most_usd) + most_usd * untold,
            )
        except EngineError:
            raise
        except PromptTooLong as error:
            return replace(
                request,
                status="too_long",
                error=str(error)[:500],
                lost_usd=self._lost_usd(error, most_usd),
            )
        except TimeoutError:
            self._leave_if_stuck()
            return replace(
                request,
                status="error",
                error=f"no answer within {self._job.spec.request_timeout_s:g} s",
            )
        except Exception as error:  # noqa: BLE001 - one request's failure is a row status, counted and shown
            problem = f"{type(error).__name__}: {error}"[:500]
            return replace(
                request, status="error", error=problem, lost_usd=self._lost_usd(error, most_usd)
            )

    def _lost_usd(self, outcome: Generation | Exception, most_usd: float) -> float:
        """What the tries that came to nothing have cost, as far as the vendor said, else the most
        that they can."""
        return most_usd * getattr(outcome, "lost_tries", 0) + cost_usd(
            self._job.teacher.prices, *getattr(outcome, "lost_tokens", (0, 0))
        )

    def _leave_if_stuck(self) -> None:
        """A slow answer is one row's affair; an engine that took no step for half of a deadline is
        replaced.

        Half, because what was open when it stopped is older than its silence.
        """
        if (
            silent_s := getattr(self._engine, "silent_s", lambda: 0.0)()
        ) >= self._job.spec.request_timeout_s / 2:
            leave(f"the engine took no step for {silent_s:.0f} s")

    def _known_tokens(self, item: Request) -> tuple[int, int]:
        """Tokens in and out for sums; of an answer that lacks a count nothing is known, and its
        cost is in `lost_usd`."""
        counts = self._tokens(item)
        return (0, 0) if None in counts else counts

    def _tokens(self, item: Request) -> tuple[int | None, int | None]:
        """Tokens in and out; None where an API did not say."""
        generation, ids = (
            item.generation,
            item.prompt if self._engine.max_model_len is not None else (),
        )
        if generation is None:
            return len(ids), 0
        tokens_in = (
            len(ids)
            if self._engine.max_model_len is not None and generation.prompt_tokens is None
            else generation.prompt_tokens
        )
        return tokens_in, generation.tokens

    def _finish(self, pending: Sequence[Request]) -> pa.Table:
        """Completions, made in bulk; where that fails, one by one: an answer that cannot be stored
        is one row's `error`."""
        try:
            return to_table(self._completions(pending), self._schema, self._metadata)
        except Exception as error:
            if len(pending) > 1:
                return pa.concat_tables([self._finish([item]) for item in pending]).combine_chunks()
            (item,) = pending
            if item.status:  # it holds no answer: the fault is ours
                raise
            # its message may repeat the answer
            problem = f"the answer cannot be stored: {type(error).__name__}"
            _log.warning("prompt %d, sample %d: %s", *item.key, problem)
            return self._finish([replace(item, status="error", error=problem)])

    def _completions(self, pending: Sequence[Request]) -> list[Completion]:
        """Decode and pack in bulk."""
        answered = [
            item.generation
            for item in pending
            if item.status is None and item.generation is not None
        ]
        undecoded = [generation.token_ids for generation in answered if generation.text is None]
        texts = iter(self._engine.decode(undecoded) if undecoded else ())  # an API gives text
        signals: Iterator[bytes] = iter(())
        if self._metadata["codec"] == "packed" and self._metadata["top_k"]:
            rows = [
                (generation.topk_ids, generation.topk_logprobs, generation.tail)
                for generation in answered
            ]
            signals = iter(
                codec.pack_rows(
                    rows,
                    self._metadata["top_k"],
                    self._metadata["vocab_size"],
                    self._metadata["packed_bits"],
                )
            )
        return [self._completion(item, texts, signals) for item in pending]

    def _completion(
        self, item: Request, texts: Iterator[tuple[str, str | None]], signals: Iterator[bytes]
    ) -> Completion:
        generation = item.generation
        tokens_in, tokens_out = self._tokens(item)
        known = {
            "prompt_id": item.prompt_id,
            "teacher": self._job.teacher.name,
            "sample_index": item.sample_index,
            "split": item.split,
            "seed": item.seed,
            "attempt": item.attempt,
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "prompt_token_ids": np.asarray(
                item.prompt if self._engine.max_model_len is not None else [], np.int32
            ),
        }
        if generation is None or item.status:
            return Completion(**known, status=item.status or "error", error=item.error)
        if np.isnan(generation.topk_logprobs).any():
            raise FloatingPointError("log-probabilities that are no numbers")
        text, reasoning = (
            next(texts) if generation.text is None else (generation.text, generation.reasoning)
        )
        # An API's own word for an end that gave a text is an answer; an engine's is a fault.
        unknown = "ok" if generation.text is not None and text.strip() else "error"
        status = STATUS_OF_FINISH.get(generation.finish_reason, unknown)
        packed = next(signals, None)
        signal = (
            {"topk_packed": packed}
            if packed is not None
            else {
                "topk_ids": generation.topk_ids,
                "topk_logprobs": generation.topk_logprobs,
                "tail": generation.tail,
            }
        )
        return Completion(
            **known,
            **signal,
            status="empty" if status == "ok" and not text.strip() else status,
            finish_reason=generation.finish_reason,
            text=text,
            reasoning=reasoning,
            token_ids=generation.token_ids,
            token_logprobs=generation.token_logprobs,
            topk_tokens=generation.topk_tokens,
            error=f"unknown finish reason {generation.finish_reason}"
            if status == "error"
            else None,
        )


def _prompt_table(file: Folder) -> Any:
    (table,) = read_tables([file], columns=["prompt_id", "split", "messages"])
    return table
