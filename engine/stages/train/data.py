"""Examples -> token sequences with target masks: the teacher's own ids, or the student's chat template.

Equal tokenizer fingerprints mean equal ids, so the teacher's tokens (and its signal) are used as they are. Otherwise the
answer's text is tokenised as the student will see it when it is served: template up to the answer, then the answer.
This module does not pack and does not train.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.records import Signal, arrays, count_unsigned, file_metadata, read_tables, signals, tokenizer_fingerprint
from engine.spec import TrainSpec


@dataclass(frozen=True)
class TokenSequence:
    """One example: ids (n,), is_target (n,) for tokens that the loss learns, and the signal at those targets."""

    ids: np.ndarray
    is_target: np.ndarray
    signal: Signal | None = None


def load_sequences(files: list[Path], spec: TrainSpec, tokenizer: Any, vocab_size: int) -> Iterator[TokenSequence]:
    """All rows of EXAMPLE files, in order.

    Raises StageError where KL has no usable signal, or where ids lie outside the student's vocabulary.
    """
    needs_signal = spec.loss != "sft"
    fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
    for file, table in zip(files, read_tables(files), strict=True):
        metadata = file_metadata(file)
        same_ids = metadata.get("tokenizer_fingerprint") == fingerprint
        if needs_signal:
            _check_signal(table, file.name, spec.loss, metadata, same_ids)
        rows = _teacher_sequences(table, metadata if needs_signal else None) if same_ids else _chat_sequences(table, tokenizer)
        for row in rows:
            largest = max(row.ids.max(initial=0), row.signal.ids.max(initial=0) if row.signal else 0)
            if largest >= vocab_size:
                raise StageError(
                    f"train: token id {largest} in {file.name} lies outside the student's vocabulary of {vocab_size};"
                    " set train.student to a model whose vocabulary holds the tokenizer's"
                )
            yield row


def _check_signal(table: pa.Table, file: str, loss: str, metadata: dict[str, Any], same_ids: bool) -> None:
    if not same_ids:
        raise StageError(
            f"train: loss {loss} compares distributions over the same tokens, but the teacher of {file} has another"
            " tokenizer than the student; set train.loss: sft, or take a student with the teacher's tokenizer"
        )
    if missing := count_unsigned(table, metadata):
        raise StageError(
            f"train: {missing} of {table.num_rows} examples in {file} lack the top-k signal that loss {loss} learns from;"
            " set generate.capture.top_k to 16 or more and generate again, or set train.loss: sft"
        )


def _teacher_sequences(table: pa.Table, metadata: dict[str, Any] | None) -> Iterator[TokenSequence]:
    """The teacher's own tokens; `metadata` of the file, if the signal is wanted, says how to read it."""
    found = itertools.repeat(None, table.num_rows) if metadata is None else signals(table, metadata)
    for prompt, answer, signal in zip(arrays(table, "prompt_token_ids"), arrays(table, "token_ids"), found, strict=True):
        is_target = np.arange(len(prompt) + len(answer)) >= len(prompt)
        yield TokenSequence(np.concatenate([prompt, answer]), is_target, signal)


def _chat_sequences(table: pa.Table, tokenizer: Any) -> Iterator[TokenSequence]:
    if not tokenizer.chat_template:
        raise StageError("train: the student's tokenizer has no chat template; set train.tokenizer to one that has")
    for messages in table["messages"].to_pylist():
        yield _answer_after_prompt(messages, tokenizer)


def _answer_after_prompt(messages: list[dict[str, str]], tokenizer: Any) -> TokenSequence:
    """The last answer is what the template adds to its own generation prompt, up to the end-of-sequence token."""
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(prompt):
        raise StageError(
            "train: the student's chat template rewrites the conversation when it adds the answer, so the answer cannot be told"
            " from the prompt; set train.tokenizer to one whose template keeps what came before"
        )
    context = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    if eos in answer:  # templates often add a line break after it, which no server ever generates
        answer = answer[: len(answer) - answer[::-1].index(eos)]
    elif eos is not None:  # without it the student would never learn to stop
        answer = [*answer, eos]
    return TokenSequence(np.array(context + answer, np.int32), np.arange(len(context) + len(answer)) >= len(context))
