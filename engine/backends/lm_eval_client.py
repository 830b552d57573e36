"""What lm-eval's process asks of an endpoint of ours: answers, and log-probabilities of a text's
tokens, many at a time and as patiently as a full server wants.

It knows HTTP and the routes' JSON; what is asked and why is in lm_eval_served.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from engine.errors import StageError
from engine.rows.records import Messages

OnAnswer = Callable[[int, int], None]  # done, total
REQUESTS_IN_FLIGHT = 64
TIMEOUT_S = 600.0  # of one answer
LATER = (429, 503)  # the server is full, or its replica is not there just now
MOST_WAITS = 600  # that one request is told to come later: about ten minutes
TRIES = 4  # of a request whose connection breaks, or at which the server fails
LONGEST_WAIT_S = 30.0
SHOWN = 400  # characters of a server's words


class Client:
    """One model behind `url` (it ends in /v1). StageError where nobody knows it there."""

    def __init__(self, url: str, model: str, key: str | None, *, first_wait_s: float = 2.0) -> None:
        self._first_wait_s = first_wait_s  # after a failure; twice as long after each further one
        self._url = url
        self._model = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http: httpx.AsyncClient | None = None
        self.max_model_len = self._length()

    def _length(self) -> int:
        """Tokens of prompt and answer, as the list of models says."""
        try:
            reply = httpx.get(
                f"{self._url}/models", headers=self._headers, timeout=TIMEOUT_S, trust_env=False
            )
        except httpx.HTTPError as error:
            raise StageError(f"nobody answers at {self._url} ({type(error).__name__})") from error
        cards = reply.json().get("data", []) if reply.is_success else []
        for card in cards:
            if card["id"] == self._model and isinstance(card.get("max_model_len"), int):
                return card["max_model_len"]
        raise StageError(
            f"{self._url} does not say how long a text {self._model} reads:"
            f" {reply.status_code} {reply.text[:SHOWN]}"
        )

    async def gather(
        self,
        asked: Sequence[Callable[[], Awaitable[Any]]],
        keep: Callable[[int, Any], None],
        on_answer: OnAnswer,
    ) -> list[Any]:
        """All answers in order; `keep` gets each as soon as it is there, by its number."""
        found: list[Any] = [None] * len(asked)
        turn = asyncio.Semaphore(REQUESTS_IN_FLIGHT)
        done = 0

        async def one(number: int) -> None:
            nonlocal done
            async with turn:
                found[number] = await asked[number]()
            keep(number, found[number])
            done += 1
            on_answer(done, len(asked))

        limits = httpx.Limits(max_connections=REQUESTS_IN_FLIGHT)
        async with httpx.AsyncClient(
            headers=self._headers, timeout=TIMEOUT_S, limits=limits, trust_env=False
        ) as self._http:
            await asyncio.gather(*map(one, range(len(asked))))
        return found

    async def chat(self, messages: Messages, body: dict[str, Any]) -> str:
        """The answer to a conversation, without its reasoning."""
        reply = await self._post("chat/completions", body | {"messages": messages})
        return reply["choices"][0]["message"]["content"] or ""

    async def complete(self, ids: Sequence[int], body: dict[str, Any]) -> str:
        """How a text goes on."""
        reply = await self._post("completions", body | {"prompt": list(ids)})
        return reply["choices"][0]["text"]

    async def logprobs(self, ids: Sequence[int]) -> list[tuple[float, int]]:
        """(log-probability, rank from 1) of each token of a text; (nan, 0) of the first, which
        nothing foretells."""
        body = {"prompt": list(ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1}
        reply = await self._post("completions", body)
        positions = reply["choices"][0].get("prompt_logprobs")
        if not isinstance(positions, list) or len(positions) != len(ids):
            raise StageError(
                f"{self._url} gave no prompt_logprobs for {self._model}; log-likelihood tasks need"
                " a server that does (vLLM): leave them out"
            )
        found = [(float("nan"), 0)]
        for token, position in zip(ids[1:], positions[1:], strict=True):
            entry = position[str(token)]
            found.append((entry["logprob"], entry["rank"]))
        return found

    async def _post(self, route: str, body: dict[str, Any]) -> Any:
        assert self._http is not None
        waits = 0
        failures = 0
        while True:
            try:
                reply = await self._http.post(
                    f"{self._url}/{route}", json=body | {"model": self._model}
                )
            except httpx.HTTPError as error:
                wait_s = self._first_wait_s * 2**failures
                failures += 1
                said = f"{type(error).__name__} at {self._url}"
            else:
                if reply.is_success:
                    return reply.json()
                said = f"{self._url}/{route} answers {reply.status_code}: {_words(reply)}"
                if reply.status_code in LATER:
                    waits += 1
                    wait_s = _wait_s(reply)
                elif reply.status_code >= 500:
                    wait_s = self._first_wait_s * 2**failures
                    failures += 1
                else:
                    raise StageError(said)
            if failures >= TRIES or waits >= MOST_WAITS:
                raise StageError(f"{said} ({failures + waits} times)")
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))


def _wait_s(reply: httpx.Response) -> float:
    """Seconds that the server asks for; one where it does not say."""
    try:
        return max(0.1, float(reply.headers.get("retry-after", "")))
    except ValueError:
        return 1.0


def _words(reply: httpx.Response) -> str:
    try:
        told = reply.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        told = reply.text
    return str(told)[:SHOWN]
