"""What tools add to conversations: in files and in memory, as text, and when calls are equal."""

import json

import pyarrow as pa
import pytest

from engine.rows.ids import prompt_hash
from engine.rows.records import EXAMPLE, PROMPT, Example, Prompt
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.rows.tools import (
    as_call,
    calls_column,
    conversation_of,
    conversations_of,
    is_sound,
    same_calls,
    spelled,
    tools_column,
    with_answer,
)

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"b": 1, "a": 2}}}
USER = {"role": "user", "content": "Ely?"}
CALLS = '[{"name": "weather", "arguments": {"city": "Ely"}}]'


def row(messages, tools):
    return Prompt(1, "", "a", messages, "conversation", "a", "train", tools=tools)


def test_a_conversation_comes_back_from_a_file_as_it_went_in(tmp_path):
    messages = [USER, {"role": "assistant", "content": ""}, {"role": "tool", "content": "20"}]
    call = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Ely"}},
    }
    turns = {1: {"tool_calls": [call]}, 2: {"tool_call_id": "call00001", "name": "weather"}}
    rows = [row(messages, tools_column([WEATHER], turns)), row([USER], None)]
    write_parquet(to_table(rows, PROMPT), tmp_path / "a.parquet")
    (table,) = read_tables([tmp_path / "a.parquet"])
    assert to_rows(table, Prompt) == rows
    whole, plain = conversations_of(table)
    assert whole.messages == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "20", "tool_call_id": "call00001", "name": "weather"},
    ]
    assert list(whole.tools[0]["function"]["parameters"]) == ["b", "a"]
    assert (plain.messages, plain.tools) == ([USER], [])
    assert rows[0].conversation == whole


def test_files_of_an_older_version_have_no_tools(tmp_path):
    old = to_table([row([USER], None)], PROMPT).drop_columns(["tools", "reference_calls"])
    write_parquet(old, tmp_path / "old.parquet")
    wanted = ["messages", "tools"]
    (table,) = read_tables([tmp_path / "old.parquet"], wanted, optional=["tools"])
    assert table.column_names == ["messages"]
    assert conversations_of(table)[0].messages == [USER]
    assert to_rows(old, Prompt) == [row([USER], None)]
    with pytest.raises(Exception, match="tools"):
        next(read_tables([tmp_path / "old.parquet"], wanted))


def test_a_prompt_without_tools_keeps_its_id_and_tools_change_it():
    assert prompt_hash([USER]) == prompt_hash([USER], None)
    assert prompt_hash([{"role": "user", "content": "hi"}]) == (
        "4e79873118cd9be7a1f0308b9cd772950c5410c74ca3fe1ba2626cba009a9237"
    )
    ordered = tools_column([WEATHER], {})
    parameters = {"a": 2, "b": 1}
    other = tools_column(
        [{"function": {"parameters": parameters, "name": "weather"}, "type": "function"}], {}
    )
    assert ordered != other
    assert prompt_hash([USER], ordered) == prompt_hash([USER], other) != prompt_hash([USER])


def test_an_answer_joins_its_conversation_with_ids_that_go_on():
    one = with_answer(None, 1, CALLS)
    whole = conversation_of([USER, {"role": "assistant", "content": ""}], one)
    assert [call["id"] for call in whole.messages[1]["tool_calls"]] == ["call00001"]
    two = with_answer(one, 3, json.dumps(json.loads(CALLS) * 2))
    written = json.loads(two)["turns"]["3"]["tool_calls"]
    assert [call["id"] for call in written] == ["call00002", "call00003"]
    assert with_answer(one, 3, None) == one
    assert pa.array([with_answer(None, 1, None)], EXAMPLE.field("tools").type).null_count == 1
    assert Example(1, "t", 0, "train", []).tools is None


@pytest.mark.parametrize(
    ("given", "arguments", "sound"),
    [
        ('{"n": 1}', {"n": 1}, True),
        ({"n": 1}, {"n": 1}, True),
        ("", {}, True),
        (None, {}, True),
        ('{"n": 1', '{"n": 1', False),
        ("[1]", "[1]", False),
        ([1], "[1]", False),
        ("[" * 100_000, "[" * 100_000, False),
    ],
)
def test_arguments_are_an_object_or_stay_what_was_written(given, arguments, sound):
    call = as_call("f", given)
    assert call == {"name": "f", "arguments": arguments}
    assert is_sound(call) == sound
    assert not is_sound(as_call("", given))


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([("f", {"a": 1, "b": [2]})], [("f", {"b": [2.0], "a": 1.0})], True),
        ([("f", {}), ("g", {})], [("g", {}), ("f", {})], True),
        ([("f", {})], [("f", {}), ("f", {})], False),
        ([("f", {"a": "1"})], [("f", {"a": 1})], False),
        ([("f", {"a": True})], [("f", {"a": 1})], False),
        ([("f", {"a": "x "})], [("f", {"a": "x"})], False),
        ([("f", {"a": 1})], [("g", {"a": 1})], False),
        ([("f", "{")], [("f", "{")], True),
        ([], [], True),
        ([("f", {})], [], False),
    ],
)
def test_calls_are_equal_by_name_and_arguments(ours, theirs, same):
    columns = [
        calls_column([{"name": name, "arguments": given} for name, given in calls])
        for calls in (ours, theirs)
    ]
    assert same_calls(*columns) == same


def test_calls_stand_behind_the_text_one_a_line():
    assert spelled("Hello", None) == "Hello"
    assert spelled("", CALLS) == 'weather {"city": "Ely"}'
    assert spelled("Let me see.", CALLS) == 'Let me see.\nweather {"city": "Ely"}'
    assert spelled(" ", '[{"name": "", "arguments": "<broken"}]') == " <broken"
