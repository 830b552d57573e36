"""Prompts -> Completions inside a replica, whoever answers: build the engine, ask it, commit the
answers (engine/run/parts.py).

Which rows are asked, and where, is the driver's business (dispatch.py); how an answered request
becomes a row is completions.py.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.asking.admission import Budget, Room, cost_usd
from engine.asking.asker import Asker
from engine.asking.completions import CompletionTables
from engine.asking.engine import AnswerEngine, build_engine, end_process
from engine.asking.requests import Request, set_apart
from engine.asking.respondents import MAX_NUM_SEQS, Respondent
from engine.asking.shards import Figures, Receipt, Shard
from engine.errors import StageError, Stopped
from engine.job.spec import BATCHED_ROWS, AskingSpec, Model, PriceSpec
from engine.rows.ids import derive_seed
from engine.rows.tables import read_tables
from engine.rows.tools import Conversation, conversations_of
from engine.run import parts
from engine.run.batches import BatchLedger
from engine.run.part_writer import PartWriter
from engine.store.paths import Folder

FENCE_S = 10.0  # between looks at whether another driver has taken over
LEAST_IN_FLIGHT = 64  # rows; fewer leave a replica without work between two shards
BATCHED_SHARDS = 32  # that hold all rows in batches: a replica works on 64 at a time


@dataclass(frozen=True)
class AnswerJob:
    """What a replica must know besides its shards; small and picklable."""

    respondent: Respondent
    spec: AskingSpec
    prompt_files: tuple[Folder, ...]
    folder: Folder
    epoch: int
    seed: int
    device: str
    # Of all respondents: max_cost_usd bounds them together.
    prices: Mapping[str, PriceSpec] = field(default_factory=dict)
    spent_usd: float = 0.0
    batch: int | None = None  # sequences that the engine decodes at a time, once it is there

    @property
    def requests_in_flight(self) -> int:
        """Requests that one replica has open; twice the batch of a local engine, so that it never
        drains."""
        model = self.respondent.model
        if self.respondent.in_batches:
            return self.spec.rows_in_flight or BATCHED_ROWS
        if not isinstance(model, Model):
            return model.concurrency
        wanted = model.engine.max_num_seqs or MAX_NUM_SEQS[self.device]
        return 2 * (self.batch or wanted * model.engine.data_parallel)

    @property
    def rows_in_flight(self) -> int:
        """Rows that one replica holds, open or waiting for their turn."""
        if self.spec.rows_in_flight:
            return self.spec.rows_in_flight
        return max(self.requests_in_flight, LEAST_IN_FLIGHT)

    @property
    def shard_rows(self) -> int:
        """Most rows of a shard: in batches, so many that a replica's shards hold all in flight."""
        if self.respondent.in_batches:
            return max(self.spec.shard_rows, self.rows_in_flight // BATCHED_SHARDS)
        return self.spec.shard_rows


def spent_usd(prices: Mapping[str, PriceSpec], folder: Folder) -> float:
    """What the committed answers of all with prices have cost, tries that came to nothing at the
    most that they can; without prices nothing is read."""
    if not prices:
        return 0.0
    spent = 0.0
    for record in parts.accepted_records(folder):
        tokens_in, tokens_out = record.tokens()
        charged = prices.get(record.teacher)
        if charged and record.batch:
            charged = charged.of_batch()
        answers_usd = cost_usd(charged, tokens_in, tokens_out)
        spent += record.lost_usd + answers_usd
    return spent


def build_answerer(job: AnswerJob) -> Answerer:
    """Build the engine of the job's respondent in this process and an Answerer around it."""
    ledger = None
    if job.respondent.in_batches:
        ledger = BatchLedger(job.folder, job.epoch, job.respondent.name)
    return Answerer(build_engine(job.respondent.model, job.spec, job.device, ledger), job)


class Answerer:
    """Answers shards with one engine and commits the rows; the worker inside a replica.

    What is asked passes three gates, each for a reason of its own: `_preparing` (tokenising does
    not run ahead of asking), `_room` (rows held, and suspects alone), and the asker's (requests
    that the engine has, and the budget).
    """

    def __init__(self, engine: AnswerEngine, job: AnswerJob) -> None:
        if engine.max_num_seqs:  # what it really has, where the job left it to vLLM
            job = replace(job, batch=engine.max_num_seqs)
        self._engine = engine
        self._job = job
        self._tables = CompletionTables(engine, job.respondent, job.spec.capture)
        self._writer = PartWriter(
            job.folder,
            job.epoch,
            job.respondent.name,
            self._tables.table,
            max_rows=job.spec.part_rows,
            max_seconds=job.spec.part_seconds,
            batch=job.respondent.in_batches,
            lost_usd=lambda items: sum(item.lost_usd for item in items),
            on_step=engine.on_step,
        )
        # All at once they would fill the threads, and the first rows, ready, would wait for a
        # thread until the last are.
        self._preparing = asyncio.Semaphore(2)
        self._room = Room(job.rows_in_flight)
        # Of this run alone: another run of this process may find other prompts at the same path.
        self._prompts = functools.lru_cache(maxsize=2)(_prompt_table)
        # Read here and not taken from the job: a replica before this one may have spent some since.
        already_usd = spent_usd(job.prices, job.folder)
        self._budget = Budget(job.respondent.charged, job.spec.max_cost_usd, already_usd)
        self._asker = Asker(
            engine,
            job.respondent,
            job.spec,
            self._budget,
            tokens_of=self._tables.tokens_of,
            requests_in_flight=job.requests_in_flight,
        )
        self._name = uuid.uuid4().hex[:8]
        self._counts: Counter[str] = Counter()
        self._background: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None

    def figures(self) -> Figures:
        """How far this replica is; dollars are those of this run."""
        cost_usd = 0.0
        if self._job.respondent.prices:
            cost_usd = self._budget.spent_usd - self._job.spent_usd
        return Figures(
            rows=self._counts["rows"],
            committed=self._writer.committed.total(),
            open=self._room.held,
            tokens_in=self._counts["tokens_in"],
            tokens_out=self._counts["tokens_out"],
            cost_usd=cost_usd,
            statuses=dict(self._writer.committed),
            client=self._engine.figures(),
            notes=tuple(self._engine.notes()),
        )

    async def __call__(self, shard: Shard) -> Receipt:
        """Answer the shard's rows of a prompt file; when this returns, they are visible.

        Rows that were in an engine when it died run in small groups with nothing beside them, then
        alone.
        """
        self._background = self._background or asyncio.ensure_future(self._commit_in_time())
        self._opened = self._opened or asyncio.ensure_future(self._open())
        await self._opened
        started = time.time()
        if shard.only_opens:
            return Receipt(shard.id, 0, 0, started, started, replica=self._name)
        async with self._preparing:  # until its last row is in: what waits is not tokenised yet
            requests, suspects = await asyncio.to_thread(self._requests, shard)
            size = max(1, self._job.rows_in_flight // 4)
            entered = asyncio.Semaphore(0)
            answers = []
            for start in range(0, len(requests), size):
                group = requests[start : start + size]
                answer = self._answer_group(shard.id, group, on_entry=entered.release)
                answers.append(answer)
            running = asyncio.gather(*answers)
            for _ in answers:
                await entered.acquire()
        tokens = list(itertools.chain.from_iterable(await running))
        for group in suspects:
            tokens += await self._answer_group(shard.id, group, alone=True)
        # What a replica before this one had answered of the shard counts as answered.
        suspect_rows = sum(map(len, suspects))
        taken_over = shard.count - len(requests) - suspect_rows
        return Receipt(
            shard.id,
            taken_over + len(tokens),
            sum(tokens),
            started,
            time.time(),
            self._budget.is_spent,
            self._name,
        )

    async def _open(self) -> None:
        """A local engine that does not even answer one token by the deadline is replaced; a
        server's client has its own."""
        deadline_s = self._asker.deadline_s
        try:
            await asyncio.wait_for(self._engine.open(), deadline_s)
        except TimeoutError:
            end_process(f"the engine's first token did not come within {deadline_s:g} s")
        self._asker.expect(self._engine.under_way())

    async def _answer_group(
        self,
        shard: str,
        requests: list[Request],
        alone: bool = False,
        on_entry: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Tokens of each request of a group that enters the engine together; without those that the
        budget refused."""
        job = self._job
        keys = [request.key for request in requests]
        async with self._room.hold(len(requests), alone=alone) as give_back:
            on_entry()
            # Before the first of them is asked: if this process dies, the next one knows of whom.
            await asyncio.to_thread(parts.begin_attempt, job.folder, job.epoch, shard, keys)
            answers = (self._answer(request, give_back) for request in requests)
            answered = await asyncio.gather(*answers)
            if self._asker.ending:
                while self._asker.asking:  # what was paid for is kept
                    await asyncio.sleep(0.05)
                await self._writer.commit()
                raise self._asker.ending
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
        job = self._job
        looked = time.monotonic()
        while True:
            await asyncio.sleep(min(0.5, job.spec.part_seconds / 4))
            if self._writer.is_old() or self._room.held == 0:
                await self._writer.commit()
            is_due = time.monotonic() - looked >= FENCE_S
            may_look = is_due or isinstance(job.folder, Path)  # a look into a store is paid for
            if may_look and await asyncio.to_thread(parts.is_asked_to_stop, job.folder, job.epoch):
                said = "interrupted; what was answered is kept, and the same command resumes"
                self._asker.end(Stopped(said))
                await self._engine.let_go()
            if is_due:
                looked = time.monotonic()
                newest = await asyncio.to_thread(parts.newest_epoch, job.folder)
                if newest > job.epoch:
                    said = f"another driver has opened {job.folder} (epoch {newest}) and goes on;"
                    self._asker.end(StageError(f"{said} this one asks nothing more"))
                    await self._engine.let_go()

    def _requests(self, shard: Shard) -> tuple[list[Request], list[list[Request]]]:
        """The shard's requests, and apart from them groups of rows that were in an engine when it
        died."""
        job = self._job
        name = job.respondent.name
        rows, samples = shard.rows()
        file = job.prompt_files[shard.file]
        table = self._prompts(file).take(rows)
        ids = table["prompt_id"].to_pylist()
        splits = table["split"].to_pylist()
        done, deaths = parts.resume_shard(job.folder, job.epoch, shard.id, name, ids)
        conversations = []
        for conversation in conversations_of(table):
            conversations.append(conversation.with_system(job.respondent.system))
        encoded = self._encoded(conversations)
        requests = []
        for row, (prompt, problem) in enumerate(encoded):
            key = (ids[row], samples[row])
            if key not in done:
                request = Request(
                    *key,
                    split=splits[row],
                    seed=derive_seed(job.seed, ids[row], name, samples[row]),
                    prompt=prompt,
                    attempt=deaths[key] + 1,
                    status=problem and "error",
                    error=problem,
                    tools=conversations[row].tools,
                )
                requests.append(request)
        if job.respondent.in_batches:  # nothing that a vendor answers ends this process
            return requests, []
        return set_apart(requests)

    def _encoded(self, conversations: list[Conversation]) -> list[tuple[Any, str | None]]:
        """Each as the engine takes it, or why it takes it not: chat templates refuse roles and
        orders of roles."""
        try:
            return [(prompt, None) for prompt in self._engine.encode(conversations)]
        except Exception as error:  # noqa: BLE001 - one conversation's failure is a row status
            if len(conversations) > 1:
                singles = (self._encoded([conversation]) for conversation in conversations)
                return list(itertools.chain.from_iterable(singles))
            roles = ", ".join(message["role"] for message in conversations[0].messages)
            told = f"{type(error).__name__}: {error}"
            problem = f"a conversation of {roles} cannot be asked: {told}"
            return [([], problem[:500])]

    async def _answer(
        self, request: Request, give_back: Callable[[], Awaitable[None]]
    ) -> int | None:
        """Tokens of the answer, which is with the writer then; None where the budget refused the
        request."""
        finished = request
        if request.status is None:
            finished = await self._asker.ask(request)
        generation = finished.generation
        if finished.status is None and generation is None:
            await give_back()
            return None
        size_bytes = 0 if generation is None else generation.size_bytes
        await self._writer.add(finished, size_bytes)
        tokens_in, tokens_out = self._asker.known_tokens(finished)
        self._counts["rows"] += 1
        self._counts["tokens_in"] += tokens_in
        self._counts["tokens_out"] += tokens_out
        await give_back()
        return tokens_out


def _prompt_table(file: Folder) -> pa.Table:
    columns = ["prompt_id", "split", "messages", "tools"]
    (table,) = read_tables([file], columns, optional=["tools"])
    return table
