"""Answered requests -> a table of Completions, in bulk: decoded, packed, and each with its
status."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from engine.asking.engine import AnswerEngine, Generation, Said
from engine.asking.requests import Request
from engine.asking.respondents import Respondent
from engine.job.spec import CaptureSpec
from engine.rows import codec
from engine.rows.records import SCHEMA_VERSION, Completion, completion_schema
from engine.rows.tables import to_table
from engine.rows.tools import calls_column
from engine.run.identity import versions

_log = logging.getLogger(__name__)
STATUS_OF_FINISH = {
    "stop": "ok",
    "length": "truncated",
    "tool_calls": "ok",
    "content_filter": "refused",
    "repetition": "loop",
    "abort": "error",
    "error": "error",
}


class CompletionTables:
    """Makes the tables of one replica's parts."""

    def __init__(self, engine: AnswerEngine, respondent: Respondent, capture: CaptureSpec) -> None:
        self._engine, self._name = engine, respondent.name
        # Packing wants the size of the vocabulary; an API does not tell it, so its rows stay plain.
        can_pack = "vocab_size" in engine.metadata
        self._metadata: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "packed_bits": capture.packed_bits,
            "top_k": capture.top_k,
            "codec": capture.codec if can_pack else "plain",
            "teacher": respondent.name,
            "teacher_model": respondent.model.model,
            "teacher_revision": respondent.revision,
            "engine": respondent.model.kind,
            "versions": versions(),
        } | engine.metadata
        self._schema = completion_schema(capture.dtype)

    def table(self, answered: Sequence[Request]) -> pa.Table:
        """Their rows; where that fails, one by one: an answer that cannot be stored is one row's
        `error`."""
        try:
            return to_table(self._completions(answered), self._schema, self._metadata)
        except Exception as error:
            if len(answered) > 1:
                singles = [self.table([request]) for request in answered]
                return pa.concat_tables(singles).combine_chunks()
            (request,) = answered
            if request.status:  # it holds no answer: the fault is ours
                raise
            # Its message may repeat the answer, so only its kind is told.
            problem = f"the answer cannot be stored: {type(error).__name__}"
            _log.warning("prompt %d, sample %d: %s", *request.key, problem)
            return self.table([replace(request, status="error", error=problem)])

    def tokens_of(self, request: Request) -> tuple[int | None, int | None]:
        """Tokens in and out; None where an API did not say."""
        prompt_ids = self._prompt_ids(request)
        generation = request.generation
        if generation is None:
            return len(prompt_ids), 0
        tokens_in = generation.prompt_tokens
        if tokens_in is None and self._engine.takes == "token_ids":
            tokens_in = len(prompt_ids)
        return tokens_in, generation.tokens

    def _prompt_ids(self, request: Request) -> Sequence[int]:
        return request.prompt if self._engine.takes == "token_ids" else ()

    def _completions(self, answered: Sequence[Request]) -> list[Completion]:
        generations = []
        undecoded = []
        tools = []
        for request in answered:
            if request.status is None and request.generation is not None:
                generations.append(request.generation)
                if request.generation.text is None:  # an API gives text
                    undecoded.append(request.generation.token_ids)
                    tools.append(request.tools)
        said = iter(self._engine.decode(undecoded, tools) if undecoded else ())
        signals = self._packed(generations)
        return [self._completion(request, said, signals) for request in answered]

    def _packed(self, generations: Sequence[Generation]) -> Iterator[bytes]:
        """The packed signal of each, where the codec packs."""
        metadata = self._metadata
        if metadata["codec"] != "packed" or not metadata["top_k"]:
            return iter(())
        rows = [(one.topk_ids, one.topk_logprobs, one.tail) for one in generations]
        sizes = (metadata["top_k"], metadata["vocab_size"], metadata["packed_bits"])
        return iter(codec.pack_rows(rows, *sizes))

    def _completion(
        self, request: Request, decoded: Iterator[Said], signals: Iterator[bytes]
    ) -> Completion:
        generation = request.generation
        tokens_in, tokens_out = self.tokens_of(request)
        known: dict[str, Any] = {
            "prompt_id": request.prompt_id,
            "teacher": self._name,
            "sample_index": request.sample_index,
            "split": request.split,
            "seed": request.seed,
            "attempt": request.attempt,
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "prompt_token_ids": np.asarray(self._prompt_ids(request), np.int32),
        }
        if generation is None or request.status:
            return Completion(**known, status=request.status or "error", error=request.error)
        if np.isnan(generation.topk_logprobs).any():
            raise FloatingPointError("log-probabilities that are no numbers")
        if generation.text is None:
            said = next(decoded)
        else:
            said = Said(generation.text, generation.reasoning, generation.calls)
        packed = next(signals, None)
        if packed is None:
            known["topk_ids"] = generation.topk_ids
            known["topk_logprobs"] = generation.topk_logprobs
            known["tail"] = generation.tail
        else:
            known["topk_packed"] = packed
        status = _status_of(generation, said)
        problem = None
        if status == "error":
            problem = f"unknown finish reason {generation.finish_reason}"
        return Completion(
            **known,
            status=status,
            finish_reason=generation.finish_reason,
            text=said.text,
            reasoning=said.reasoning,
            tool_calls=calls_column(said.calls),
            token_ids=generation.token_ids,
            token_logprobs=generation.token_logprobs,
            topk_tokens=generation.topk_tokens,
            error=problem,
        )


def _status_of(generation: Generation, said: Said) -> str:
    """An API's own word for an end that gave something is an answer; an engine's is a fault."""
    says_something = bool(said.text.strip() or said.calls)
    is_of_api = generation.text is not None
    unknown = "ok" if is_of_api and says_something else "error"
    status = STATUS_OF_FINISH.get(generation.finish_reason, unknown)
    return "empty" if status == "ok" and not says_something else status
