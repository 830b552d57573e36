"""Teachers behind an API, through the vendors' own clients: OpenAI protocol (GPT-4 class, Azure,
DeepSeek, a vLLM server) and Claude.

The clients build requests and try again, with backoff and Retry-After; they send through a Gate
(api_gate.py), which decides when. Keys come from the environment variable that the job names; no
error's text holds a key or repeats a prompt. What replies say is read in api_words.py and
api_signal.py.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import Any, ClassVar, Literal

import httpx2

from engine.asking.engine import AnswerEngine, Generation, PromptTooLong, Sampling
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
    note_reply,
    usage_of,
)
from engine.backends.api_signal import signal_of_positions
from engine.backends.api_tools import (
    anthropic_calls,
    anthropic_messages,
    anthropic_tools,
    openai_calls,
    openai_messages,
)
from engine.backends.api_words import (
    ApiError,
    echoes,
    parts_of,
    reason_of,
    storable,
    text_of,
    without_key,
    words_of,
)
from engine.errors import StageError
from engine.job.spec import ApiTeacher, CaptureSpec, OpenAITeacherSpec
from engine.rows.tools import Conversation

_log = logging.getLogger(__name__)

SHOWN = 300  # characters of a server's message
MOST_TOP = 20  # log-probabilities of a position, by the OpenAI protocol


class ApiPromptTooLong(ApiError, PromptTooLong):
    """The server's word that a prompt does not fit its model."""


class ApiEngine(AnswerEngine):
    """What both protocols share: conversations as they are, lengths that the server checks, and
    what its errors mean."""

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
    ) -> None:
        self._key = os.environ.get(teacher.api_key_env, "")
        if not self._key:
            raise StageError(
                f"teacher '{teacher.name}': the environment variable {teacher.api_key_env}, for its"
                " API key, is not set here"
            )
        for library in ("openai", "anthropic", "httpx2", "httpcore2"):
            # Below that they log prompts, and a line per request.
            logging.getLogger(library).setLevel(logging.WARNING)
        self._teacher = teacher
        self._top_k = capture.top_k
        self._has_answered = False
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

    def body(self, prompt: Conversation, sampling: Sampling) -> dict[str, Any]:
        """A request in the protocol's form."""
        raise NotImplementedError

    async def _ask(self, body: dict[str, Any]) -> Any:
        """The reply, as the vendor's client has it."""
        raise NotImplementedError

    def _reply(self, body: Any) -> Any:
        """The same of a reply's body that came otherwise."""
        raise NotImplementedError

    def _read(self, reply: Any) -> Generation:
        raise NotImplementedError

    def encode(self, conversations: list[Conversation]) -> list[Conversation]:
        """The API takes conversations as they are."""
        return conversations

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
            said = self._describe(error, Conversation([]))
            status = getattr(error, "status_code", None)
            headers = getattr(getattr(error, "response", None), "headers", {})
            if status == 401 or UNREACHED in headers:
                raise self._stage_error(said) from None
            if status not in (404, 405):
                _log.warning(
                    "teacher '%s': its models cannot be listed (%s); it is asked all the same",
                    self._teacher.name,
                    said,
                )

    async def generate(self, prompt: Conversation, sampling: Sampling) -> Generation:
        """One answer. PromptTooLong or ApiError for this request alone; StageError if no other one
        can succeed either."""
        new_request(sampling.tries)
        try:
            answer = self._read(await self._ask(self.body(prompt, sampling)))
        except self._vendors_error as error:
            if _is_filtered(getattr(error, "status_code", None), _body_of(error)):
                return Generation("content_filter", text="")
            raise self._meaning_of(error, prompt) from None
        except Exception as error:  # noqa: BLE001 - a reply that came is paid for, whatever it holds
            lose_reply()
            raise _charged(ApiError(self._unread(error, prompt))) from None
        self._has_answered = True
        return _counted(answer)

    # In batches (api_batch.py)

    def batch_client(self, timeout_s: float) -> tuple[Any, type[Exception]]:
        """The vendor's client without the gate (batches are few, and ask for files, not answers),
        and its error. It tries nothing again: a batch that was asked for twice may be made
        twice."""
        client = httpx2.AsyncClient(timeout=timeout_s, follow_redirects=True)
        own = self._client.with_options(http_client=client, max_retries=0)
        return own, self._vendors_error

    def answer_in(self, body: Any, prompt: Conversation) -> Generation:
        """The answer that a reply's body holds, as if it had come by itself. ApiError where it
        holds none."""
        new_request()
        note_reply(body, usage_of(body))
        try:
            return _counted(self._read(self._reply(body)))
        except Exception as error:  # noqa: BLE001 - it is paid for, whatever it holds
            lose_reply()
            raise _charged(ApiError(self._unread(error, prompt))) from None

    def refusal_in(self, status: int | None, said: str, prompt: Conversation) -> Exception | None:
        """What an error in place of an answer means for its row; None where the server's filter
        refused the prompt."""
        if _is_filtered(status, said):
            return None
        text = f"{status or ''}: {self.shown(words_of(said), prompt)}".removeprefix(": ")
        if status is not None and never_fits(status, said):
            return ApiPromptTooLong(text)
        return ApiError(text)

    def unasked(self, error: Exception) -> StageError:
        """Nothing can be asked, by the vendor's error."""
        return self._stage_error(self.described(error))

    def described(self, error: Exception) -> str:
        """The vendor's error in words."""
        return self._describe(error, Conversation([]))

    # What servers say

    def _meaning_of(self, error: Exception, prompt: Conversation) -> StageError | ApiError:
        """What the vendor's error is to the job: the end of the stage, or of this request alone."""
        status = getattr(error, "status_code", None)
        said = _body_of(error)
        text = self._describe(error, prompt)
        # Once something was answered, 403 and 404 are about the prompt (a moderator's no), not
        # about the account or the model.
        refuses_all = status in (401, 402) or (status in (403, 404) and not self._has_answered)
        if refuses_all or "insufficient_quota" in said:
            return self._stage_error(text)
        lose_reply()
        if status is not None and never_fits(status, said):
            return _charged(ApiPromptTooLong(text))
        return _charged(ApiError(text))

    def _unread(self, error: Exception, prompt: Conversation) -> str:
        """Why a reply with status 200 is no answer, with the server's sentence where it has one."""
        said = f"the answer cannot be read ({type(error).__name__})"
        if isinstance(error, ApiError):
            said = str(error)
        words = without_key(last_words.get(), self._key)[:SHOWN]
        return f"{said}: {words}" if words and not echoes(words, prompt) else said

    def shown(self, words: str, prompt: Conversation) -> str:
        """A server's words without the key, and without the prompt."""
        message = without_key(words, self._key)[:SHOWN]
        return "(the message repeats the prompt)" if echoes(message, prompt) else message

    def _fields(self, **fields: Any) -> dict[str, Any]:
        """Fields of a request; `extra_body` wins, and a null there takes a field out for servers
        that do not know it."""
        fields |= self._teacher.extra_body
        return {name: value for name, value in fields.items() if value is not None}

    def _stage_error(self, text: str) -> StageError:
        teacher = self._teacher
        return StageError(
            f"teacher '{teacher.name}' cannot be asked: {text}; check the key in"
            f" {teacher.api_key_env}, its account's rights and credit,"
            f" model '{teacher.model}' and base_url {teacher.base_url or '(the vendor)'}"
        )

    def _describe(self, error: Exception, prompt: Conversation) -> str:
        response = getattr(error, "response", None)
        # The whole body first: the clients hand on what stands under `error` alone.
        words = words_of(response.text) if response is not None else ""
        words = words or words_of(getattr(error, "body", None))
        message = self.shown(words, prompt)
        return f"{type(error).__name__} {getattr(error, 'status_code', '')}: {message}"


def _body_of(error: Exception) -> str:
    return str(getattr(error, "body", None))


def _is_filtered(status: int | None, said: str) -> bool:
    """Azure refuses a prompt with an error."""
    return status == 400 and "content_filter" in said


def _charged(error: ApiError) -> ApiError:
    """The error with what its request was charged."""
    error.lost_tries = lost_tries.get()
    error.lost_tokens = lost_tokens.get()
    return error


def _counted(answer: Generation) -> Generation:
    """The answer with the tokens that its reply says, and what its tries before were charged."""
    tokens_in, tokens_out = last_usage.get() or (None, None)
    says_something = bool(answer.text or answer.reasoning or answer.calls)
    if not tokens_in or (says_something and not tokens_out):
        tokens_in = tokens_out = None  # no tokens for something is no count
    return replace(
        answer,
        prompt_tokens=tokens_in,
        completion_tokens=tokens_out,
        lost_tries=lost_tries.get(),
        lost_tokens=lost_tokens.get(),
    )


class OpenAITeacher(ApiEngine):
    """Any server of the OpenAI chat completions protocol; Azure OpenAI if the teacher has an
    `api_version`."""

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        import openai

        assert isinstance(self._teacher, OpenAITeacherSpec)
        url, version = self._teacher.base_url, self._teacher.api_version
        if version:
            arguments |= {"azure_endpoint": url, "api_version": version}
            return openai.AsyncAzureOpenAI(**arguments), openai.APIError
        return openai.AsyncOpenAI(base_url=url, **arguments), openai.APIError

    def body(self, prompt: Conversation, sampling: Sampling) -> dict[str, Any]:
        """A chat completion; `extra_body` wins."""
        # One more than k: a vLLM server lists the sampled token in place of the last one. At
        # k = 20 a sampled token outside the 20 most likely stands for the twentieth.
        top = min(self._top_k + 1, MOST_TOP) if self._top_k else None
        return {
            "model": self._teacher.model,
            "messages": openai_messages(prompt),
        } | self._fields(
            tools=prompt.tools or None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_completion_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=top and True,
            top_logprobs=top,
        )

    async def _ask(self, body: dict[str, Any]) -> Any:
        create = self._client.chat.completions.create
        return await create(model=body["model"], messages=body["messages"], extra_body=body)

    def _reply(self, body: Any) -> Any:
        from openai.types.chat import ChatCompletion

        return ChatCompletion.construct(**body)

    def _read(self, reply: Any) -> Generation:
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise ApiError("the answer holds no choices")
        choice = choices[0]
        message = getattr(choice, "message", None)
        # `text` is the older protocol's place.
        content = message.content if message else getattr(choice, "text", None)
        if message is None and content is None:
            raise ApiError("the answer's choice holds no message")
        text, thought, is_refused = parts_of(content)
        apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        signal = {}
        if self._top_k and choice.logprobs and choice.logprobs.content:
            signal = signal_of_positions(choice.logprobs.content, self._top_k)
        reason = "content_filter"
        if not is_refused and not getattr(message, "refusal", None):
            reason = reason_of(choice.finish_reason)
        reasoning = text_of(apart or None) or thought
        calls = openai_calls(message)
        return Generation(
            reason, text=storable(text), reasoning=storable(reasoning), calls=calls, **signal
        )


class AnthropicTeacher(ApiEngine):
    """Claude, or a server of the Anthropic messages protocol."""

    def _connect(self, **arguments: Any) -> tuple[Any, type[Exception]]:
        import anthropic

        self._top_k = 0
        client = anthropic.AsyncAnthropic(base_url=self._teacher.base_url, **arguments)
        return client, anthropic.APIError

    def body(self, prompt: Conversation, sampling: Sampling) -> dict[str, Any]:
        """One message; system messages and tools go where this protocol wants them."""
        system = [turn["content"] for turn in prompt.messages if turn["role"] == "system"]
        # The client has no arguments for these two any more; the protocol still takes them, newer
        # models not both.
        fields = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.top_p >= 1:
            del fields["top_p"]
        return {
            "model": self._teacher.model,
            "messages": anthropic_messages(prompt),
            "max_tokens": sampling.max_tokens,
        } | self._fields(
            **fields,
            system="\n\n".join(system) or None,
            tools=anthropic_tools(prompt.tools) or None,
        )

    async def _ask(self, body: dict[str, Any]) -> Any:
        return await self._client.messages.create(
            model=body["model"],
            messages=body["messages"],
            max_tokens=body["max_tokens"],
            extra_body=body,
        )

    def _reply(self, body: Any) -> Any:
        from anthropic.types import Message

        return Message.construct(**body)

    def _read(self, reply: Any) -> Generation:
        reason = reason_of(reply.stop_reason)
        if isinstance(reply.content, str):
            return Generation(reason, text=storable(reply.content))
        text, reasoning = _texts_of_blocks(reply.content)
        calls = anthropic_calls(reply.content)
        return Generation(reason, text=storable(text), reasoning=storable(reasoning), calls=calls)


def _texts_of_blocks(blocks: Any) -> tuple[str, str | None]:
    text = ""
    thoughts = []
    for block in blocks:
        if block.type == "text":
            text += text_of(block.text) or ""
        elif block.type == "thinking":
            thoughts.append(text_of(block.thinking))
    return text, "\n".join(filter(None, thoughts)) or None
