"""Teachers behind an API, through the vendors' own clients: OpenAI protocol (GPT-4 class, DeepSeek, a vLLM server) and Claude.

Retries with backoff and Retry-After are the clients' own. Keys come from the environment variable that the job names.
"""

from __future__ import annotations

import os
from typing import Any

from engine.backends.answering import Generation, Sampling
from engine.errors import SpecError
from engine.records import Messages
from engine.spec import CaptureSpec, TeacherSpec


class _ApiTeacher:
    """What both protocols share: no token ids, and lengths that the server checks."""

    max_model_len = None

    def __init__(self, teacher: TeacherSpec, capture: CaptureSpec, *, device: str, attempts: int) -> None:
        key = os.environ.get(teacher.api_key_env or "")
        if not key:
            raise SpecError(f"teacher '{teacher.name}': the environment variable {teacher.api_key_env} is not set on this node")
        self._model, self.metadata = teacher.model, {"top_k": 0}
        self._client = self._connect(api_key=key, base_url=teacher.base_url, max_retries=attempts - 1)

    def _connect(self, **arguments: Any) -> Any:
        raise NotImplementedError

    def encode(self, conversations: list[Messages]) -> list[Messages]:
        """The API takes conversations as they are."""
        return conversations

    def decode(self, token_ids: list[Any]) -> list[str]:
        """Never needed: the API gives text."""
        raise TypeError("an API teacher returns text, not token ids")


class OpenAITeacher(_ApiTeacher):
    """Any server of the OpenAI chat completions protocol."""

    def _connect(self, **arguments: Any) -> Any:
        from openai import AsyncOpenAI

        return AsyncOpenAI(**arguments)

    async def generate(self, prompt: Messages, sampling: Sampling) -> Generation:
        """One chat completion."""
        reply = await self._client.chat.completions.create(
            model=self._model, messages=prompt, temperature=sampling.temperature, top_p=sampling.top_p,
            max_completion_tokens=sampling.max_tokens, **({} if sampling.seed is None else {"seed": sampling.seed}),
        )
        choice, usage = reply.choices[0], reply.usage
        reason = "content_filter" if choice.message.refusal else choice.finish_reason
        return Generation(
            reason, text=choice.message.content or "", prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )


class AnthropicTeacher(_ApiTeacher):
    """Claude, or a server of the Anthropic messages protocol."""

    _REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "content_filter"}  # noqa: RUF012

    def _connect(self, **arguments: Any) -> Any:
        from anthropic import AsyncAnthropic

        return AsyncAnthropic(**arguments)

    async def generate(self, prompt: Messages, sampling: Sampling) -> Generation:
        """One message; system messages go where this protocol wants them."""
        system = "\n\n".join(message["content"] for message in prompt if message["role"] == "system")
        reply = await self._client.messages.create(
            model=self._model, messages=[m for m in prompt if m["role"] != "system"], max_tokens=sampling.max_tokens,
            # The client has no argument for it any more; the protocol still takes it.
            extra_body={"temperature": sampling.temperature}, **({"system": system} if system else {}),
        )
        text = "".join(block.text for block in reply.content if block.type == "text")
        return Generation(
            self._REASONS.get(reply.stop_reason, str(reply.stop_reason)), text=text, prompt_tokens=reply.usage.input_tokens,
            completion_tokens=reply.usage.output_tokens,
        )
