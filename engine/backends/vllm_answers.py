"""Finished tokens -> what they say: text, reasoning and calls of tools, by vLLM's own parsers.

Imports vLLM only where a parser is named. A call that its parser cannot read is kept as a call
without a name, whose arguments are what was written: it is seen and counted, not taken for text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from engine.asking.engine import Said
from engine.errors import StageError
from engine.rows.tools import Tool, as_call

# Names under which vLLM's parsers have the text that opens a call.
_OPENINGS = ("tool_calls_start_token", "tool_call_start_token", "bot_token")
_SOME_TOOL: Tool = {"type": "function", "function": {"name": "any", "parameters": {}}}


class AnswerReader:
    """Reads the answers of one model. StageError where vLLM has no parser of a name, or it does not
    take texts."""

    def __init__(
        self,
        tokenizer: Any,
        reasoning_parser: str | None,
        tool_parser: str | None,
        ends: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._split_reasoning = _reasoning_splitter(reasoning_parser, tokenizer)
        self._read_calls: Callable[[str, Sequence[Tool]], Said] | None = None
        self._keeps_specials = False
        if tool_parser is not None:
            self._read_calls, self._keeps_specials = _call_reader(tool_parser, tokenizer)

    def read(self, token_ids: list[Any], tools: Sequence[Sequence[Tool]]) -> list[Said]:
        """Answers (T,) that could call these tools; special tokens are left out of texts."""
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        said = []
        for ids, text, offered in zip(token_ids, texts, tools, strict=True):
            if offered and self._read_calls is not None:
                said.append(self._with_calls(ids, text, offered))
            else:
                said.append(Said(*self._split_reasoning(text)))
        return said

    def _with_calls(self, ids: Any, text: str, offered: Sequence[Tool]) -> Said:
        assert self._read_calls is not None
        if self._keeps_specials:  # they open and close calls
            text = self._tokenizer.decode(self._without_end(ids), skip_special_tokens=False)
        answer, reasoning = self._split_reasoning(text)
        said = self._read_calls(answer, offered)
        return Said(self._plain(said.text), reasoning and self._plain(reasoning), said.calls)

    def _without_end(self, ids: Any) -> Any:
        if len(ids) and int(ids[-1]) in self._ends:
            return np.asarray(ids)[:-1]
        return ids

    def _plain(self, text: str) -> str:
        """Without special tokens, where they were kept."""
        if self._keeps_specials:
            for special in self._tokenizer.all_special_tokens:
                text = text.replace(special, "")
        return text


def _reasoning_splitter(
    parser: str | None, tokenizer: Any
) -> Callable[[str], tuple[str, str | None]]:
    """text -> (answer, reasoning)."""
    if parser is None:
        return lambda text: (text, None)
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.reasoning import ReasoningParserManager

    request = ChatCompletionRequest(messages=[])

    def apart(text: str) -> tuple[str, str | None]:
        reasoning, answer = split(text, request)
        return answer or "", reasoning

    try:
        kind = ReasoningParserManager.get_reasoning_parser(parser)
        split = kind(tokenizer).extract_reasoning
        apart("once")
    except Exception as error:
        known = ReasoningParserManager.list_registered()
        raise _unusable(f"reasoning_parser={parser}", error, known) from error
    return apart


def _call_reader(parser: str, tokenizer: Any) -> tuple[Callable[[str, Sequence[Tool]], Said], bool]:
    """(text, tools) -> what it says and calls, and whether the parser wants special tokens in the
    text."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    def parser_for(tools: Sequence[Tool]) -> tuple[Any, Any]:
        """Of one answer, since parsers keep state, and the request that it answers."""
        request: Any = ChatCompletionRequest(messages=[], tools=list(tools))
        return kind(tokenizer, request.tools), request

    def read(text: str, tools: Sequence[Tool]) -> Said:
        reader, request = parser_for(tools)
        found = reader.extract_tool_calls(text, request)
        if found.tools_called:
            functions = [call.function for call in found.tool_calls]
            calls = [as_call(function.name, function.arguments) for function in functions]
            return Said(found.content or "", calls=calls)
        return _as_broken_call(text, _openings_of(reader))

    try:
        kind = ToolParserManager.get_tool_parser(parser)
        reader, request = parser_for([_SOME_TOOL])
        asked = reader.adjust_request(request)
        read("once", [_SOME_TOOL])
    except Exception as error:
        known = ToolParserManager.list_registered()
        raise _unusable(f"tool_parser={parser}", error, known) from error
    return read, not asked.skip_special_tokens


def _openings_of(reader: Any) -> list[str]:
    """The marks that open a call; words of a language are none."""
    marks = [getattr(reader, name, None) for name in _OPENINGS]
    return [mark for mark in marks if isinstance(mark, str) and mark and not mark.isalnum()]


def _as_broken_call(text: str, openings: Sequence[str]) -> Said:
    """A text in which a call is opened, and nothing was read of it."""
    places = [text.find(mark) for mark in openings if mark in text]
    if not places:
        return Said(text)
    at = min(places)
    return Said(text[:at].rstrip(), calls=[as_call("", text[at:])])


def _unusable(field: str, error: Exception, known: Sequence[str]) -> StageError:
    return StageError(
        f"{field} cannot be used with this model ({type(error).__name__}: {error}); vLLM has"
        f" {', '.join(known)}"
    )
