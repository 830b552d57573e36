"""Teachers behind a vendor's batch API: rows gather into batches, and each waits for its result, a
day if need be.

A batch is noted on disk before the vendor is asked for it (run/batches.py). So whoever comes after
a death finds it, under way or ended, by its id or in the vendor's list, and its rows wait for it
again: nothing is paid twice. What the vendors are asked is in api_batch_vendors.py, what requests
and replies hold in api_teacher.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from engine.asking.engine import AnswerEngine, Generation, Sampling
from engine.backends.api_batch_patience import Patience, pauses_s
from engine.backends.api_batch_vendors import (
    AnthropicBatches,
    BatchApi,
    OpenAIBatches,
    Outcome,
    Problem,
    Request,
    State,
)
from engine.backends.api_teacher import (
    AnthropicTeacher,
    ApiEngine,
    ApiPromptTooLong,
    OpenAITeacher,
)
from engine.backends.api_words import ApiError, words_of
from engine.errors import EngineError, StageError, Stopped
from engine.job.spec import ApiTeacher, CaptureSpec
from engine.rows.tools import Conversation
from engine.run.batches import (
    FAILED,
    NEVER_MADE,
    Batch,
    BatchLedger,
    custom_id,
    new_name,
    row_of,
)
from engine.run.parts import Key

_log = logging.getLogger(__name__)

GATHER_S = 5.0  # without a new row: then a batch is made of those that are there
AROUND_BODY = 256  # bytes of a request besides its body, at most
AT_ONCE = 64  # results that are read before others have their turn
FULL = "token_limit_exceeded"  # OpenAI's word for too much under way
Vendor = tuple[type[ApiEngine], type[BatchApi]]
VENDORS: dict[str, Vendor] = {
    "openai": (OpenAITeacher, OpenAIBatches),
    "anthropic": (AnthropicTeacher, AnthropicBatches),
}


@dataclass(eq=False)
class _Row:
    """A request on its way; its body is there until a batch has it."""

    prompt: Conversation
    sampling: Sampling
    answer: asyncio.Future[Generation]
    body: bytes = b""
    tries: int = 0

    @property
    def key(self) -> Key:
        assert self.sampling.row is not None
        return self.sampling.row

    def end(self, outcome: Generation | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


@dataclass(eq=False)
class _Course:
    """A batch on its way, and those who wait for it; `is_earlier`: another process made it."""

    batch: Batch
    is_earlier: bool
    rows: dict[Key, _Row] = field(default_factory=dict)
    state: State | None = None
    is_followed: bool = False

    def see(self, state: State) -> None:
        self.state = state

    @property
    def text(self) -> str:
        """How far it is: `batch_1 in_progress 1,240 of 50,000`."""
        if self.batch.vendor_id is None:
            return f"{self.batch.name} being made"
        if self.state is None:
            return f"{self.batch.vendor_id} made"
        state = self.state
        return f"{self.batch.vendor_id} {state.word} {state.done:,} of {state.total:,}"


class BatchTeacher(AnswerEngine):
    """A teacher of either protocol, asked in batches."""

    takes: ClassVar[Literal["token_ids", "messages"]] = "messages"
    keeps_deadlines: ClassVar[bool] = True

    def __init__(
        self,
        teacher: ApiTeacher,
        capture: CaptureSpec,
        *,
        device: str,
        timeout_s: float,
        attempts: int,
        ledger: BatchLedger,
    ) -> None:
        kind, api = VENDORS[teacher.kind]
        self._live = kind(
            teacher,
            capture,
            device=device,
            timeout_s=timeout_s,
            attempts=attempts,
        )
        client, error = self._live.batch_client(timeout_s)
        self._api = api(client, error)
        self._ledger = ledger
        self._patience = Patience(self._api, self._live, ledger, attempts)
        self._name = teacher.name
        self._attempts = attempts
        self._most_rows = min(teacher.batch_rows or api.most_rows, api.most_rows)
        self._one_at_a_time = False
        self._line = asyncio.Lock()  # of batches that are being made: their bodies are large
        self._pending: list[_Row] = []
        self._pending_bytes = 0
        self._newest = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._open: set[_Row] = set()
        self._followed: list[_Course] = []
        self._earlier: dict[Key, _Course] = {}
        self._earlier_usd: dict[Key, float] = {}
        self._failed_before: set[Key] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.metadata: dict[str, Any] = {}

    def encode(self, conversations: list[Conversation]) -> list[Conversation]:
        """The API takes conversations as they are."""
        return conversations

    def figures(self) -> dict[str, float]:
        """For metrics: batches that are waited for."""
        return {"batches": len(self._followed)}

    def notes(self) -> list[str]:
        """Each batch that is waited for, and rows that gather for the next."""
        notes = [course.text for course in self._followed]
        if self._pending:
            notes.append(f"{len(self._pending):,} rows gather")
        return notes

    def under_way(self) -> Mapping[Key, float]:
        """Rows of earlier batches whose answers are in no part, and the most that each can cost."""
        return self._earlier_usd

    async def open(self) -> None:
        """The free call that shows a wrong key, and the batches that earlier processes made."""
        await self._live.open()
        batches = await asyncio.to_thread(self._ledger.load)
        if not batches:
            return
        rows = await asyncio.to_thread(self._ledger.rows)
        answered = rows.ended(self._name, in_error=False)
        self._failed_before = rows.ended(self._name, in_error=True)
        # Of two with the same row, the later was made because the first came to nothing.
        for batch in batches:
            if not batch.may_answer:
                continue
            course = _Course(batch, is_earlier=True)
            for key, usd in zip(batch.rows, batch.most_usd, strict=True):
                if key not in answered:
                    self._earlier[key] = course
                    self._earlier_usd[key] = usd

    async def generate(self, prompt: Conversation, sampling: Sampling) -> Generation:
        """The answer, when its batch has ended. PromptTooLong or ApiError for this request alone;
        StageError if no other one can succeed either; Stopped after `let_go`."""
        if self._patience.ending:
            raise self._patience.ending
        loop = asyncio.get_running_loop()
        row = _Row(prompt, sampling, loop.create_future())
        self._open.add(row)
        course = self._earlier.pop(row.key, None)
        try:
            if course and course.batch.may_answer:
                course.rows[row.key] = row
                self._follow(course)
            else:
                self._gather(row)
            return await row.answer
        finally:
            self._open.discard(row)

    async def let_go(self) -> None:
        """A batch that is being made is noted; then every row that waits raises Stopped."""
        await self._give_up(Stopped("its batches are under way; the same command goes on"))

    async def _give_up(self, error: EngineError) -> None:
        ending = self._patience.give_up(error)
        async with self._line:
            for row in list(self._open):
                row.end(ending)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except EngineError as error:
            await self._give_up(error)
        except Exception as error:  # noqa: BLE001 - rows that wait for ever would tell nobody
            _log.exception("teacher '%s'", self._name)
            said = f"teacher '{self._name}': {type(error).__name__}: {error}"
            await self._give_up(StageError(said))

    async def _note(self, course: _Course, **known: str) -> None:
        """Remember what is known of a batch."""
        course.batch = replace(course.batch, **known)
        await self._patience.note(course.batch)

    # Rows -> a batch

    def _gather(self, row: _Row) -> None:
        """Into the batch that gathers; a full one is made at once."""
        if row.answer.done():
            return
        body = self._live.body(row.prompt, row.sampling)
        row.body = json.dumps(body).encode()
        size = len(row.body) + AROUND_BODY
        if size > self._api.most_bytes:
            row.end(ApiPromptTooLong(f"a request of {size:,} bytes is larger than a batch may be"))
            return
        if self._pending_bytes + size > self._api.most_bytes:
            self._make_batch()
        self._pending.append(row)
        self._pending_bytes += size
        self._newest = time.monotonic()
        if len(self._pending) >= self._most_rows:
            self._make_batch()
        elif self._timer is None:
            self._wait_for_more(GATHER_S)

    def _wait_for_more(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._when_quiet)

    def _when_quiet(self) -> None:
        self._timer = None
        left_s = self._newest + GATHER_S - time.monotonic()
        if left_s > 0:
            self._wait_for_more(left_s)
        else:
            self._make_batch()

    def _make_batch(self) -> None:
        rows = self._pending
        self._pending = []
        self._pending_bytes = 0
        if rows and not self._patience.ending:
            self._start(self._ask(rows))

    async def _ask(self, rows: list[_Row]) -> None:
        """One batch, from its requests to its results."""
        async with self._line:
            if self._one_at_a_time:
                await self._until_alone()
            course = await self._made(rows)
        self._follow(course)

    async def _until_alone(self) -> None:
        pauses = pauses_s()
        while self._followed:
            await self._patience.pause(next(pauses))

    async def _made(self, rows: list[_Row]) -> _Course:
        name = new_name()
        requests = []
        for row in rows:
            request = Request(custom_id(name, row.key), row.body)
            requests.append(request)
        prepare = partial(self._api.prepare, requests)
        prepared = await self._patience.ask(prepare)
        if self._patience.ending:
            raise self._patience.ending
        keys = [row.key for row in rows]
        most_usd = [row.sampling.most_usd for row in rows]
        batch = await asyncio.to_thread(self._ledger.begin, name, keys, most_usd)
        vendor_id = await self._patience.make(batch, prepared)
        course = _Course(batch, is_earlier=False)
        await self._note(course, vendor_id=vendor_id)
        for row in rows:
            row.body = b""
            course.rows[row.key] = row
        return course

    # A batch -> answers

    def _follow(self, course: _Course) -> None:
        if not course.is_followed:
            course.is_followed = True
            self._followed.append(course)
            self._start(self._until_answered(course))

    async def _until_answered(self, course: _Course) -> None:
        while course.rows:
            if course.batch.vendor_id is None and not await self._is_there(course):
                break
            state = await self._patience.ended(course.batch, course.see)
            if course.is_earlier:
                await self._patience.pause(GATHER_S)  # more of its rows may come
            waiting = course.rows
            course.rows = {}
            if state.word == FAILED:
                await self._refused(course, waiting, state.problems)
            else:
                # Before its answers leave: with the last of them this process may end.
                await self._note(course, ended=state.word)
                read = partial(self._read, course, waiting, state)
                await self._patience.ask(read, course.batch)
                for row in waiting.values():
                    self._again(row, f"batch {course.batch.vendor_id} holds no result of it")
        course.is_followed = False
        self._followed.remove(course)

    async def _is_there(self, course: _Course) -> bool:
        """Of an earlier batch without an id: whether it was made; else its rows gather again."""
        vendor_id = await self._patience.found(course.batch, course.batch.created)
        if vendor_id:
            await self._note(course, vendor_id=vendor_id)
            return True
        await self._note(course, ended=NEVER_MADE)
        for row in course.rows.values():
            self._gather(row)
        course.rows = {}
        return False

    async def _read(
        self,
        course: _Course,
        waiting: dict[Key, _Row],
        state: State,
    ) -> None:
        """Each result to the row that waits for it; begun again after a lost connection, it goes on
        with the rest."""
        assert course.batch.vendor_id is not None
        count = 0
        results = self._api.results(course.batch.vendor_id, state)
        async for custom, outcome in results:
            count += 1
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
            key = row_of(custom)
            if key in waiting:
                self._settle(course, waiting.pop(key), outcome)

    def _settle(self, course: _Course, row: _Row, outcome: Outcome) -> None:
        if outcome.body is not None:
            try:
                answer = self._live.answer_in(outcome.body, row.prompt)
                row.end(answer)
            except ApiError as error:
                self._refuse(course, row, error)
            return
        if outcome.may_pass:
            self._again(row, words_of(outcome.said))
            return
        refusal = self._live.refusal_in(outcome.status, outcome.said, row.prompt)
        if refusal is None:
            row.end(Generation("content_filter", text=""))
        else:
            self._refuse(course, row, refusal)

    def _refuse(self, course: _Course, row: _Row, error: Exception) -> None:
        """The end of a row; but one that ended in an error before is here to be asked again."""
        if course.is_earlier and row.key in self._failed_before:
            self._gather(row)
        else:
            row.end(error)

    def _again(self, row: _Row, said: str) -> None:
        """Into another batch, as often as the job allows: the vendor charged nothing."""
        row.tries += 1
        if row.tries < self._attempts:
            self._gather(row)
        else:
            told = self._live.shown(said, row.prompt)
            row.end(ApiError(f"no answer in {row.tries} batches, the last time: {told}"))

    async def _refused(
        self,
        course: _Course,
        waiting: dict[Key, _Row],
        problems: Sequence[Problem],
    ) -> None:
        """A batch that the vendor did not begin: for some of its requests, for being one too many,
        or for a reason that holds for every other one."""
        await self._note(course, ended=FAILED)
        by_line = {problem.line: problem for problem in problems if problem.line}
        count = len(course.batch.rows)
        is_full = any(problem.code == FULL for problem in problems)
        if is_full and count > 1:
            if self._followed == [course]:
                self._most_rows = count // 2
            self._one_at_a_time = True
            for row in waiting.values():
                self._gather(row)
            return
        words = "; ".join(f"{problem.code}: {problem.said}" for problem in problems)
        told = self._live.shown(words, Conversation([]))
        if not by_line:
            raise StageError(
                f"teacher '{self._name}': the vendor began none of batch"
                f" {course.batch.vendor_id}: {told or 'it does not say why'}; nothing was charged"
            )
        for line, key in enumerate(course.batch.rows, 1):
            row = waiting.get(key)
            if row and line in by_line:
                said = self._live.shown(by_line[line].said, row.prompt)
                row.end(ApiError(said))
            elif row:
                self._again(row, f"others of its batch were refused: {told}")
