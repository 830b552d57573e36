"""When a request to an API may go, and what counts as a failure: the HTTP client under the vendors'
own clients.

It knows no protocol beyond HTTP, JSON and the token counts under `usage`. Trying again is left to
the vendors' clients.
"""

from __future__ import annotations

import asyncio
import email.utils
import html
import json
import math
import re
import time
from contextvars import ContextVar
from typing import Any

import httpx2

from engine.job.spec import TeacherSpec

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


_COUNTED = (("prompt", "input"), ("completion", "output"))  # OpenAI's and Anthropic's words


def usage_of(body: Any) -> tuple[int, int] | None:
    """Tokens in and out by a reply's own word, in the form of either protocol; None where it lacks
    one of them or it is no count."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = (
        usage.get(f"{name}_tokens", usage.get(f"{other}_tokens")) for name, other in _COUNTED
    )
    if not (_is_count(tokens_in) and _is_count(tokens_out)):
        return None
    if _is_count(total := usage.get("total_tokens")):  # some count their reasoning there alone
        tokens_out = max(tokens_out, total - tokens_in)
    # Anthropic counts what it wrote to its cache and read from it apart from the rest of the input.
    cached = [
        usage.get(name) for name in ("cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    return tokens_in + sum(filter(_is_count, cached)), tokens_out


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def words_of(body: Any) -> str:
    """The sentence in a server's error, whatever its shape: OpenAI's, a list of errors, FastAPI's
    `detail`, a string, plain text."""
    if isinstance(body, str):
        try:
            return words_of(json.loads(body))
        except ValueError:
            return _text_of_page(body) if _PAGE.search(body) else body.strip()
    if isinstance(body, list):
        return "; ".join(filter(None, map(words_of, body)))
    if isinstance(body, dict):
        place = ".".join(map(str, body["loc"])) + ": " if isinstance(body.get("loc"), list) else ""
        found = [words for name in _SAYING if (words := words_of(body.get(name)))]
        # A sentence that another one repeats, or a mere code beside one, is left out.
        told = [
            words
            for words in dict.fromkeys(found)
            if not any(words != other and words in other for other in found)
        ]
        return place + "; ".join(told) if told else json.dumps(body) if body else ""
    return ""


_SAYING = (
    "error",
    "message",
    "msg",
    "detail",
    "details",
    "errors",
    "error_message",
    "error_description",
    "error_msg",
    "title",
    "reason",
    "metadata",
    "raw",
    "base_resp",
    "status_msg",
)
_PAGE = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)


def _text_of_page(page: str) -> str:
    """What a person would read of an HTML page."""
    page = re.sub(
        r"<(style|script)\b.*?</\1\s*>|<!--.*?-->", " ", page, flags=re.IGNORECASE | re.DOTALL
    )
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


class Budget:
    """What may be spent per minute, refilled evenly. What something cost is often known only
    afterwards: a debt delays the next."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute, self.free_at = per_minute, -math.inf

    def spend(self, amount: float) -> None:
        """Take `amount`, or give it back if negative; `free_at` is when all of it is refilled
        (time.monotonic)."""
        if self._per_minute:
            self.free_at = (
                max(self.free_at, time.monotonic() - BURST_S) + 60 * amount / self._per_minute
            )


class Gate(httpx2.AsyncClient):
    """One teacher's HTTP client, where each try waits its turn: open requests, everybody's pause,
    budgets.

    Open requests are halved when the API is busy and grow by one per round of successes, up to
    `teacher.concurrency`. A Retry-After holds everybody. Silence, a cut body and an error with
    status 200 become a failure that the vendor's client tries again; the request's last one, after
    `attempts` failures, tells it to stop. (A subclass and not a transport: a client with a
    transport of its own ignores the proxies of the environment.)
    """

    def __init__(self, teacher: TeacherSpec, *, timeout_s: float, attempts: int) -> None:
        limits = httpx2.Limits(
            max_connections=teacher.concurrency, max_keepalive_connections=teacher.concurrency
        )
        super().__init__(limits=limits, timeout=timeout_s, follow_redirects=True)
        self._timeout_s, self._attempts, self._most = timeout_s, attempts, teacher.concurrency
        self.concurrency, self.sent, self.refused = float(teacher.concurrency), 0, 0
        self._requests, self._tokens = (
            Budget(teacher.requests_per_minute),
            Budget(teacher.tokens_per_minute),
        )
        self._line, self._left, self._open, self._answer_tokens = (
            asyncio.Lock(),
            asyncio.Event(),
            0,
            0.0,
        )
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
            wait = (
                max(self.resume_at, self._requests.free_at, self._tokens.free_at) - time.monotonic()
            )
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
        status, lost, usage, unreached = 502, True, None, {}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await super().send(request, **options)
            if not response.is_success:
                return response, 0
            body = response.json()
            usage = usage_of(body)
            has_answer = isinstance(body, dict) and bool(body.get("choices") or body.get("content"))
            if has_answer or not (isinstance(body, dict) and body.get("error")):
                replied.set(True)
                last_usage.set(usage)
                last_words.set("" if has_answer else words_of(body))
                return response, sum(usage or (0, 0))
            problem = f"an error in place of an answer: {words_of(body)}"
        except TimeoutError:
            status, problem = 504, f"no answer within {self._timeout_s:g} s"
        except httpx2.RequestError as error:
            reached = not isinstance(error, httpx2.ConnectError)
            lost, problem, unreached = (
                reached,
                type(error).__name__,
                {} if reached else {UNREACHED: "1"},
            )
        except ValueError:
            page = _PAGE.search(response.text)
            problem = (
                f"a page in place of an answer: {words_of(response.text)[:200]}"
                if page
                else "the answer is cut"
            )
        if lost:
            lose_try(usage)
        return httpx2.Response(
            status, json={"error": {"message": problem}}, headers=unreached, request=request
        ), 0

    def _learn(self, response: httpx2.Response, started: float) -> None:
        if response.request.method != "POST":
            return  # the list of models says nothing of how answers come
        if never_fits(response.status_code, response.text):
            response.headers["x-should-retry"] = "false"  # nobody else has to wait for it
        elif response.status_code in BUSY:
            self.refused += 1
            pause = retry_after_s(response.headers)
            self.resume_at = max(self.resume_at, time.monotonic() + pause)
            if (
                started >= self._cut_at
            ):  # what was sent before the last cut says nothing about the new limit
                self.concurrency, self._cut_at = max(1.0, self.concurrency / 2), time.monotonic()
            if pause > CLIENT_WAIT_S:
                response.headers.pop("retry-after", None)
                response.headers.pop("retry-after-ms", None)
            if (
                b"insufficient_quota" in response.content
            ):  # no credit: 429 as well, but it does not pass
                response.headers["x-should-retry"] = "false"
        elif response.is_error:
            failures.set(failures.get() + 1)
            if failures.get() >= min(self._attempts, tries_allowed.get() or self._attempts):
                response.headers["x-should-retry"] = "false"
        else:
            self.concurrency = min(self._most, self.concurrency + 1 / self.concurrency)


def never_fits(status: int, said: str) -> bool:
    """Whether an error means that this request is too long, whenever it is sent."""
    if status in BUSY:
        return bool(TOO_LARGE.search(said))
    return status == 413 or (
        (status in (400, 422) or status >= 500)
        and bool(TOO_LONG.search(said) or TOO_LARGE.search(said))
    )


def retry_after_s(headers: httpx2.Headers) -> float:
    """Seconds that a refusal asks for, as milliseconds, seconds or a date; 0 if it names none that
    can be read."""
    value, unit = (
        (headers["retry-after-ms"], 0.001)
        if "retry-after-ms" in headers
        else (headers.get("retry-after", ""), 1.0)
    )
    try:
        seconds = float(value) * unit
    except ValueError:
        date = email.utils.parsedate_tz(value)
        seconds = email.utils.mktime_tz(date) - time.time() if date else 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
