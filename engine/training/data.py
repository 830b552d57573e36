"""Examples -> token sequences with target masks: the teacher's own ids, or the student's chat
template.

Equal tokenizer fingerprints mean equal ids, so the teacher's tokens (and its signal) are used as
they are. Otherwise the answer's text is tokenised as the student will see it when it is served:
template up to the answer, then the answer. This module does not pack and does not train.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import TemplateError

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.rows.ids import bare_prompt, tokenizer_fingerprint
from engine.rows.records import Messages
from engine.rows.signal import Signal, arrays, count_unsigned, signals
from engine.rows.tables import file_metadata, read_tables
from engine.training.alignment import align, special_ids, token_starts

_log = logging.getLogger(__name__)
MOST_DIFFERING = 0.05  # of the examples of a file
# tokenizers of one text agree at far more places; less means that one of them is not what wrote or
# reads it
LEAST_ALIGNED = 0.1


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
    files: list[Path],
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
    needs_signal = spec.loss != "sft" and spec.teacher is None
    fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
    for file, table in zip(files, read_tables(files), strict=True):
        metadata = file_metadata(file)
        same_ids = metadata.get("tokenizer_fingerprint") == fingerprint
        if needs_signal:
            _check_signal(table, file.name, spec.loss, metadata, same_ids)
            if metadata["top_k"] > vocab_size:
                raise StageError(
                    f"train: {file.name} holds the teacher's {metadata['top_k']:,} likeliest"
                    f" tokens, but the student has {vocab_size:,}"
                    " tokens; set generate.capture.top_k to fewer, or train.loss: sft"
                )
        if same_ids and spec.learn_turns == "last":
            _check_template(table, file.name, tokenizer)
            rows = _teacher_sequences(table, metadata if needs_signal else None)
        elif needs_signal:
            rows = _aligned_sequences(table, file.name, metadata, tokenizer, teacher_tokenizers)
        else:
            rows = (
                _conversation(messages, tokenizer, spec.learn_turns)
                for messages in table["messages"].to_pylist()
            )
        for row in _as_answered(rows, table, file.name, tokenizer):
            largest = max(
                row.ids.max(initial=0), row.signal.ids.max(initial=0) if row.signal else 0
            )
            if largest >= vocab_size:
                raise StageError(
                    f"train: token id {largest} in {file.name} lies outside the student's"
                    f" vocabulary of {vocab_size} (the teacher's has"
                    f" {metadata.get('vocab_size')}: models of a family may pad it differently);"
                    " set train.student to a model whose"
                    " vocabulary holds the tokenizer's, or train.loss: sft if only the stored top-k"
                    " has such ids"
                )
            yield row


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
    if missing := count_unsigned(table, metadata):
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
    differing, example = 0, ("", "")
    for row, messages in zip(rows, table["messages"], strict=True):
        learnt, answered = tokenizer.decode(row.ids[row.is_target]), messages[-1]["content"].as_py()
        if _comparable(answered) not in _comparable(learnt):
            differing, example = differing + 1, (answered, learnt)
        yield row
    answered, learnt = (repr(text[:80]) for text in example)
    told = (
        f"{differing} of {table.num_rows} examples of {file} teach another text than their answer,"
        f" e.g. {learnt} where {answered}"
    )
    if differing > MOST_DIFFERING * table.num_rows:
        raise StageError(
            f"train: {told} was answered; is train.tokenizer the one of these answers, and did a"
            " filter change their text?"
            " Generate and curate again, or set train.tokenizer to one that has tokens for them"
        )
    if differing:
        _log.warning("train: %s was answered", told)


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
    asked, messages = (
        next(arrays(table.slice(0, 1), "prompt_token_ids")).tolist(),
        table["messages"][0].as_py()[:-1],
    )
    if tokenizer.chat_template:
        opened = _tokens(_spell(messages, tokenizer, add_generation_prompt=True), tokenizer)
        closed = _tokens(_spell(messages, tokenizer), tokenizer)
        same = sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(opened, closed, strict=False)
            )
        )
        opening, how = opened[same:], "chat template opens them with"
    else:  # nothing follows the question
        opening, how = (
            _tokens(bare_prompt(messages), tokenizer)[-4:],
            "tokenizer has no chat template, so its questions end with",
        )
    if opening and asked and asked[-len(opening) :] != opening:
        raise StageError(
            f"train: the teacher of {file} was asked for its answers with"
            f" {tokenizer.decode(asked[-len(opening) :])!r}, but the student's"
            f" {how} {tokenizer.decode(opening)!r}, and it would be served what it never saw; set"
            " train.tokenizer to the teacher's"
        )


def _teacher_sequences(table: pa.Table, metadata: dict[str, Any] | None) -> Iterator[TokenSequence]:
    """The teacher's own tokens; `metadata` of the file, if the signal is wanted, says how to read
    it."""
    found = itertools.repeat(None, table.num_rows) if metadata is None else signals(table, metadata)
    for prompt, answer, signal in zip(
        arrays(table, "prompt_token_ids"), arrays(table, "token_ids"), found, strict=True
    ):
        is_target = np.arange(len(prompt) + len(answer)) >= len(prompt)
        yield TokenSequence(np.concatenate([prompt, answer]), is_target, signal)


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
    if teacher not in teacher_tokenizers:
        raise StageError(
            f"train: loss uld reads the answers of teacher '{teacher}' in {file} with that"
            " teacher's tokenizer, but knows those of"
            f" {sorted(teacher_tokenizers) or 'none'}; name the teacher in generate.teachers as it"
            " was when it answered"
        )
    theirs, ours = (
        (t.backend_tokenizer, special_ids(t)) for t in (teacher_tokenizers[teacher], tokenizer)
    )
    aligned = targets = 0
    for messages, answer, signal in zip(
        table["messages"].to_pylist(),
        arrays(table, "token_ids"),
        signals(table, metadata),
        strict=True,
    ):
        sequence, text = _conversation(messages, tokenizer, "last"), messages[-1]["content"]
        at = align(
            token_starts(answer.tolist(), text, *theirs),
            token_starts(sequence.ids[sequence.is_target].tolist(), text, *ours),
        )
        here = at >= 0
        logprobs = np.zeros((len(at), metadata["top_k"]), np.float32)
        tail = np.full(len(at), -1, np.float32)
        logprobs[here], tail[here] = signal.logprobs[at[here]], signal.tail[at[here]]
        aligned, targets = aligned + int(here.sum()), targets + len(at)
        yield dataclasses.replace(
            sequence, signal=Signal(np.zeros(logprobs.shape, np.int32), logprobs, tail)
        )
    if aligned < LEAST_ALIGNED * targets:
        raise StageError(
            f"train: loss uld found only {aligned} of {targets} answer tokens in {file} at a place"
            f" where teacher '{teacher}' starts one"
            " too; are the teacher's and the student's (train.tokenizer) the right tokenizers?"
            " Otherwise set train.loss: sft"
        )


def _conversation(messages: Messages, tokenizer: Any, learn_turns: str) -> TokenSequence:
    """The conversation as the student's template spells it. A turn to learn is what its message
    adds to the opening of the turn.

    That needs no markers in the template, and splits the text into tokens where a server will: at
    the opening's end.
    """
    if not tokenizer.chat_template:
        raise StageError(
            "train: the student's tokenizer has no chat template; set train.tokenizer to one that"
            " has"
        )
    last = len(messages) - 1
    turns = (
        [at for at in range(1, last) if messages[at]["role"] == "assistant"]
        if learn_turns == "all"
        else []
    )
    whole = _spell(messages, tokenizer)
    openings = [
        _spell(messages[:turn], tokenizer, add_generation_prompt=True) for turn in (*turns, last)
    ]
    if not all(whole.startswith(opening) for opening in openings):
        raise StageError(
            "train: the student's chat template rewrites the conversation when it adds the answer,"
            " so the answer cannot be told"
            " from the prompt; set train.tokenizer to one whose template keeps what came before"
        )
    borders = [*map(len, openings), len(whole)]
    context, *added = (
        _tokens(whole[start:end], tokenizer) for start, end in itertools.pairwise([0, *borders])
    )
    added[-1] = _up_to_its_end(added[-1], tokenizer)
    learned = [
        _answer_length(tokens, _spell(messages[: turn + 1], tokenizer)[border:], tokenizer)
        for turn, tokens, border in zip(turns, added, borders, strict=False)
    ]
    for turn, (start, end) in zip((*turns, last), itertools.pairwise(borders), strict=True):
        if messages[turn]["content"].strip() not in whole[start:end]:
            raise StageError(
                "train: the student's chat template leaves out a part of the answers (templates of"
                " reasoning models cut what stands before"
                " </think>), so the student would not learn what the teacher said; set"
                " train.tokenizer to one whose template keeps it"
            )
    masks = [
        np.arange(len(tokens)) < count
        for tokens, count in zip(added, [*learned, len(added[-1])], strict=True)
    ]
    return TokenSequence(
        np.array(sum(added, context), np.int32),
        np.concatenate([np.zeros(len(context), bool), *masks]),
    )


def _spell(messages: Messages, tokenizer: Any, **options: Any) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise StageError(
            f"train: the student's chat template refuses a conversation of {roles} ({error});"
            " change the prompts (prompts.system) to what"
            " it takes, or set train.tokenizer to one whose template takes them"
        ) from None


def _tokens(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _up_to_its_end(answer: list[int], tokenizer: Any) -> list[int]:
    """The last answer's tokens up to the end-of-sequence token: templates often add a line break,
    which no server ever generates."""
    eos = tokenizer.eos_token_id
    if eos in answer:
        end = len(answer) - answer[::-1].index(eos)
        if not tokenizer.decode(
            answer[end:], skip_special_tokens=True
        ).strip():  # else it is one that the answer speaks of
            return answer[:end]
    return (
        answer if eos is None else [*answer, eos]
    )  # without it the student would never learn to stop


def _answer_length(added: list[int], alone: str, tokenizer: Any) -> int:
    """How many of the tokens between two openings are the earlier one's answer, its end of turn
    included; `alone` is that answer where it ends the conversation, which some templates follow by
    an end-of-sequence token.
    """
    answer = _tokens(alone, tokenizer)
    length = sum(
        1
        for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(added, answer, strict=False)
        )
    )
    if tokenizer.decode(answer[length:], skip_special_tokens=True).strip():
        raise StageError(
            "train: the student's chat template rewrites earlier turns when the conversation goes"
            " on, so learn_turns: all cannot tell"
            " them apart; set train.learn_turns: last, or train.tokenizer to one whose template"
            " keeps what came before"
        )
    while length and not tokenizer.decode(added[length - 1 : length]).strip():
        length -= 1
    return length
