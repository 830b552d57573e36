"""Plain chat streams without a pydantic object per token.

vLLM's own generator makes the first events of a stream, its last ones and every stream that is not
plain. From the first event with text we learn what stands around the text, and write the ones in
between from that: the same bytes (tests/backends/test_vllm_stream.py), at half of the server's
processor time per token.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

Around = tuple[str, str]  # what stands before and after the text of an event


def make_lean(chat: Any) -> None:
    """Of vLLM's OpenAIServingChat: replace its generator of stream events."""
    own = chat.chat_completion_stream_generator

    def events(
        request: Any, results: AsyncIterator[Any], *more: Any, **options: Any
    ) -> AsyncGenerator[str, None]:
        if not _is_plain(chat, request):
            return own(request, results, *more, **options)
        return _lean(lambda feed: own(request, feed, *more, **options), results)

    chat.chat_completion_stream_generator = events


def _is_plain(chat: Any, request: Any) -> bool:
    """Whether an event in the middle holds its text and nothing else of its own."""
    options = request.stream_options
    counts = options is not None and options.continuous_usage_stats
    tells = request.logprobs or request.echo or request.return_token_ids or counts
    one = (request.n or 1) == 1
    return bool(one and not tells and chat.parser_cls is None and not chat.enable_log_outputs)


class _Feed:
    """What vLLM's generator gets to see: all outputs but those whose events we write."""

    def __init__(self, results: AsyncIterator[Any]) -> None:
        self._results = aiter(results)
        self._next: Any = None
        self._error: BaseException | None = None
        self._skipped: list[int] = []  # token ids of the events that we wrote

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> Any:
        if self._error:
            raise self._error
        output, self._next = self._next, None
        return output or await anext(self._results)

    async def texts(self) -> AsyncGenerator[str, None]:
        """The texts up to the last output, which, like the end and any error, is left to vLLM's
        generator. It counts tokens, so it gets those that it did not see."""
        while True:
            try:
                result = await anext(self._results)
            except BaseException as error:  # noqa: BLE001 - raised again where it belongs
                self._error = error
                return
            (output,) = result.outputs
            if output.finish_reason is not None:
                output.token_ids = [*self._skipped, *output.token_ids]
                self._next = result
                return
            self._skipped += output.token_ids
            yield output.text


async def _lean(
    own: Callable[[_Feed], AsyncGenerator[str, None]], results: AsyncIterator[Any]
) -> AsyncGenerator[str, None]:
    from pydantic_core import to_json

    feed = _Feed(results)
    learnt = False
    async for event in own(feed):
        yield event
        around = None if learnt else _around_text(event)
        if around is None:
            continue
        learnt = True
        before, after = around
        async for text in feed.texts():
            yield f"{before}{to_json(text).decode()}{after}"


def _around_text(event: str) -> Around | None:
    """Of an event that holds a piece of text alone; None of any other."""
    from pydantic_core import to_json

    try:
        (choice,) = json.loads(event.removeprefix("data: "))["choices"]
    except (ValueError, LookupError):
        return None
    if choice["delta"].keys() != {"content"} or choice["finish_reason"] is not None:
        return None
    before, found, after = event.partition(
        '"content":' + to_json(choice["delta"]["content"]).decode()
    )
    if not found:
        return None
    return before + '"content":', after
