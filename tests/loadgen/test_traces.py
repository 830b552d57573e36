"""Traces as they are published, and as people write them."""

import numpy as np
import pytest

from engine.errors import InputError
from engine.loadgen.traces import load_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.9799600,110,27
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 3000, "input_length": 10, "output_length": 20, "hash_ids": [0]}
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,API log
"""
TEXTS = """{"time": 2.5, "prompt": "second", "output_tokens": 3}
{"time": 1.0, "prompt": "first", "output_tokens": 4}
"""
MESSAGES = """{"timestamp_ms": 0, "messages": [{"role": "system", "content": "s"}]}
{"timestamp_ms": 1500, "messages": [{"role": "user", "content": "u", "name": "n"}]}
"""


def trace(tmp_path, text, name="trace.csv", **how):
    path = tmp_path / name
    path.write_text(text)
    return load_trace(path, **how)


def test_dates_and_lengths_of_azures_trace(tmp_path):
    found = trace(tmp_path, AZURE)
    assert found.times_s == pytest.approx([0, 0.052, 1.0], abs=1e-9)
    assert found.input_tokens.tolist() == [4808, 3180, 110]
    assert found.output_tokens.tolist() == [10, 8, 27]
    assert found.prompts == []


def test_milliseconds_are_said_or_are_in_the_columns_name(tmp_path):
    found = trace(tmp_path, MOONCAKE, "trace.jsonl", unit_s=0.001)
    assert found.times_s.tolist() == [0, 3]
    assert found.input_tokens.tolist() == [6755, 10]
    named = trace(tmp_path, MESSAGES, "trace.jsonl")
    assert named.times_s.tolist() == [0, 1.5]


def test_seconds_count_from_the_first(tmp_path):
    found = trace(tmp_path, BURST)
    assert found.times_s.tolist() == [0, 40.5]
    assert found.output_tokens.tolist() == [18, 230]


def test_texts_are_prompts_in_the_order_in_which_they_came(tmp_path):
    found = trace(tmp_path, TEXTS, "trace.jsonl")
    assert found.times_s.tolist() == [0, 1.5]
    assert found.prompts[0] == [{"role": "user", "content": "first"}]
    assert found.output_tokens.tolist() == [4, 3]
    assert found.input_tokens is None


def test_messages_are_as_they_were_written(tmp_path):
    found = trace(tmp_path, MESSAGES, "trace.jsonl")
    assert found.prompts == [
        [{"role": "system", "content": "s"}],
        [{"role": "user", "content": "u", "name": "n"}],
    ]
    table = 'time,messages\n0,"[{""role"": ""user"", ""content"": ""hi""}]"\n1,[{not json\n'
    found = trace(tmp_path, table)
    assert found.prompts[0] == [{"role": "user", "content": "hi"}]
    assert found.prompts[1] == [{"role": "user", "content": "[{not json"}]


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("a,b\n1,2\n", "trace.csv", "no timestamps"),
        ("timestamp\n", "trace.csv", "no timestamps"),
        ("timestamp\nyesterday\n", "trace.csv", "dates or numbers"),
        ("timestamp,x\n1,2\n,3\n", "trace.csv", "a timestamp is missing"),
        ("timestamp,input_tokens\n1,2.5\n", "trace.csv", "whole numbers"),
        ("timestamp,output_tokens\n1,-5\n", "trace.csv", "below 0"),
        ('{"timestamp": 1, "prompt": null}\n', "trace.jsonl", "is no prompt"),
        ("{", "trace.jsonl", "trace.jsonl"),
        ("", "trace.txt", "a trace is a .csv or .jsonl file"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path, text, name, words):
    with pytest.raises(InputError, match=words):
        trace(tmp_path, text, name)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv"):
        load_trace(tmp_path / "none.csv")
    assert isinstance(trace(tmp_path, BURST).times_s, np.ndarray)
