"""The batch APIs of both vendors in one form: a file of requests, what became of it, its results.

Nothing here waits, decides or remembers: that is api_batch.py. Errors are the vendors' own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import httpx2

from engine.job.spec import BATCH_WINDOW_H
from engine.run.batches import Batch

WINDOW = f"{BATCH_WINDOW_H}h"  # the only one
CLOCKS_S = 3600.0  # by which a vendor's clock and ours may differ
NAME = "distill_batch"  # key of our name in OpenAI's metadata; Anthropic keeps none
MAY_PASS = (408, 409, 425, 429)  # refusals that waiting mends


class Request(NamedTuple):
    """One request: its name at the vendor, and its body as JSON."""

    custom_id: str
    body: bytes


@dataclass(frozen=True)
class Problem:
    """Why a batch failed as a whole; `line` is the request's number from 1, None where it is about
    all."""

    said: str
    code: str = ""
    line: int | None = None


@dataclass(frozen=True)
class State:
    """How far a batch is. `results` is where its results are read, once it has ended."""

    word: str  # the vendor's
    has_ended: bool
    done: int = 0
    total: int = 0
    problems: tuple[Problem, ...] = ()
    results: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of one request: the body of a reply, or why there is none; `may_pass`: nothing was
    charged, and another batch may answer it."""

    body: Any = None
    status: int | None = None  # of HTTP
    said: str = ""
    may_pass: bool = False


@dataclass(frozen=True)
class Found:
    """Whether a batch whose making nobody heard of is there; `waits`: one that may be it has not
    ended, and until then nobody can tell."""

    vendor_id: str | None = None
    waits: bool = False


Results = AsyncIterator[tuple[str, Outcome]]


class BatchApi(ABC):
    """One vendor's batch API, through the vendor's client."""

    most_rows: ClassVar[int]
    most_bytes: ClassVar[int]

    def __init__(self, client: Any, error: type[Exception]) -> None:
        self._client = client
        # What may be the network's fault too: a file of results is read outside of the client.
        self.errors = (error, httpx2.HTTPError, json.JSONDecodeError)

    @abstractmethod
    async def prepare(self, requests: Sequence[Request]) -> Any:
        """What comes before the batch is made, and costs nothing."""

    @abstractmethod
    async def make(self, name: str, prepared: Any) -> str:
        """Make the batch; the vendor's id."""

    @abstractmethod
    async def find(self, batch: Batch, known: Collection[str]) -> Found:
        """The batch, if it was made; `known` are ids of others."""

    @abstractmethod
    async def look(self, vendor_id: str) -> State:
        """How far it is."""

    @abstractmethod
    def results(self, vendor_id: str, state: State) -> Results:
        """By custom id, in any order, what came of each request of a batch that has ended."""

    @abstractmethod
    async def cancel(self, vendor_id: str) -> None:
        """Ask the vendor to stop; what it has answered it still charges and gives."""


class OpenAIBatches(BatchApi):
    """OpenAI's: JSON lines, uploaded as a file. Azure's too, by its own address of the route."""

    most_rows: ClassVar[int] = 50_000
    most_bytes: ClassVar[int] = 200_000_000

    def __init__(self, client: Any, error: type[Exception]) -> None:
        super().__init__(client, error)
        name = type(client).__name__
        is_azure = name == "AsyncAzureOpenAI"
        self._route = "/chat/completions" if is_azure else "/v1/chat/completions"

    async def prepare(self, requests: Sequence[Request]) -> str:
        lines = []
        for request in requests:
            told = {
                "custom_id": request.custom_id,
                "method": "POST",
                "url": self._route,
            }
            text = json.dumps(told)
            start = text[:-1].encode()
            lines.append(start + b', "body": ' + request.body + b"}\n")
        file = ("requests.jsonl", b"".join(lines))
        uploaded = await self._client.files.create(file=file, purpose="batch")
        return uploaded.id

    async def make(self, name: str, prepared: str) -> str:
        made = await self._client.batches.create(
            input_file_id=prepared,
            endpoint=self._route,
            completion_window=WINDOW,
            metadata={NAME: name},
        )
        return made.id

    async def find(self, batch: Batch, known: Collection[str]) -> Found:
        listed = self._client.batches.list(limit=100)
        async for one in listed:
            if one.created_at < batch.created - CLOCKS_S:
                break  # the newest come first
            metadata = one.metadata or {}
            if metadata.get(NAME) == batch.name:
                return Found(one.id)
        return Found()

    async def look(self, vendor_id: str) -> State:
        one = await self._client.batches.retrieve(vendor_id)
        counts = one.request_counts
        done = counts.completed + counts.failed if counts else 0
        problems = []
        errors = one.errors.data if one.errors else None
        for error in errors or []:
            problem = Problem(
                error.message or "",
                error.code or "",
                error.line,
            )
            problems.append(problem)
        files = filter(None, (one.output_file_id, one.error_file_id))
        return State(
            one.status,
            one.status in ("completed", "failed", "expired", "cancelled"),
            done,
            counts.total if counts else 0,
            tuple(problems),
            tuple(files),
        )

    async def results(self, vendor_id: str, state: State) -> Results:
        for file in state.results:
            opened = self._client.files.with_streaming_response.content(file)
            async with opened as response:
                async for line in response.iter_lines():
                    if line.strip():
                        said = json.loads(line)
                        yield said["custom_id"], _openai_outcome(said)

    async def cancel(self, vendor_id: str) -> None:
        await self._client.batches.cancel(vendor_id)


def _openai_outcome(line: dict[str, Any]) -> Outcome:
    error = line.get("error")
    response = line.get("response")
    if error:
        code = error.get("code") or ""
        said = f"{code}: {error.get('message') or ''}"
        return Outcome(said=said, may_pass=code != "batch_cancelled")
    if not response:
        return Outcome(said="a line without an answer", may_pass=True)
    status = response.get("status_code")
    body = response.get("body")
    if status == 200:
        return Outcome(body, status)
    may_pass = status in MAY_PASS or status is None or status >= 500
    words = json.dumps(body)
    return Outcome(None, status, words, may_pass)


class AnthropicBatches(BatchApi):
    """Anthropic's message batches. They carry no name of ours, but custom ids do."""

    most_rows: ClassVar[int] = 100_000
    most_bytes: ClassVar[int] = 256_000_000

    async def prepare(self, requests: Sequence[Request]) -> list[Any]:
        prepared = []
        for request in requests:
            one = {
                "custom_id": request.custom_id,
                "params": json.loads(request.body),
            }
            prepared.append(one)
        return prepared

    async def make(self, name: str, prepared: list[Any]) -> str:
        made = await self._client.messages.batches.create(requests=prepared)
        return made.id

    async def find(self, batch: Batch, known: Collection[str]) -> Found:
        waits = False
        listed = self._client.messages.batches.list(limit=100)
        async for one in listed:
            if one.created_at.timestamp() < batch.created - CLOCKS_S:
                break
            is_as_large = _total(one.request_counts) == len(batch.rows)
            if one.id in known or not is_as_large:
                continue
            if one.processing_status != "ended":
                waits = True
            elif await self._is(batch, one.id):
                return Found(one.id)
        return Found(waits=waits)

    async def _is(self, batch: Batch, vendor_id: str) -> bool:
        """Whether its first result is of a request of ours."""
        results = await self._client.messages.batches.results(vendor_id)
        async for one in results:
            return one.custom_id.startswith(batch.name)
        return False

    async def look(self, vendor_id: str) -> State:
        one = await self._client.messages.batches.retrieve(vendor_id)
        total = _total(one.request_counts)
        return State(
            one.processing_status,
            one.processing_status == "ended",
            total - one.request_counts.processing,
            total,
        )

    async def results(self, vendor_id: str, state: State) -> Results:
        results = await self._client.messages.batches.results(vendor_id)
        async for one in results:
            yield one.custom_id, _anthropic_outcome(one.result)

    async def cancel(self, vendor_id: str) -> None:
        await self._client.messages.batches.cancel(vendor_id)


def _total(counts: Any) -> int:
    failed = counts.errored + counts.canceled + counts.expired
    return counts.processing + counts.succeeded + failed


def _anthropic_outcome(result: Any) -> Outcome:
    if result.type == "succeeded":
        body = result.message.to_dict(mode="json")
        return Outcome(body, 200)
    if result.type == "errored":
        said = result.error.to_dict(mode="json")
        error = said.get("error") or {}
        kind = error.get("type")
        is_ours = kind in _ANTHROPIC_REFUSALS
        status = _ANTHROPIC_REFUSALS[kind] if is_ours else 500
        words = json.dumps(said)
        return Outcome(None, status, words, may_pass=not is_ours)
    return Outcome(said=f"batch_{result.type}", may_pass=result.type == "expired")


# Errors that asking again does not change, and their status of HTTP.
_ANTHROPIC_REFUSALS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
}
