"""Teachers behind an API, through the vendors' own clients: OpenAI protocol (GPT-4 class, Azure, DeepSeek, a vLLM server) and Claude.

The clients build requests and try again, with backoff and Retry-After; they send through a Gate (api_gate.py), which decides
when. Keys come from the environment variable that the job names; no error's text holds a key or repeats a prompt.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from dataclasses import replace
from typing import Any

import numpy as np

from engine.backends.answering import Generation, PromptTooLong, Sampling
from engine.backends.api_gate import REFUSALS, Gate, lost_tries, new_request
from engine.errors import StageError
from engine.records import Messages
from engine.spec import CaptureSpec, TeacherSpec

ECHO = 20  # characters in a row, of the prompt, that make a server's message unfit for a log
TOO_LONG = re.compile(r"context.?(length|limit|window)|prompt is too long|maximum model length", re.IGNORECASE)


class ApiError(Exception):
    """A request without an answer: type, status and the server's words, as far as they do not repeat the prompt."""

    lost_tries = 0


class _ApiTeacher:
    """What both protocols share: conversations as they are, lengths that the server checks, and what its errors mean."""

    max_model_len = None

    def __init__(self, teacher: TeacherSpec, capture: CaptureSpec, *, device: str, timeout_s: float, attempts: int) -> None:
        self._key = os.environ.get(teacher.api_key_env or "", "")
        if not self._key:
            raise StageError(f"teacher '{teacher.name}': the environment variable {teacher.api_key_env}, for its API key, is not set here")
        for library in ("openai", "anthropic", "httpx2", "httpcore2"):
            logging.getLogger(library).setLevel(logging.WARNING)  # below that they log prompts, and a line per request
        self._teacher, self._top_k, self._has_answered = teacher, capture.top_k, False
        self._gate = Gate(teacher, timeout_s=timeout_s, attempts=attempts)
        self._client, self._vendors_error = self._connect(
            api_key=self._key, timeout=timeout_s, max_retries=attempts - 1 + REFUSALS, http_client=self._gate
        )
        self.metadata: dict[str, Any] = {}

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        raise NotImplementedError

    async def _ask(self, prompt: Messages, sampling: Sampling) -> Generation:
        raise NotImplementedError

    def encode(self, conversations: list[Messages]) -> list[Messages]:
        """The API takes conversations as they are."""
        return conversations

    def decode(self, token_ids: list[Any]) -> list[str]:
        """Never needed: the API gives text."""
        raise TypeError("an API teacher returns text, not token ids")

    def figures(self) -> dict[str, float]:
        """For the live view: requests sent, how many were told to come later, requests that may be open, seconds of pause left."""
        pause = max(0.0, self._gate.resume_at - time.monotonic())
        return {"requests": self._gate.sent, "refused": self._gate.refused, "concurrency": int(self._gate.concurrency), "pause_s": pause}

    async def open(self) -> None:
        """One free call, so that a wrong key or address is a StageError before the first paid one; a server may lack the route."""
        new_request()
        try:
            await self._client.models.list()
        except self._vendors_error as error:
            if getattr(error, "status_code", None) not in (404, 405):
                raise self._stage_error(self._describe(error, [])) from None

    async def generate(self, prompt: Messages, sampling: Sampling) -> Generation:
        """One answer. PromptTooLong or ApiError for this request alone; StageError if no other one can succeed either."""
        new_request()
        try:
            answer = await self._ask(prompt, sampling)
            self._has_answered = True
            return replace(answer, lost_tries=lost_tries.get())
        except self._vendors_error as error:
            status, said = getattr(error, "status_code", None), str(error.body)
            if status == 400 and "content_filter" in said:  # Azure refuses a prompt with an error
                return Generation("content_filter", text="")
            text = self._describe(error, prompt)
            # Once something was answered, 403 and 404 are about the prompt (a moderator's no), not about the account or the model.
            if status in (401, 402) or (status in (403, 404) and not self._has_answered) or "insufficient_quota" in said:
                raise self._stage_error(text) from None
            too_long = status == 413 or (status in (400, 422) and TOO_LONG.search(said))
            problem = (PromptTooLong if too_long else ApiError)(text)
            problem.lost_tries = lost_tries.get()
            raise problem from None

    def _body(self, **fields: Any) -> dict[str, Any]:
        """Fields of a request; `extra_body` wins, and a null there takes a field out for servers that do not know it."""
        return {name: value for name, value in (fields | self._teacher.extra_body).items() if value is not None}

    def _stage_error(self, text: str) -> StageError:
        teacher = self._teacher
        return StageError(
            f"teacher '{teacher.name}' cannot be asked: {text}; check the key in {teacher.api_key_env}, its account's rights and credit,"
            f" model '{teacher.model}' and base_url {teacher.base_url or '(the vendor)'}"
        )

    def _describe(self, error: Any, prompt: Messages) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        detail = body["error"] if isinstance(body.get("error"), dict) else body
        message = str(detail.get("message") or "").replace(self._key, "***")[:300]
        runs = [message[start : start + ECHO] for start in range(len(message) - ECHO + 1)]
        texts = [str(turn["content"]) for turn in prompt]
        echoed = any(any(run in text for run in runs) if len(text) >= ECHO else text and text in message for text in texts)
        return f"{type(error).__name__} {getattr(error, 'status_code', '')}: {'(the message repeats the prompt)' if echoed else message}"


class OpenAITeacher(_ApiTeacher):
    """Any server of the OpenAI chat completions protocol; Azure OpenAI if the teacher has an `api_version`."""

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        import openai

        url, version = self._teacher.base_url, self._teacher.api_version
        if version:
            return openai.AsyncAzureOpenAI(azure_endpoint=url, api_version=version, **arguments), openai.APIError
        return openai.AsyncOpenAI(base_url=url, **arguments), openai.APIError

    async def _ask(self, prompt: Messages, sampling: Sampling) -> Generation:
        # One more than k: a vLLM server lists the sampled token in place of the last one. The protocol ends at 20, so at
        # k = 20 a sampled token outside the 20 most likely stands for the twentieth.
        top = min(self._top_k + 1, 20) if self._top_k else None
        reply = await self._client.chat.completions.create(
            model=self._teacher.model, messages=prompt, extra_body=self._body(
                temperature=sampling.temperature, top_p=sampling.top_p, max_completion_tokens=sampling.max_tokens, seed=sampling.seed,
                logprobs=top and True, top_logprobs=top,
            ),
        )
        if not reply.choices:
            raise ApiError("the answer holds no choices")
        choice, usage = reply.choices[0], reply.usage
        message = choice.message
        positions = choice.logprobs.content if self._top_k and choice.logprobs else None
        return Generation(
            "content_filter" if message.refusal else choice.finish_reason, text=_storable(message.content or ""),
            reasoning=_storable(getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)),
            prompt_tokens=usage and usage.prompt_tokens, completion_tokens=usage and usage.completion_tokens,
            **(signal_of_positions(positions, self._top_k) if positions else {}),
        )


def signal_of_positions(positions: list[Any], k: int) -> dict[str, Any]:
    """T log-probabilities in OpenAI's form -> the signal fields of a Generation: each position's k most likely tokens, in order.

    Ids where all tokens are `token_id:123`; else texts, filled up with "" and -inf where the API gives fewer than k.
    ApiError if there are ids, but fewer than k.
    """
    rows = [sorted(((e.token, e.logprob) for e in position.top_logprobs), key=lambda e: -e[1])[:k] for position in positions]
    fewest = min(len(row) for row in rows)
    entries = [entry for row in rows for entry in [*row, *[("", -math.inf)] * (k - len(row))]]
    logprobs = np.asarray([logprob for _, logprob in entries])
    signal = {
        "token_logprobs": np.asarray([position.logprob for position in positions], np.float32),
        "topk_logprobs": logprobs.astype(np.float32),
        "tail": np.clip(1.0 - np.exp(logprobs).reshape(-1, k).sum(axis=1), 0.0, 1.0).astype(np.float32),
    }
    tokens, most_likely = [position.token for position in positions], [token for token, _ in entries]
    if not all(token.startswith("token_id:") for token in tokens):
        return signal | {"topk_tokens": [_storable(token) for token in most_likely]}
    if fewest < k:
        raise ApiError(f"the server gives {fewest} log-probabilities at a position; capture.top_k wants {k}")
    return signal | {"token_ids": _ids(tokens), "topk_ids": _ids(most_likely)}


def _storable(text: str | None) -> str | None:
    """Half of a surrogate pair, which JSON may hold and Parquet may not, becomes a question mark."""
    return text and text.encode(errors="replace").decode()


def _ids(tokens: list[str]) -> np.ndarray:
    return np.asarray([int(token.removeprefix("token_id:")) for token in tokens], np.int32)


class AnthropicTeacher(_ApiTeacher):
    """Claude, or a server of the Anthropic messages protocol."""

    _REASONS = {  # noqa: RUF012
        "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
        "refusal": "content_filter",
    }

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        import anthropic

        self._top_k = 0
        return anthropic.AsyncAnthropic(base_url=self._teacher.base_url, **arguments), anthropic.APIError

    async def _ask(self, prompt: Messages, sampling: Sampling) -> Generation:
        """One message; system messages go where this protocol wants them."""
        reply = await self._client.messages.create(
            model=self._teacher.model, messages=[turn for turn in prompt if turn["role"] != "system"], max_tokens=sampling.max_tokens,
            extra_body=self._body(
                # The client has no arguments for these two any more; the protocol still takes them, newer models not both.
                temperature=sampling.temperature, top_p=sampling.top_p if sampling.top_p < 1 else None,
                system="\n\n".join(turn["content"] for turn in prompt if turn["role"] == "system") or None,
            ),
        )
        blocks = {kind: [block for block in reply.content if block.type == kind] for kind in ("text", "thinking")}
        return Generation(
            self._REASONS.get(reply.stop_reason, str(reply.stop_reason)), text=_storable("".join(block.text for block in blocks["text"])),
            reasoning=_storable("\n".join(block.thinking for block in blocks["thinking"])) or None,
            prompt_tokens=reply.usage.input_tokens, completion_tokens=reply.usage.output_tokens,
        )
