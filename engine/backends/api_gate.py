"""When a request to an API may go, and what counts as a failure: the HTTP client under the vendors'
own clients.

It knows no protocol beyond HTTP, JSON and the token counts under `usage`. Trying again is left to
the vendors' clients.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import re
import time
from contextvars import ContextVar
from typing import Any, TypeGuard

import httpx2

from engine.backends.api_words import is_page, words_of
from engine.job.spec import ApiTeacher

BUSY = (429, 503, 529)
REFUSALS = 50  # times that one request may be told "later" (BUSY); its tries do not pay for them
CLIENT_WAIT_S = 120.0  # the openai client gives up on a longer Retry-After
BURST_S = 1.0  # seconds of unused budget that may be spent at once
# A refusal by rate that no waiting mends: this one request is larger than what the account may send
# in a minute.
TOO_LARGE = re.compile(
    r"request too large|too large for|tokens must be reduced|reduce the (length|size|number of"
    r" tokens)",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"context.?(length|limit|window|size)|(prompt|input|messages?|request|string|text) (is |are"
    r" |has )?too (long|large|many tokens)"
    r"|too many (input |prompt )?tokens|maximum (model|prompt|input) length|(input|prompt) token"
    r" count|range of input length"
    r"|`?inputs`? tokens|model token limit|n_ctx",
    re.IGNORECASE,
)
# header of a reply that this Gate made up, because nobody is at the address
UNREACHED = "x-distill-unreached"

failures: ContextVar[int] = ContextVar("failures", default=0)
tries_allowed: ContextVar[int | None] = ContextVar("tries_allowed", default=None)
lost_tries: ContextVar[int] = ContextVar("lost_tries", default=0)
lost_tokens: ContextVar[tuple[int, int]] = ContextVar("lost_tokens", default=(0, 0))
replied: ContextVar[bool] = ContextVar("replied", default=False)
last_usage: ContextVar[tuple[int, int] | None] = ContextVar("last_usage", default=None)
last_words: ContextVar[str] = ContextVar("last_words", default="")
"""Of the request that this task is about: tries that failed, and how many may, None for the job's
number; those of them that the vendor may have answered and charged without saying how much; tokens
in and out of those that it says it charged; whether a reply came that goes to the vendor's client,
what it says it cost, None where it says nothing, and its sentence where it holds no answer."""


def new_request(tries: int | None = None) -> None:
    """Before each request of a task."""
    failures.set(0)
    tries_allowed.set(tries)
    last_words.set("")
    lost_tries.set(0)
    lost_tokens.set((0, 0))
    replied.set(False)
    last_usage.set(None)


def lose_reply() -> None:
    """The reply that came cannot be used, and was paid for; nothing where none came."""
    if replied.get():
        lose_try(last_usage.get())


def lose_try(usage: tuple[int, int] | None) -> None:
    """A try that may have been charged came to nothing; `usage` are its tokens in and out where the
    vendor said them."""
    if usage is None:
        lost_tries.set(lost_tries.get() + 1)
    else:
        tokens_in, tokens_out = lost_tokens.get()
        lost_tokens.set((tokens_in + usage[0], tokens_out + usage[1]))


def usage_of(body: Any) -> tuple[int, int] | None:
    """Tokens in and out by a reply's own word, in the form of either protocol; None where it lacks
    one of them or it is no count."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    # OpenAI's word, else Anthropic's.
    tokens_in = usage.get("prompt_tokens", usage.get("input_tokens"))
    tokens_out = usage.get("completion_tokens", usage.get("output_tokens"))
    if not (_is_count(tokens_in) and _is_count(tokens_out)):
        return None
    total = usage.get("total_tokens")
    if _is_count(total):  # some count their reasoning there alone
        tokens_out = max(tokens_out, total - tokens_in)
    # Anthropic counts what it wrote to its cache and read from it apart from the rest of the input.
    for name in ("cache_creation_input_tokens", "cache_read_input_tokens"):
        cached = usage.get(name)
        if _is_count(cached):
            tokens_in += cached
    return tokens_in, tokens_out


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0


class RateLimit:
    """What may be spent per minute, refilled evenly. What something cost is often known only
    afterwards: a debt delays the next."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self.free_at = -math.inf

    def spend(self, amount: float) -> None:
        """Take `amount`, or give it back if negative; `free_at` is when all of it is refilled
        (time.monotonic)."""
        if self._per_minute:
            since = max(self.free_at, time.monotonic() - BURST_S)
            self.free_at = since + 60 * amount / self._per_minute


class Gate(httpx2.AsyncClient):
    """One teacher's HTTP client, where each try waits its turn: open requests, everybody's pause,
    budgets.

    Open requests are halved when the API is busy and grow by one per round of successes, up to
    `teacher.concurrency`. A Retry-After holds everybody. Silence, a cut body and an error with
    status 200 become a failure that the vendor's client tries again; the request's last one, after
    `attempts` failures, tells it to stop. (A subclass and not a transport: a client with a
    transport of its own ignores the proxies of the environment.)
    """

    def __init__(self, teacher: ApiTeacher, *, timeout_s: float, attempts: int) -> None:
        limits = httpx2.Limits(
            max_connections=teacher.concurrency, max_keepalive_connections=teacher.concurrency
        )
        super().__init__(limits=limits, timeout=timeout_s, follow_redirects=True)
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._most = teacher.concurrency
        self.concurrency = float(teacher.concurrency)
        self.sent = self.refused = 0
        self._requests = RateLimit(teacher.requests_per_minute)
        self._tokens = RateLimit(teacher.tokens_per_minute)
        self._line = asyncio.Lock()
        self._left = asyncio.Event()
        self._open = 0
        self._answer_tokens = 0.0  # of a usual answer: what a request takes before it is known
        self.resume_at = self._cut_at = -math.inf

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """One try, when it is its turn."""
        prompt_tokens = len(request.content) / 4
        spent = prompt_tokens + self._answer_tokens
        async with self._line:
            await self._turn()
            self._open += 1
            self.sent += 1
            self._requests.spend(1)
            self._tokens.spend(spent)
        started = time.monotonic()
        try:
            response, tokens = await self._try(request, options)
        finally:
            self._open -= 1
            self._left.set()
        self._tokens.spend(tokens - spent)
        if tokens:
            self._answer_tokens += 0.1 * (max(0.0, tokens - prompt_tokens) - self._answer_tokens)
        self._learn(response, started)
        return response

    async def _turn(self) -> None:
        while True:
            free_at = max(self.resume_at, self._requests.free_at, self._tokens.free_at)
            wait = free_at - time.monotonic()
            if self._open >= int(self.concurrency):
                self._left.clear()
                await self._left.wait()
            elif wait > 0:
                await asyncio.sleep(wait)
            else:
                return

    async def _try(
        self, request: httpx2.Request, options: dict[str, Any]
    ) -> tuple[httpx2.Response, int]:
        """The response and the tokens that it cost."""
        status = 502
        usage = None
        was_sent = True
        headers = {}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await super().send(request, **options)
            if not response.is_success:
                return response, 0
            body = response.json()
            usage = usage_of(body)
            if not _is_error(body):
                note_reply(body, usage)
                return response, sum(usage or (0, 0))
            problem = f"an error in place of an answer: {words_of(body)}"
        except TimeoutError:
            status = 504
            problem = f"no answer within {self._timeout_s:g} s"
        except httpx2.RequestError as error:
            problem = type(error).__name__
            if isinstance(error, httpx2.ConnectError):
                was_sent = False
                headers = {UNREACHED: "1"}
        except ValueError:
            problem = "the answer is cut"
            if is_page(response.text):
                problem = f"a page in place of an answer: {words_of(response.text)[:200]}"
        # The vendor may have charged for whatever reached it.
        if was_sent:
            lose_try(usage)
        answer = {"error": {"message": problem}}
        return httpx2.Response(status, json=answer, headers=headers, request=request), 0

    def _learn(self, response: httpx2.Response, started: float) -> None:
        if response.request.method != "POST":
            return  # the list of models says nothing of how answers come
        if never_fits(response.status_code, response.text):
            _try_no_more(response)  # and nobody else has to wait for it
        elif response.status_code in BUSY:
            self._slow_down(response, started)
        elif response.is_error:
            failures.set(failures.get() + 1)
            if failures.get() >= min(self._attempts, tries_allowed.get() or self._attempts):
                _try_no_more(response)
        else:
            self.concurrency = min(self._most, self.concurrency + 1 / self.concurrency)

    def _slow_down(self, response: httpx2.Response, started: float) -> None:
        self.refused += 1
        pause = retry_after_s(response.headers)
        self.resume_at = max(self.resume_at, time.monotonic() + pause)
        # What was sent before the last cut says nothing about the new limit.
        if started >= self._cut_at:
            self.concurrency = max(1.0, self.concurrency / 2)
            self._cut_at = time.monotonic()
        if pause > CLIENT_WAIT_S:
            response.headers.pop("retry-after", None)
            response.headers.pop("retry-after-ms", None)
        # No credit: 429 as well, but it does not pass.
        if b"insufficient_quota" in response.content:
            _try_no_more(response)


def _has_answer(body: Any) -> bool:
    return isinstance(body, dict) and bool(body.get("choices") or body.get("content"))


def _is_error(body: Any) -> bool:
    """Whether a reply with status 200 is an error all the same: try again, as after a 502."""
    return isinstance(body, dict) and bool(body.get("error")) and not _has_answer(body)


def note_reply(body: Any, usage: tuple[int, int] | None) -> None:
    """A reply goes on to the vendor's client: what it cost, and its words where it holds no
    answer."""
    replied.set(True)
    last_usage.set(usage)
    words = "" if _has_answer(body) else words_of(body)
    last_words.set(words)


def _try_no_more(response: httpx2.Response) -> None:
    response.headers["x-should-retry"] = "false"  # what both vendors' clients go by


def never_fits(status: int, said: str) -> bool:
    """Whether an error means that this request is too long, whenever it is sent."""
    if status in BUSY:
        return bool(TOO_LARGE.search(said))
    if status == 413:
        return True
    may_mean_it = status in (400, 422) or status >= 500
    return may_mean_it and bool(TOO_LONG.search(said) or TOO_LARGE.search(said))


def retry_after_s(headers: httpx2.Headers) -> float:
    """Seconds that a refusal asks for, as milliseconds, seconds or a date; 0 if it names none that
    can be read."""
    in_ms = headers.get("retry-after-ms")
    value = headers.get("retry-after", "") if in_ms is None else in_ms
    try:
        seconds = float(value)
        if in_ms is not None:
            seconds *= 0.001
    except ValueError:
        date = email.utils.parsedate_tz(value)
        seconds = email.utils.mktime_tz(date) - time.time() if date else 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
