"""Tools in source files: what is understood, what is quarantined, what an id depends on."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.ids import prompt_hash
from engine.rows.sources.source_row import BadRow
from engine.stages.prompts import heads, reading

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {
    "id": "x7",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Ely"}'},
}
CHAT = [
    {"role": "user", "content": "Ely?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "x7", "content": "20 degrees"},
    {"role": "assistant", "content": "It is 20 degrees."},
]
OURS = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Ely"}},
}


def read(tmp_path, *rows, name="a.jsonl", **spec):
    source = tmp_path / name
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PromptsSpec(train=str(source), **spec)
    return [row for _, row in reading.read_prompts(source, settings, "conversation", "train")]


def test_a_conversation_with_calls_and_answers_of_tools_is_openais(tmp_path):
    (prompt,) = read(tmp_path, {"messages": CHAT, "tools": [TOOL]})
    assert prompt.messages == [
        {"role": "user", "content": "Ely?"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "20 degrees"},
    ]
    asked = prompt.conversation
    assert asked.tools == [TOOL]
    assert asked.messages[1]["tool_calls"] == [OURS]
    assert asked.messages[2] == {
        "role": "tool",
        "content": "20 degrees",
        "tool_call_id": "call00001",
        "name": "weather",
    }
    assert (prompt.reference, prompt.reference_calls) == ("It is 20 degrees.", None)
    assert prompt.prompt_sha256 == prompt_hash(prompt.messages, prompt.tools)
    assert "tools" not in json.loads(prompt.meta)


def test_each_turn_that_calls_is_a_prompt_whose_reference_is_the_call(tmp_path):
    first, second = read(tmp_path, {"messages": CHAT, "tools": [TOOL]}, turns="each")
    assert first.messages == CHAT[:1]
    assert json.loads(first.reference_calls) == [OURS["function"]]
    assert first.reference == 'weather {"city": "Ely"}'
    assert (second.reference, second.reference_calls) == ("It is 20 degrees.", None)
    assert second.messages[-1]["role"] == "tool"


def test_ids_of_calls_and_the_order_of_keys_make_no_difference(tmp_path):
    other = json.loads(json.dumps(CHAT).replace("x7", "another"))
    turned = {"function": {"parameters": {"type": "object"}, "name": "weather"}, "type": "function"}
    one, two = read(
        tmp_path, {"messages": CHAT, "tools": [TOOL]}, {"messages": other, "tools": [turned]}
    )
    assert one.prompt_id == two.prompt_id


def test_a_prompt_without_tools_is_what_it_was(tmp_path):
    plain, empty, ignored = read(
        tmp_path, {"prompt": "Hi"}, {"prompt": "Hi", "tools": []}, {"prompt": "Hi", "tools": None}
    )
    ids = {row.prompt_id for row in (plain, empty, ignored)}
    assert ids == {int(prompt_hash([{"role": "user", "content": "Hi"}])[:16], 16) >> 1}
    (unmapped,) = read(tmp_path, {"prompt": "Hi", "tools": "a hammer"}, fields=FieldMap(tools=None))
    assert (unmapped.prompt_id, unmapped.tools) == (plain.prompt_id, None)
    assert json.loads(unmapped.meta) == {"tools": "a hammer"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tools": "a hammer"}, "broken_tools"),
        ({"tools": [{"type": "function"}]}, "broken_tools"),
        ({"call": {"function": {"name": "f", "arguments": '{"a": '}}}, "tool_arguments_not_json"),
        ({"call": {"function": {"name": "f", "arguments": "[1]"}}}, "tool_arguments_not_json"),
        ({"call": {"function": {"arguments": "{}"}}}, "broken_tool_call"),
        ({"call": "weather"}, "broken_tool_call"),
        ({"answers": "unknown"}, "tool_answer_without_call"),
        ({"again": True}, "tool_answer_without_call"),
    ],
)
def test_what_is_no_tool_or_call_is_quarantined_by_reason(tmp_path, change, reason):
    messages = json.loads(json.dumps(CHAT))
    if "call" in change:
        messages[1]["tool_calls"] = [change["call"]]
    if "answers" in change:
        messages[2]["tool_call_id"] = change["answers"]
    if "again" in change:
        messages.insert(3, messages[2])
    (row,) = read(tmp_path, {"messages": messages, "tools": change.get("tools", [TOOL])})
    assert isinstance(row, BadRow)
    assert str(row) == reason


def test_older_and_barer_forms_are_understood(tmp_path):
    older = [
        CHAT[0],
        {"role": "assistant", "function_call": CALL["function"]},
        {"role": "function", "name": "weather", "content": "20 degrees"},
        CHAT[3],
    ]
    bare = [
        CHAT[0],
        {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": "Ely"}}]},
        {"role": "tool", "content": "20 degrees"},
        CHAT[3],
    ]
    function = TOOL["function"]
    claude = {"name": "weather", "input_schema": {"type": "object"}}
    rows = read(
        tmp_path,
        {"messages": CHAT, "tools": [TOOL]},
        {"messages": older, "tools": json.dumps([function])},
        {"messages": bare, "tools": [claude]},
    )
    assert len({row.prompt_id for row in rows}) == 1


def test_answers_of_tools_find_their_calls_in_any_order(tmp_path):
    calls = [
        {"id": name, "function": {"name": "weather", "arguments": {"city": name}}}
        for name in ("Ely", "Cam")
    ]
    answers = [
        {"role": "tool", "tool_call_id": "Cam", "content": {"degrees": 21}},
        {"role": "tool", "tool_call_id": "Ely", "content": "20"},
    ]
    chat = [CHAT[0], {"role": "assistant", "tool_calls": calls}, *answers]
    (prompt,) = read(tmp_path, {"messages": chat})
    *_, first, second = prompt.conversation.messages
    assert (first["tool_call_id"], first["content"]) == ("call00002", '{"degrees": 21}')
    assert (second["tool_call_id"], second["content"]) == ("call00001", "20")


def test_a_column_of_gold_calls_is_understood_where_tools_are_offered(tmp_path):
    gold = json.dumps([{"name": "weather", "arguments": {"city": "Ely"}}])
    row = {"query": "Ely?", "tools": json.dumps([TOOL["function"]]), "answers": gold}
    fields = FieldMap(prompt="query", reference="answers")
    (prompt,) = read(tmp_path, row, fields=fields)
    assert json.loads(prompt.reference_calls) == [OURS["function"]]
    assert prompt.reference == 'weather {"city": "Ely"}'
    (without,) = read(tmp_path, {"query": "Ely?", "answers": gold}, fields=fields)
    assert (without.reference, without.reference_calls) == (gold, None)


def test_parquet_gives_the_same_prompt_as_json(tmp_path):
    (of_json,) = read(tmp_path, {"messages": CHAT, "tools": [TOOL]})
    other = {"type": "function", "function": {"name": "g", "description": "d"}}
    rows = [{"messages": CHAT, "tools": [TOOL]}, {"messages": CHAT, "tools": [other]}]
    source = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    spec = PromptsSpec(train=str(source))
    (_, of_parquet), _ = reading.read_prompts(source, spec, "conversation", "train")
    assert of_parquet.conversation == of_json.conversation


def test_check_sees_the_first_conversation_with_tools(tmp_path):
    read(tmp_path, {"prompt": "Hi"}, {"messages": CHAT, "tools": [TOOL]})
    found = heads.first_with_tools(PromptsSpec(train=str(tmp_path / "a.jsonl")))
    assert found.tools == [TOOL]
    read(tmp_path, {"prompt": "Hi"})
    assert heads.first_with_tools(PromptsSpec(train=str(tmp_path / "a.jsonl"))) is None
