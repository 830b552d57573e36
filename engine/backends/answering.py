"""Prompts -> Completions, whoever answers: the one path that generate and evaluate share.

The driver works out which rows are missing, cuts them into shards and streams those through replicas; a replica builds
its engine, answers, and commits parts (engine/parts.py). An engine is any class with the five members of `AnswerEngine`;
a new kind of teacher is one such class and one line in ENGINES.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from engine import parts
from engine.errors import StageError
from engine.progress import Context
from engine.records import Completion, Messages, completion_schema, derive_seed
from engine.rundir import versions
from engine.spec import CaptureSpec, GenerateSpec, SamplingSpec, TeacherSpec

Stream = Callable[..., Iterator[dict[str, Any]]]

ENGINES = {
    "vllm": "engine.backends.vllm_engine:VllmEngine",
    "openai": "engine.backends.api_teacher:OpenAITeacher",
    "anthropic": "engine.backends.api_teacher:AnthropicTeacher",
    "fake": "engine.backends.fake:FakeTeacher",
}
STATUS_OF_FINISH = {"stop": "ok", "length": "truncated", "content_filter": "refused", "repetition": "loop"}
SMALLEST_SHARD, SHARDS_PER_REPLICA = 32, 16


@dataclass(frozen=True)
class Sampling:
    """How one request is sampled; `seed=None` leaves the draw to the engine."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Generation:
    """One finished answer: token ids (T,), sampled log-probabilities (T,), top-k (T*k,) flat, tail mass (T,).

    An engine that gives text and no ids (an API) sets `text` and the token counts, and the texts of its top log-probabilities
    as `topk_tokens` (T*k,).
    """

    finish_reason: str
    token_ids: Any = field(default_factory=lambda: np.zeros(0, np.int32))
    token_logprobs: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    topk_ids: Any = field(default_factory=lambda: np.zeros(0, np.int32))
    topk_logprobs: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    tail: Any = field(default_factory=lambda: np.zeros(0, np.float32))
    text: str | None = None
    reasoning: str | None = None
    topk_tokens: list[str] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the answer, by the server's count where it gives no ids."""
        return len(self.token_ids) if self.completion_tokens is None else self.completion_tokens


class PromptTooLong(Exception):
    """A server's word that a prompt does not fit its model; the row's status is `too_long`."""


class AnswerEngine(Protocol):
    """What a kind of teacher offers. Built as `Kind(teacher, capture, device=..., timeout_s=..., attempts=...)`.

    `max_model_len` None means a server that checks lengths, keeps deadlines and retries itself, through its client. An
    EngineError from `generate` ends the stage (a refused key, say); any other error is one row's status.
    """

    max_model_len: int | None
    metadata: dict[str, Any]

    def encode(self, conversations: list[Messages]) -> list[Any]: ...
    def decode(self, token_ids: list[Any]) -> list[str]: ...
    async def open(self) -> None: ...  # before the first request: the last chance to fail for free
    async def generate(self, prompt: Any, sampling: Sampling) -> Generation: ...


@dataclass(frozen=True)
class _Pending:
    """A finished request that has not been decoded yet."""

    prompt_id: int
    sample_index: int
    split: str
    seed: int
    prompt: Any
    attempt: int
    generation: Generation | None = None
    status: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class AnswerJob:
    """What a replica must know besides its shards; small and picklable."""

    teacher: TeacherSpec
    sampling: SamplingSpec
    capture: CaptureSpec
    folder: Path
    epoch: int
    seed: int
    device: str
    part_rows: int
    part_seconds: float
    request_timeout_s: float
    max_attempts: int
    concurrency: int

    @property
    def requests_in_flight(self) -> int:
        """Requests that one replica has open; twice the batch of a local engine, so that it never drains."""
        return 2 * self.teacher.max_num_seqs if self.teacher.kind == "vllm" else self.concurrency


def build_answerer(job: AnswerJob) -> Answerer:
    """Build the engine of `job.teacher` in this process and an Answerer around it."""
    module, name = ENGINES[job.teacher.kind].split(":")
    engine = getattr(importlib.import_module(module), name)(job.teacher, job.capture, device=job.device, attempts=job.max_attempts)
    return Answerer(engine, job)


class Answerer:
    """Answers shards with one engine and commits the rows; the worker inside a replica."""

    def __init__(self, engine: AnswerEngine, job: AnswerJob) -> None:
        self._engine, self._job = engine, job
        metadata = {
            "schema_version": 1, "codec": "plain", "top_k": job.capture.top_k, "teacher": job.teacher.name,
            "teacher_revision": job.teacher.revision, "engine": job.teacher.kind, "versions": versions(),
        } | engine.metadata
        self._writer = parts.PartWriter(
            job.folder, job.epoch, job.teacher.name, completion_schema(job.capture.dtype), metadata, self._finish,
            max_rows=job.part_rows, max_seconds=job.part_seconds,
        )
        self._gate = asyncio.Semaphore(job.requests_in_flight)
        self._timer: asyncio.Task[None] | None = None

    async def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Answer `{"id", "file", "rows": [[row, sample], …]}`; when this returns, all its rows are visible."""
        self._timer = self._timer or asyncio.get_running_loop().create_task(self._writer.commit_old())
        attempt, started = parts.begin_attempt(self._job.folder, self._job.epoch, shard["id"]), time.time()
        requests = await asyncio.to_thread(self._requests, shard, attempt)
        tokens = await asyncio.gather(*(self._answer(request) for request in requests))
        await self._writer.commit()
        return {"shard": shard["id"], "rows": len(shard["rows"]), "tokens": sum(tokens), "started": started, "finished": time.time()}

    def _requests(self, shard: dict[str, Any], attempt: int) -> list[_Pending]:
        job, rows, samples = self._job, *zip(*shard["rows"], strict=True)
        table = _prompt_table(shard["file"]).take(list(rows))
        conversations = [_with_system(messages, job.teacher.system) for messages in table["messages"].to_pylist()]
        ids, splits = table["prompt_id"].to_pylist(), table["split"].to_pylist()
        # Only a shard that runs again, because its replica died, can hold rows that are committed already.
        done = parts.committed(job.folder) if attempt > 1 else {}
        return [
            _Pending(
                prompt_id, sample, split, derive_seed(job.seed, prompt_id, job.teacher.name, sample), prompt, attempt,
                status="error" if attempt > job.max_attempts else None,
                error=f"its replica died {attempt - 1} times" if attempt > job.max_attempts else None,
            )
            for prompt_id, sample, split, prompt in zip(ids, samples, splits, self._engine.encode(conversations), strict=True)
            if done.get((job.teacher.name, prompt_id, sample), "error") == "error"
        ]

    async def _answer(self, request: _Pending) -> int:
        finished = await self._ask(request) if request.status is None else request
        await self._writer.add(finished)
        return finished.generation.tokens if finished.generation else 0

    async def _ask(self, request: _Pending) -> _Pending:
        settings, room = self._job.sampling, settings_room(self._engine.max_model_len, request.prompt)
        if room < 1:
            problem = f"{len(request.prompt)} prompt tokens in a context of {self._engine.max_model_len}"
            return replace(request, status="too_long", error=problem)
        greedy = request.split == "validation" or settings.temperature == 0
        sampling = Sampling(
            temperature=0.0 if greedy else settings.temperature, top_p=1.0 if greedy else settings.top_p,
            max_tokens=min(settings.max_tokens, room), seed=request.seed if settings.reproducible and not greedy else None,
        )
        try:
            async with self._gate:  # the deadline is that of an open request, not of one that waits its turn
                answer = self._engine.generate(request.prompt, sampling)
                return replace(request, generation=await asyncio.wait_for(answer, self._job.request_timeout_s))
        except TimeoutError:
            return replace(request, status="error", error=f"no answer within {self._job.request_timeout_s:g} s")
        except Exception as error:  # noqa: BLE001 - one request's failure is a row status, counted and shown
            return replace(request, status="error", error=f"{type(error).__name__}: {error}"[:500])

    def _finish(self, pending: Sequence[_Pending]) -> list[Completion]:
        answered = [item.generation for item in pending if item.generation is not None and item.generation.text is None]
        texts = iter(self._engine.decode([generation.token_ids for generation in answered]) if answered else [])
        return [self._completion(item, texts) for item in pending]

    def _completion(self, item: _Pending, texts: Iterator[str]) -> Completion:
        ids = item.prompt if self._engine.max_model_len is not None else []
        known = {
            "prompt_id": item.prompt_id, "teacher": self._job.teacher.name, "sample_index": item.sample_index, "split": item.split,
            "seed": item.seed, "attempt": item.attempt, "prompt_token_ids": np.asarray(ids, np.int32),
        }
        generation = item.generation
        if generation is None:
            return Completion(**known, status=item.status or "error", error=item.error, prompt_tokens=len(ids))
        text = next(texts) if generation.text is None else generation.text
        status = STATUS_OF_FINISH.get(generation.finish_reason, "error")
        return Completion(
            **known, status="empty" if status == "ok" and not text.strip() else status, finish_reason=generation.finish_reason, text=text,
            token_ids=generation.token_ids, token_logprobs=generation.token_logprobs, topk_ids=generation.topk_ids,
            topk_logprobs=generation.topk_logprobs, tail=generation.tail,
            error=f"unknown finish reason {generation.finish_reason}" if status == "error" else None,
            prompt_tokens=len(ids) if generation.prompt_tokens is None else generation.prompt_tokens,
            completion_tokens=generation.tokens,
        )


def settings_room(max_model_len: int | None, prompt: Any) -> int:
    """Tokens left for the answer; an engine that checks lengths itself always has room."""
    return 2**31 if max_model_len is None else max_model_len - len(prompt)


def _with_system(messages: Messages, system: str | None) -> Messages:
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


@functools.lru_cache(maxsize=2)
def _prompt_table(file: str) -> Any:
    return pq.read_table(file, columns=["prompt_id", "split", "messages"])


def missing_shards(
    keys: Mapping[Path, tuple[np.ndarray, np.ndarray]], teacher: str, samples: int, done: dict[parts.Key, str],
    shard_rows: int, replicas: int,
) -> tuple[list[dict[str, Any]], int]:
    """Shards of the rows of `keys` (parts.prompt_keys) that have no final answer yet, and the number of rows wanted in all.

    A shard holds at most rows / (16 x replicas) rows, so that replicas finish together and progress is smooth; training
    prompts are answered `samples` times, validation prompts once.
    """
    missing: list[tuple[str, list[list[int]]]] = []
    wanted = 0
    for file, (ids, validation) in keys.items():
        rows = [(row, sample) for row in range(len(ids)) for sample in range(1 if validation[row] else samples)]
        wanted += len(rows)
        missing.append((str(file), [
            [row, sample] for row, sample in rows if done.get((teacher, int(ids[row]), sample), "error") == "error"
        ]))
    total = sum(len(rows) for _, rows in missing)
    size = max(SMALLEST_SHARD, min(shard_rows, -(-total // (SHARDS_PER_REPLICA * replicas))))
    shards = [
        {"id": f"{teacher}-{number:03d}-{start:07d}", "file": file, "rows": rows[start : start + size]}
        for number, (file, rows) in enumerate(missing)
        for start in range(0, len(rows), size)
    ]
    return shards, wanted


@dataclass
class Tally:
    """What one call of `answer_prompts` wanted and did; `answered`, tokens and seconds are of this run alone."""

    prompts: int = 0
    wanted: int = 0
    done: int = 0
    answered: int = 0
    tokens: int = 0
    started: float = float("inf")
    finished: float = 0.0

    def add(self, receipt: dict[str, Any]) -> None:
        self.done += receipt["rows"]
        self.answered += receipt["rows"]
        self.tokens += receipt["tokens"]
        self.started = min(self.started, receipt["started"])
        self.finished = max(self.finished, receipt["finished"])

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second between the first request and the last commit, engine start-up excluded."""
        return round(self.tokens / (self.finished - self.started), 1) if self.finished > self.started else None


def answer_prompts(spec: GenerateSpec, prompt_files: Sequence[Path], folder: Path, ctx: Context, *, stream: Stream) -> Tally:
    """Let every teacher of `spec` answer what it has not answered yet, into parts under `folder`; teachers take turns.

    StageError if a replica cannot start or its answers do not come back; what was committed stays.
    """
    epoch = parts.open_epoch(folder)
    done = parts.committed(folder)
    keys = parts.prompt_keys(prompt_files)
    plans = {
        teacher.name: missing_shards(keys, teacher.name, spec.sampling.samples, done, spec.shard_rows, teacher.replica_range[1])
        for teacher in spec.teachers
    }
    missing = sum(len(shard["rows"]) for shards, _ in plans.values() for shard in shards)
    tally = Tally(prompts=sum(len(ids) for ids, _ in keys.values()), wanted=sum(wanted for _, wanted in plans.values()))
    tally.done = tally.wanted - missing
    ctx.progress.update(done=tally.done, total=tally.wanted)
    for teacher in spec.teachers:
        shards, _ = plans[teacher.name]
        if not shards:
            continue
        ctx.progress.update(note=f"starting '{teacher.name}' ({teacher.replica_range[0]} x {teacher.kind})")
        job = AnswerJob(
            teacher, spec.sampling, spec.capture, folder, epoch, ctx.seed, ctx.device, spec.part_rows, spec.part_seconds,
            spec.request_timeout_s, spec.max_attempts, teacher.concurrency,
        )
        local = teacher.kind == "vllm"
        for receipt in stream(
            shards, functools.partial(build_answerer, job), what=f"{ctx.progress.name}: model '{teacher.name}' ({teacher.model})",
            replicas=teacher.replica_range[0], devices=teacher.devices if local else 0, device=ctx.device if local else "cpu",
            shards_in_flight=3,
        ):
            tally.add(receipt)
            ctx.progress.update(done=tally.done, **{"tok/s": tally.tokens_per_second or 0.0})
    if tally.answered != missing:
        raise StageError(f"{tally.answered} of {missing} rows came back; run the same command again to finish the rest")
    return tally
