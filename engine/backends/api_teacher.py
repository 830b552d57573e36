"""Teachers behind an API, through the vendors' own clients: OpenAI protocol (GPT-4 class, Azure,
DeepSeek, a vLLM server) and Claude.

The clients build requests and try again, with backoff and Retry-After; they send through a Gate
(api_gate.py), which decides when. Keys come from the environment variable that the job names; no
error's text holds a key or repeats a prompt.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import math
import os
import re
import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np

from engine.asking.engine import Generation, PromptTooLong, Sampling
from engine.backends.api_gate import (
    REFUSALS,
    UNREACHED,
    Gate,
    last_usage,
    last_words,
    lose_reply,
    lost_tokens,
    lost_tries,
    never_fits,
    new_request,
    words_of,
)
from engine.errors import StageError
from engine.job.spec import CaptureSpec, TeacherSpec
from engine.rows.records import Messages

_log = logging.getLogger(__name__)

ECHO = 20  # characters in a row, of the prompt, that make a server's message unfit for a log
KEY_START = 8  # characters of a key that give it away


class ApiError(Exception):
    """A request without an answer: type, status and the server's words, as far as they do not
    repeat the prompt."""


def _billed(error: Exception) -> Exception:
    """The error with what its request was charged: the caller may count it, whatever the request
    came to."""
    error.lost_tries, error.lost_tokens = lost_tries.get(), lost_tokens.get()
    return error


class _ApiTeacher:
    """What both protocols share: conversations as they are, lengths that the server checks, and
    what its errors mean."""

    max_model_len = None

    def __init__(
        self,
        teacher: TeacherSpec,
        capture: CaptureSpec,
        *,
        device: str,
        timeout_s: float,
        attempts: int,
    ) -> None:
        self._key = os.environ.get(teacher.api_key_env or "", "")
        if not self._key:
            raise StageError(
                f"teacher '{teacher.name}': the environment variable {teacher.api_key_env}, for its"
                " API key, is not set here"
            )
        for library in ("openai", "anthropic", "httpx2", "httpcore2"):
            logging.getLogger(library).setLevel(
                logging.WARNING
            )  # below that they log prompts, and a line per request
        self._teacher, self._top_k, self._has_answered = teacher, capture.top_k, False
        self._gate = Gate(teacher, timeout_s=timeout_s, attempts=attempts)
        self._client, self._vendors_error = self._connect(
            api_key=self._key,
            timeout=timeout_s,
            max_retries=attempts - 1 + REFUSALS,
            http_client=self._gate,
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
        """For the live view: requests sent, how many were told to come later, requests that may be
        open, seconds of pause left."""
        pause = max(0.0, self._gate.resume_at - time.monotonic())
        return {
            "requests": self._gate.sent,
            "refused": self._gate.refused,
            "concurrency": int(self._gate.concurrency),
            "pause_s": pause,
        }

    async def open(self) -> None:
        """One free call, so that a wrong key or address is a StageError before the first paid one.

        Any other failure is a warning: a server may lack the route, or a key the right to it.
        """
        new_request()
        try:
            await self._client.with_options(max_retries=0).models.list()
        except Exception as error:  # noqa: BLE001 - also a list that the client cannot read
            said, status = self._describe(error, []), getattr(error, "status_code", None)
            headers = getattr(getattr(error, "response", None), "headers", {})
            if status == 401 or UNREACHED in headers:
                raise self._stage_error(said) from None
            if status not in (404, 405):
                _log.warning(
                    "teacher '%s': its models cannot be listed (%s); it is asked all the same",
                    self._teacher.name,
                    said,
                )

    async def generate(self, prompt: Messages, sampling: Sampling) -> Generation:
        """One answer. PromptTooLong or ApiError for this request alone; StageError if no other one
        can succeed either."""
        new_request(sampling.tries)
        try:
            answer = await self._ask(prompt, sampling)
            self._has_answered = True
            told = last_usage.get() or (None, None)
            if not told[0] or ((answer.text or answer.reasoning) and not told[1]):
                told = (None, None)  # no tokens for something is no count
            lost = {"lost_tries": lost_tries.get(), "lost_tokens": lost_tokens.get()}
            return replace(answer, prompt_tokens=told[0], completion_tokens=told[1], **lost)
        except self._vendors_error as error:
            status, said = getattr(error, "status_code", None), str(error.body)
            if status == 400 and "content_filter" in said:  # Azure refuses a prompt with an error
                return Generation("content_filter", text="")
            text = self._describe(error, prompt)
            # Once something was answered, 403 and 404 are about the prompt (a moderator's no), not
            # about the account or the model.
            if (
                status in (401, 402)
                or (status in (403, 404) and not self._has_answered)
                or "insufficient_quota" in said
            ):
                raise self._stage_error(text) from None
            too_long = status is not None and never_fits(status, said)
            lose_reply()
            raise _billed((PromptTooLong if too_long else ApiError)(text)) from None
        except Exception as error:  # noqa: BLE001 - a reply that came is paid for, whatever it holds
            lose_reply()
            said = (
                str(error)
                if isinstance(error, ApiError)
                else f"the answer cannot be read ({type(error).__name__})"
            )
            words = self._unkeyed(last_words.get())[:300]
            raise _billed(
                ApiError(f"{said}: {words}" if words and not _echoes(words, prompt) else said)
            ) from None

    def _body(self, **fields: Any) -> dict[str, Any]:
        """Fields of a request; `extra_body` wins, and a null there takes a field out for servers
        that do not know it."""
        return {
            name: value
            for name, value in (fields | self._teacher.extra_body).items()
            if value is not None
        }

    def _stage_error(self, text: str) -> StageError:
        teacher = self._teacher
        return StageError(
            f"teacher '{teacher.name}' cannot be asked: {text}; check the key in"
            f" {teacher.api_key_env}, its account's rights and credit,"
            f" model '{teacher.model}' and base_url {teacher.base_url or '(the vendor)'}"
        )

    def _describe(self, error: Any, prompt: Messages) -> str:
        response = getattr(
            error, "response", None
        )  # whole: the clients hand on what stands under `error` alone
        message = self._unkeyed(
            (words_of(response.text) if response is not None else "")
            or words_of(getattr(error, "body", None))
        )[:300]
        told = "(the message repeats the prompt)" if _echoes(message, prompt) else message
        return f"{type(error).__name__} {getattr(error, 'status_code', '')}: {told}"

    def _unkeyed(self, message: str) -> str:
        """The message without the key, however it is spelled there, whole or begun."""
        key = self._key
        spellings = {
            key,
            quote(key, safe=""),
            quote_plus(key),
            html.escape(key),
            key.replace("/", "\\/"),
            json.dumps(key)[1:-1],
            *(
                "".join(c if c.isalnum() else form.format(ord(c)) for c in key)
                for form in ("\\u{:04x}", "&#{};", "&#x{:x};")
            ),
            base64.b64encode(key.encode()).decode().rstrip("="),
        }
        for spelled in sorted(spellings, key=len, reverse=True):
            begun = (
                re.escape(spelled[:KEY_START]) + r"[^\s\"'<>,;]*"
                if len(spelled) > KEY_START
                else re.escape(spelled)
            )
            message = re.sub(begun, "***", message, flags=re.IGNORECASE)
        return message


def _echoes(message: str, prompt: Messages) -> bool:
    """Whether a server's message repeats what it was asked: a run of it, or a short turn in
    quotes."""
    runs = [message[start : start + ECHO] for start in range(len(message) - ECHO + 1)]
    for text in (str(turn["content"]).strip() for turn in prompt):
        if len(text) >= ECHO and any(run in text for run in runs):
            return True
        if text and len(text) < ECHO and re.search(rf"[\"'`]{re.escape(text)}[\"'`]", message):
            return True
    return False


class OpenAITeacher(_ApiTeacher):
    """Any server of the OpenAI chat completions protocol; Azure OpenAI if the teacher has an
    `api_version`."""

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        import openai

        url, version = self._teacher.base_url, self._teacher.api_version
        if version:
            return openai.AsyncAzureOpenAI(
                azure_endpoint=url, api_version=version, **arguments
            ), openai.APIError
        return openai.AsyncOpenAI(base_url=url, **arguments), openai.APIError

    async def _ask(self, prompt: Messages, sampling: Sampling) -> Generation:
        # One more than k: a vLLM server lists the sampled token in place of the last one. The
        # protocol ends at 20, so at k = 20 a sampled token outside the 20 most likely stands for
        # the twentieth.
        top = min(self._top_k + 1, 20) if self._top_k else None
        reply = await self._client.chat.completions.create(
            model=self._teacher.model,
            messages=prompt,
            extra_body=self._body(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_completion_tokens=sampling.max_tokens,
                seed=sampling.seed,
                logprobs=top and True,
                top_logprobs=top,
            ),
        )
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise ApiError("the answer holds no choices")
        choice = choices[0]
        message = getattr(choice, "message", None)
        said = (
            message.content if message else getattr(choice, "text", None)
        )  # the older protocol's place
        if message is None and said is None:
            raise ApiError("the answer's choice holds no message")
        text, thought, refused = _parts_of(said)
        apart = next(
            filter(
                None, (getattr(message, name, None) for name in ("reasoning_content", "reasoning"))
            ),
            None,
        )
        positions = choice.logprobs.content if self._top_k and choice.logprobs else None
        return Generation(
            "content_filter"
            if refused or getattr(message, "refusal", None)
            else _reason_of(choice.finish_reason),
            text=_storable(text),
            reasoning=_storable(_text_of(apart) or thought),
            **(signal_of_positions(positions, self._top_k) if positions else {}),
        )


# What servers of either protocol say of an ending, in small letters -> OpenAI's word for it.
_REASONS = {
    **dict.fromkeys(
        (
            "stop",
            "eos",
            "eos_token",
            "stop_sequence",
            "end_turn",
            "end_of_turn",
            "complete",
            "completed",
            "finish",
        ),
        "stop",
    ),
    **dict.fromkeys(
        (
            "length",
            "max_tokens",
            "max_length",
            "model_length",
            "max_output_tokens",
            "max_new_tokens",
            "token_limit",
            "model_context_window_exceeded",
        ),
        "length",
    ),
    **dict.fromkeys(
        (
            "content_filter",
            "refusal",
            "safety",
            "content-filter",
            "prohibited_content",
            "blocklist",
        ),
        "content_filter",
    ),
}


def _reason_of(ending: Any) -> str:
    """OpenAI's word for how an answer ended; a word that nobody knows stays as it is."""
    if isinstance(ending, dict):
        ending = next(
            (ending[name] for name in ("type", "reason") if isinstance(ending.get(name), str)),
            ending,
        )
    return _REASONS.get(str(ending).lower(), str(ending))


def _parts_of(content: Any) -> tuple[str, str | None, bool]:
    """Text and reasoning of a message's content, and whether it refuses: a string, or parts, of
    which some are the model's thinking."""
    said: dict[bool, list[str]] = {False: [], True: []}
    refusals = []

    def read(part: Any, thinks: bool) -> None:
        if isinstance(part, str):
            said[thinks].append(part)
        elif isinstance(part, list):
            for one in part:
                read(one, thinks)
        elif isinstance(part, dict):
            thinks = thinks or part.get("type") in ("thinking", "reasoning")
            for name in ("thinking", "reasoning", "summary"):
                read(part.get(name), True)
            for name in ("text", "content", "value"):
                read(part.get(name), thinks)
            refusals.append(part.get("refusal"))
        elif part is not None:
            raise ApiError(f"the answer's content holds a part of type {type(part).__name__}")

    read(content, False)
    return "".join(said[False]), "".join(said[True]) or None, any(refusals)


def _text_of(content: Any) -> str | None:
    """All text of a content, thinking or not."""
    text, thought, _ = _parts_of(content)
    return (thought or "") + text or None


def signal_of_positions(positions: list[Any], k: int) -> dict[str, Any]:
    """T log-probabilities in OpenAI's form -> the signal fields of a Generation: each position's k
    most likely tokens, in order.

    Ids where all tokens are `token_id:123`; else texts, filled up with "" and -inf where the API
    gives fewer than k. ApiError if there are ids, but fewer than k.
    """
    rows = [
        sorted(((e.token, e.logprob) for e in position.top_logprobs), key=lambda e: -e[1])[:k]
        for position in positions
    ]
    fewest = min(len(row) for row in rows)
    entries = [entry for row in rows for entry in [*row, *[("", -math.inf)] * (k - len(row))]]
    logprobs = np.asarray([logprob for _, logprob in entries])
    signal = {
        "token_logprobs": np.asarray([position.logprob for position in positions], np.float32),
        "topk_logprobs": logprobs.astype(np.float32),
        "tail": np.clip(1.0 - np.exp(logprobs).reshape(-1, k).sum(axis=1), 0.0, 1.0).astype(
            np.float32
        ),
    }
    tokens, most_likely = (
        [position.token for position in positions],
        [token for token, _ in entries],
    )
    if not all(token.startswith("token_id:") for token in tokens):
        return signal | {"topk_tokens": [_storable(token) for token in most_likely]}
    if fewest < k:
        raise ApiError(
            f"the server gives {fewest} log-probabilities at a position; capture.top_k wants {k}"
        )
    return signal | {"token_ids": _ids(tokens), "topk_ids": _ids(most_likely)}


def _storable(text: str | None) -> str | None:
    """Half of a surrogate pair, which JSON may hold and Parquet may not, becomes a question
    mark."""
    return text and text.encode(errors="replace").decode()


def _ids(tokens: list[str]) -> np.ndarray:
    return np.asarray([int(token.removeprefix("token_id:")) for token in tokens], np.int32)


class AnthropicTeacher(_ApiTeacher):
    """Claude, or a server of the Anthropic messages protocol."""

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        import anthropic

        self._top_k = 0
        return anthropic.AsyncAnthropic(
            base_url=self._teacher.base_url, **arguments
        ), anthropic.APIError

    async def _ask(self, prompt: Messages, sampling: Sampling) -> Generation:
        """One message; system messages go where this protocol wants them."""
        reply = await self._client.messages.create(
            model=self._teacher.model,
            messages=[turn for turn in prompt if turn["role"] != "system"],
            max_tokens=sampling.max_tokens,
            extra_body=self._body(
                # The client has no arguments for these two any more; the protocol still takes them,
                # newer models not both.
                temperature=sampling.temperature,
                top_p=sampling.top_p if sampling.top_p < 1 else None,
                system="\n\n".join(turn["content"] for turn in prompt if turn["role"] == "system")
                or None,
            ),
        )
        if isinstance(reply.content, str):
            return Generation(_reason_of(reply.stop_reason), text=_storable(reply.content))
        blocks = {
            kind: [block for block in reply.content if block.type == kind]
            for kind in ("text", "thinking")
        }
        thoughts = filter(None, (_text_of(block.thinking) for block in blocks["thinking"]))
        return Generation(
            _reason_of(reply.stop_reason),
            text=_storable("".join(_text_of(block.text) or "" for block in blocks["text"])),
            reasoning=_storable("\n".join(thoughts)) or None,
        )
