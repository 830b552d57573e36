"""Tools in the student's chat template: what it is shown, what it learns, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.records import EXAMPLE, Example
from engine.rows.tables import to_table, write_parquet
from engine.rows.tools import conversations_of, tools_column, with_answer
from engine.training.chat import learnt_tokens
from engine.training.data import TokenSequence, load_sequences

WORDS = [
    *("<pad>", "<eos>", "<user>", "<assistant>", "<tool>", "<tools>", "<call>", "weather", "Ely?"),
    *("city", "Ely", "Cam", "20", "degrees", "fine"),
]
SHOWN = (
    "{% if tools %}{{ '<tools> ' }}{% for t in tools %}{{ t.function.name + ' ' }}{% endfor %}"
    "{% endif %}"
)
CALLED = (
    "{% for c in m.tool_calls or [] %}{{ '<call> ' + c.function.name + ' ' }}"
    "{% for name, value in c.function.arguments.items() %}{{ name + ' ' + value + ' ' }}"
    "{% endfor %}{% endfor %}"
)
TURNS = (
    "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' ' }}CALLED{{ '<eos> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
TEMPLATE = SHOWN + TURNS.replace("CALLED", CALLED)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
ELY = '[{"name": "weather", "arguments": {"city": "Ely"}}]'
QUESTION = {"role": "user", "content": "Ely?"}
CALL = {"role": "assistant", "content": ""}
SAID = {"role": "tool", "content": "20 degrees"}


def example_that_calls(offered: list[Any]) -> Example:
    tools = with_answer(tools_column(offered, {}), 1, ELY)
    return Example(1, "t", 0, "train", [QUESTION, CALL], tools=tools)


def example_after_a_call() -> Example:
    asked = with_answer(tools_column([TOOL], {}), 1, ELY)
    assert asked is not None
    tools = asked.replace('"turns": {', '"turns": {"2": {"tool_call_id": "call00001"}, ')
    messages = [QUESTION, CALL, SAID, {"role": "assistant", "content": "20 fine"}]
    return Example(2, "t", 0, "train", messages, tools=tools)


def learnt(row: Example, tokenizer: Any, turns: str = "last") -> tuple[str, list[str]]:
    """What the student reads, and the stretches of it that it learns."""
    (conversation,) = conversations_of(to_table([row], EXAMPLE))
    ids, is_target = learnt_tokens(conversation, tokenizer, turns)
    stretches = [""]
    for token, wanted in zip(ids.tolist(), is_target.tolist(), strict=True):
        if wanted:
            stretches[-1] += f"{tokenizer.decode([token])} "
        elif stretches[-1]:
            stretches.append("")
    return tokenizer.decode(ids), [one.strip() for one in stretches if one]


def load(folder: Path, row: Example, tokenizer: Any, **more: Any) -> list[TokenSequence]:
    file = folder / "a.parquet"
    write_parquet(to_table([row], EXAMPLE, {"top_k": 0, **more}), file)
    return list(load_sequences([file], TrainSpec(student="s"), tokenizer, len(WORDS)))


def test_a_call_is_learnt_as_the_template_writes_it_and_the_tools_are_read(
    make_tokenizer: Callable[..., Any],
) -> None:
    read, targets = learnt(example_that_calls([TOOL]), make_tokenizer(WORDS, TEMPLATE))
    assert read == "<tools> weather <user> Ely? <eos> <assistant> <call> weather city Ely <eos>"
    assert targets == ["<call> weather city Ely <eos>"]


def test_what_a_tool_answers_is_read_and_never_learnt(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(WORDS, TEMPLATE)
    read, targets = learnt(example_after_a_call(), tokenizer)
    assert read.endswith(
        "<call> weather city Ely <eos> <tool> 20 degrees <eos> <assistant> 20 fine <eos>"
    )
    assert targets == ["20 fine <eos>"]
    _, every = learnt(example_after_a_call(), tokenizer, "all")
    assert every == ["<call> weather city Ely <eos>", "20 fine <eos>"]


def test_a_template_that_shows_no_tools_is_refused(
    tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(WORDS, TURNS.replace("CALLED", CALLED))
    with pytest.raises(StageError, match=r"chat template leaves tools out.*train\.tokenizer"):
        load(tmp_path, example_that_calls([TOOL]), tokenizer)
    assert load(tmp_path, example_that_calls([]), tokenizer)


def test_a_template_that_writes_no_calls_is_refused(
    tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(WORDS, SHOWN + TURNS.replace("CALLED", ""))
    with pytest.raises(StageError, match="leaves out calls of tools, such as of weather"):
        load(tmp_path, example_that_calls([TOOL]), tokenizer)


def test_tokens_of_another_call_than_the_stored_one_are_refused(
    tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(WORDS, TEMPLATE)
    fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
    own = tokenizer("<call> weather city Ely <eos>")["input_ids"]
    row = replace(example_that_calls([TOOL]), token_ids=own)
    (sequence,) = load(tmp_path, row, tokenizer, tokenizer_fingerprint=fingerprint)
    assert sequence.ids[sequence.is_target].tolist() == own
    other = replace(row, token_ids=tokenizer("fine <eos>")["input_ids"])
    with pytest.raises(StageError, match="teach another text than their answer"):
        load(tmp_path, other, tokenizer, tokenizer_fingerprint=fingerprint)


def test_an_example_without_tools_is_read_as_ever(make_tokenizer: Callable[..., Any]) -> None:
    row = Example(1, "t", 0, "train", [QUESTION, {"role": "assistant", "content": "fine"}])
    assert learnt(row, make_tokenizer(WORDS, TEMPLATE)) == (
        "<user> Ely? <eos> <assistant> fine <eos>",
        ["fine <eos>"],
    )
