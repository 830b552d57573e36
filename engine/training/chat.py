"""Conversations as the student's chat template spells them -> ids, and which of them it learns.

A turn to learn is what its message adds to the opening of the turn, its calls of tools included.
That needs no markers in the template, and splits the text into tokens where a server will: at the
opening's end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError

from engine.errors import StageError
from engine.rows.ids import bare_prompt
from engine.rows.tools import Conversation, Message


def opening_of(conversation: Conversation, tokenizer: Any) -> tuple[list[int], str]:
    """The tokens between the student's question and its answer, and what puts them there."""
    if not tokenizer.chat_template:  # nothing follows the question
        question = tokens_of(bare_prompt(conversation.messages), tokenizer)
        return question[-4:], "tokenizer has no chat template, so its questions end with"
    opened = tokens_of(spell(conversation, tokenizer, add_generation_prompt=True), tokenizer)
    closed = tokens_of(spell(conversation, tokenizer), tokenizer)
    same = count_alike(opened, closed)
    return opened[same:], "chat template opens them with"


def count_alike(first: list[int], second: list[int]) -> int:
    """How many tokens open both."""
    count = 0
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def learnt_tokens(
    conversation: Conversation, tokenizer: Any, learn_turns: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) of the conversation, and which of them (n,) are of answers to learn. StageError
    where the template does not keep what was said, called or came before."""
    if not tokenizer.chat_template:
        raise StageError(
            "train: the student's tokenizer has no chat template; set train.tokenizer to one that"
            " has"
        )
    messages = conversation.messages
    earlier = _earlier_answers(messages, learn_turns)
    turns = [*earlier, len(messages) - 1]
    whole = spell(conversation, tokenizer)
    begins = [_end_of_opening(conversation.before(turn), whole, tokenizer) for turn in turns]
    borders = [*begins, len(whole)]
    texts = [whole[begin:end] for begin, end in itertools.pairwise(borders)]
    context = tokens_of(whole[: begins[0]], tokenizer)
    added = [tokens_of(text, tokenizer) for text in texts]
    added[-1] = _up_to_its_end(added[-1], tokenizer)
    learned: list[int] = []
    for turn, begin, tokens in zip(earlier, begins, added, strict=False):
        alone = spell(conversation.before(turn + 1), tokenizer)[begin:]
        learned.append(_answer_length(tokens, alone, tokenizer))
    learned.append(len(added[-1]))
    for turn, text in zip(turns, texts, strict=True):
        _check_is_told(messages[turn], text)
    masks = [np.zeros(len(context), bool)]
    for tokens, count in zip(added, learned, strict=True):
        masks.append(np.arange(len(tokens)) < count)
    ids = np.array(sum(added, context), np.int32)
    return ids, np.concatenate(masks)


def _earlier_answers(messages: Sequence[Message], learn_turns: str) -> list[int]:
    """The turns to learn besides the last one."""
    if learn_turns != "all":
        return []
    between = range(1, len(messages) - 1)
    return [turn for turn in between if messages[turn]["role"] == "assistant"]


def _end_of_opening(before: Conversation, whole: str, tokenizer: Any) -> int:
    """Where in the conversation the answer to what came `before` begins."""
    opening = spell(before, tokenizer, add_generation_prompt=True)
    if not whole.startswith(opening):
        raise StageError(
            "train: the student's chat template rewrites the conversation when it adds the answer,"
            " so the answer cannot be told from the prompt; set train.tokenizer to one whose"
            " template keeps what came before"
        )
    return len(opening)


def _check_is_told(answer: Message, text: str) -> None:
    if answer["content"].strip() not in text:
        raise StageError(
            "train: the student's chat template leaves out a part of the answers (templates of"
            " reasoning models cut what stands before </think>), so the student would not learn"
            " what the teacher said; set train.tokenizer to one whose template keeps it"
        )
    for name in called_names(answer):
        if name not in text:
            raise StageError(
                f"train: the student's chat template leaves out calls of tools, such as of {name},"
                " so the student would not learn what the teacher called; set train.tokenizer to"
                " one whose template writes tool_calls"
            )


def called_names(answer: Message) -> list[str]:
    """The tools that a message calls."""
    return [call["function"]["name"] for call in answer.get("tool_calls", ())]


def check_tools(conversation: Conversation, tokenizer: Any) -> None:
    """StageError where the student would be asked without the tools that its teacher was
    offered."""
    if not conversation.tools:
        return
    asked = conversation.before(len(conversation.messages) - 1)
    bare = Conversation(asked.messages)
    options = {"add_generation_prompt": True}
    knows_none = not tokenizer.chat_template
    if knows_none or spell(asked, tokenizer, **options) == spell(bare, tokenizer, **options):
        raise StageError(
            "train: the student's chat template leaves tools out, so the student would be served"
            " what it never saw; set train.tokenizer to one whose template knows tools, or"
            " prompts.fields.tools: null"
        )


def spell(conversation: Conversation, tokenizer: Any, **options: Any) -> str:
    """The conversation's text by the template. StageError where it refuses the roles."""
    messages = conversation.messages
    tools = conversation.tools or None
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise StageError(
            f"train: the student's chat template refuses a conversation of {roles} ({error});"
            " change the prompts (prompts.system) to what"
            " it takes, or set train.tokenizer to one whose template takes them"
        ) from None


def tokens_of(text: str, tokenizer: Any) -> list[int]:
    """Ids of a text that says itself where it begins and ends."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _up_to_its_end(answer: list[int], tokenizer: Any) -> list[int]:
    """The last answer's tokens up to the end-of-sequence token: templates often add a line break,
    which no server ever generates."""
    eos = tokenizer.eos_token_id
    if eos is None:
        return answer
    if eos in answer:
        end = len(answer) - answer[::-1].index(eos)
        behind = tokenizer.decode(answer[end:], skip_special_tokens=True)
        if not behind.strip():  # else it is one that the answer speaks of
            return answer[:end]
    return [*answer, eos]  # without it the student would never learn to stop


def _answer_length(added: list[int], alone: str, tokenizer: Any) -> int:
    """How many of the tokens between two openings are the earlier one's answer, its end of turn
    included; `alone` is that answer where it ends the conversation, which some templates follow by
    an end-of-sequence token.
    """
    answer = tokens_of(alone, tokenizer)
    length = count_alike(added, answer)
    if tokenizer.decode(answer[length:], skip_special_tokens=True).strip():
        raise StageError(
            "train: the student's chat template rewrites earlier turns when the conversation goes"
            " on, so learn_turns: all cannot tell them apart; set train.loss.learn_turns: last, or"
            " train.tokenizer to one whose template keeps what came before"
        )
    while length and not tokenizer.decode(added[length - 1 : length]).strip():
        length -= 1
    return length
