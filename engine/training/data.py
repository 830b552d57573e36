"""Examples -> token sequences with target masks: the teacher's own ids, or the student's chat
template.

Equal tokenizer fingerprints mean equal ids, so the teacher's tokens (and its signal) are used as
they are. Otherwise the answer's text is tokenised as the student will see it when it is served:
template up to the answer, then the answer. This module does not pack and does not train.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import StageError
from engine.job.spec import SftLoss, TrainSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.signal import Signal, arrays, count_unsigned, signals
from engine.rows.tables import metadata_of, read_tables
from engine.rows.tools import Conversation, conversations_of
from engine.store.paths import Folder
from engine.training.alignment import align, special_ids, token_starts
from engine.training.chat import called_names, check_tools, learnt_tokens, opening_of

_log = logging.getLogger(__name__)
MOST_DIFFERING = 0.05  # of the examples of a file
# tokenizers of one text agree at far more places; less means that one of them is not what wrote or
# reads it
LEAST_ALIGNED = 0.1
READ_ROWS = 1024  # conversations in Python's objects at a time


@dataclass(frozen=True)
class TokenSequence:
    """One example: ids (n,), is_target (n,) for tokens that the loss learns, and the signal at
    those targets.

    A target that the teacher gave no distribution for has tail -1 and zeros.
    """

    ids: np.ndarray
    is_target: np.ndarray
    signal: Signal | None = None


def load_sequences(
    files: Sequence[Folder],
    spec: TrainSpec,
    tokenizer: Any,
    vocab_size: int,
    teacher_tokenizers: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[TokenSequence]:
    """All rows of EXAMPLE files, in order. `teacher_tokenizers`, by teacher, are what `uld` aligns
    the student's tokens with.

    Raises StageError where a loss has no usable signal, or where ids lie outside the student's
    vocabulary.
    """
    needs_signal = spec.reads_stored_signal
    turns = spec.loss.learn_turns if isinstance(spec.loss, SftLoss) else "last"
    fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
    for file, table in zip(files, read_tables(files), strict=True):
        metadata = metadata_of(table)
        same_ids = metadata.get("tokenizer_fingerprint") == fingerprint
        if needs_signal:
            _check_signal(table, file.name, spec.loss.kind, metadata, same_ids)
            _check_top_k(file.name, metadata, vocab_size)
        _check_first_tools(table, tokenizer)
        if same_ids and turns == "last":
            _check_template(table, file.name, tokenizer)
            stored: Iterator[Signal | None] = itertools.repeat(None, table.num_rows)
            if needs_signal:
                stored = signals(table, metadata)
            rows = _teacher_sequences(table, stored)
        elif needs_signal:
            rows = _aligned_sequences(table, file.name, metadata, tokenizer, teacher_tokenizers)
        else:
            conversations = conversations_of(table)
            rows = (_sequence(one, tokenizer, turns) for one in conversations)
        for row in _as_answered(rows, table, file.name, tokenizer):
            _check_ids(row, file.name, metadata, vocab_size)
            yield row


def _check_first_tools(table: pa.Table, tokenizer: Any) -> None:
    """The student's template must know tools, where the first examples offer any."""
    for conversation in conversations_of(table.slice(0, READ_ROWS)):
        if conversation.tools:
            check_tools(conversation, tokenizer)
            return


def _sequence(conversation: Conversation, tokenizer: Any, learn_turns: str) -> TokenSequence:
    return TokenSequence(*learnt_tokens(conversation, tokenizer, learn_turns))


def _check_ids(
    sequence: TokenSequence, file: str, metadata: Mapping[str, Any], vocab_size: int
) -> None:
    largest = sequence.ids.max(initial=0)
    if sequence.signal:
        largest = max(largest, sequence.signal.ids.max(initial=0))
    if largest >= vocab_size:
        raise StageError(
            f"train: token id {largest} in {file} lies outside the student's vocabulary of"
            f" {vocab_size} (the teacher's has {metadata.get('vocab_size')}: models of a family may"
            " pad it differently); set train.student to a model whose vocabulary holds the"
            " tokenizer's, or train.loss: sft if only the stored top-k has such ids"
        )


def _check_top_k(file: str, metadata: Mapping[str, Any], vocab_size: int) -> None:
    top_k = metadata["top_k"]
    if top_k > vocab_size:
        raise StageError(
            f"train: {file} holds the teacher's {top_k:,} likeliest tokens, but the student has"
            f" {vocab_size:,} tokens; set generate.capture.top_k to fewer, or train.loss: sft"
        )


def _check_signal(
    table: pa.Table, file: str, loss: str, metadata: dict[str, Any], same_ids: bool
) -> None:
    if not same_ids and loss != "uld":
        raise StageError(
            f"train: loss {loss} compares distributions over the same tokens, but the teacher of"
            f" {file} has another"
            " tokenizer than the student; set train.loss: sft, or uld, which aligns tokenizers, or"
            " take a student with the"
            " teacher's tokenizer"
        )
    missing = count_unsigned(table, metadata)
    if missing:
        raise StageError(
            f"train: {missing} of {table.num_rows} examples in {file} lack the top-k signal that"
            f" loss {loss} learns from;"
            " set generate.capture.top_k to 16 or more and generate again, or set train.loss: sft"
        )


def _as_answered(
    rows: Iterator[TokenSequence], table: pa.Table, file: str, tokenizer: Any
) -> Iterator[TokenSequence]:
    """The same sequences. StageError if what they teach, decoded, is not what was answered.

    Few may differ, and a warning tells how many, as a tokenizer may spell a rare character
    otherwise; ids of other answers, or a tokenizer that has no tokens for them, differ in most.
    """
    differing = 0
    example = ""
    for row, told in zip(rows, _told(table), strict=True):
        learnt = tokenizer.decode(row.ids[row.is_target])
        taught = _comparable(learnt)
        lacking = [text for text in told if _comparable(text) not in taught]
        if lacking:
            differing += 1
            example = f"{learnt[:80]!r} where {lacking[0][:80]!r}"
        yield row
    told = (
        f"{differing} of {table.num_rows} examples of {file} teach another text than their answer,"
        f" e.g. {example}"
    )
    if differing > MOST_DIFFERING * table.num_rows:
        raise StageError(
            f"train: {told} was answered; is train.tokenizer the one of these answers, and did a"
            " filter change their text?"
            " Generate and curate again, or set train.tokenizer to one that has tokens for them"
        )
    if differing:
        _log.warning("train: %s was answered", told)


def _told(table: pa.Table) -> Iterator[list[str]]:
    """Of each example what its answer says, and the names of the tools that it calls."""
    for start in range(0, len(table), READ_ROWS):
        for conversation in conversations_of(table.slice(start, READ_ROWS)):
            answer = conversation.messages[-1]
            yield [answer["content"], *called_names(answer)]


def _comparable(text: str) -> str:
    """Decoders put spaces where they like, and tokenizers compose accents: the answer stays the
    same."""
    return unicodedata.normalize("NFC", "".join(text.split()))


def _check_template(table: pa.Table, file: str, tokenizer: Any) -> None:
    """The student will be asked by its own chat template: the teacher's must have opened the answer
    alike.

    What comes before that may differ, by a system message of the teacher or by a date that
    templates add.
    """
    if not table.num_rows:
        return
    first = table.slice(0, 1)
    asked = next(arrays(first, "prompt_token_ids")).tolist()
    (conversation,) = conversations_of(first)
    question = conversation.before(len(conversation.messages) - 1)
    opening, how = opening_of(question, tokenizer)
    if not opening or not asked:
        return
    opened = asked[-len(opening) :]
    if opened != opening:
        raise StageError(
            f"train: the teacher of {file} was asked for its answers with"
            f" {tokenizer.decode(opened)!r}, but the student's {how} {tokenizer.decode(opening)!r},"
            " and it would be served what it never saw; set train.tokenizer to the teacher's"
        )


def _teacher_sequences(table: pa.Table, stored: Iterator[Signal | None]) -> Iterator[TokenSequence]:
    """The teacher's own tokens, with the signal of each row if it is wanted."""
    prompts = arrays(table, "prompt_token_ids")
    answers = arrays(table, "token_ids")
    for prompt, answer, signal in zip(prompts, answers, stored, strict=True):
        ids = np.concatenate([prompt, answer])
        is_target = np.arange(len(ids)) >= len(prompt)
        yield TokenSequence(ids, is_target, signal)


def _aligned_sequences(
    table: pa.Table,
    file: str,
    metadata: dict[str, Any],
    tokenizer: Any,
    teacher_tokenizers: Mapping[str, Any],
) -> Iterator[TokenSequence]:
    """The student's tokens, with the teacher's distribution where one of its tokens starts at the
    same character of the answer.

    Ids of that distribution are 0: they would name tokens of the teacher's vocabulary.
    """
    teacher = metadata.get("teacher")
    if teacher is None or teacher not in teacher_tokenizers:
        raise StageError(
            f"train: loss uld reads the answers of teacher '{teacher}' in {file} with that"
            " teacher's tokenizer, but knows those of"
            f" {sorted(teacher_tokenizers) or 'none'}; name the teacher in generate.teachers as it"
            " was when it answered"
        )
    their_starts = _starts_by(teacher_tokenizers[teacher])
    our_starts = _starts_by(tokenizer)
    aligned = targets = 0
    conversations = conversations_of(table)
    answers = arrays(table, "token_ids")
    stored = signals(table, metadata)
    for conversation, answer, signal in zip(conversations, answers, stored, strict=True):
        sequence = _sequence(conversation, tokenizer, "last")
        text = conversation.messages[-1]["content"]
        learned = sequence.ids[sequence.is_target]
        theirs = their_starts(answer.tolist(), text)
        ours = our_starts(learned.tolist(), text)
        at = align(theirs, ours)
        aligned += int((at >= 0).sum())
        targets += len(at)
        moved = _moved(signal, at, metadata["top_k"])
        yield dataclasses.replace(sequence, signal=moved)
    if aligned < LEAST_ALIGNED * targets:
        raise StageError(
            f"train: loss uld found only {aligned} of {targets} answer tokens in {file} at a place"
            f" where teacher '{teacher}' starts one"
            " too; are the teacher's and the student's (train.tokenizer) the right tokenizers?"
            " Otherwise set train.loss: sft"
        )


def _starts_by(tokenizer: Any) -> Callable[[list[int], str], np.ndarray]:
    """`token_starts` of one tokenizer's ids."""
    return functools.partial(
        token_starts, tokenizer=tokenizer.backend_tokenizer, special=special_ids(tokenizer)
    )


def _moved(signal: Signal, at: np.ndarray, top_k: int) -> Signal:
    """The signal whose row i is row at[i] of this one, or none where that is -1."""
    here = at >= 0
    logprobs = np.zeros((len(at), top_k), np.float32)
    tail = np.full(len(at), -1, np.float32)
    logprobs[here] = signal.logprobs[at[here]]
    tail[here] = signal.tail[at[here]]
    return Signal(np.zeros(logprobs.shape, np.int32), logprobs, tail)
