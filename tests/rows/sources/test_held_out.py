"""Files of test data, whatever their columns are called."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.rows.sources.held_out import held_out_texts

FIELD = "prompts.decontaminate.against"


def jsonl(path, *rows):
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return str(path)


CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
]
SGD = [{"speaker": "USER", "utterance": "A cab"}, {"speaker": "SYSTEM", "utterance": "Where to?"}]
ROWS = {
    "the job's own columns first": ({"ask": "a?", "prompt": "no"}, [["ask"]], "a?"),
    "all of a group": ({"p": "one", "h": "two", "text": "no"}, [["p", "h"]], "one\ntwo"),
    "not half a group": ({"p": "one", "text": "yes"}, [["p", "h"]], "yes"),
    "a question without its answer": ({"question": "How many?", "answer": "4"}, [], "How many?"),
    "turns but the system's": ({"messages": CHAT}, [], "Hi\nHo"),
    "a conversation as JSON": ({"messages": json.dumps(CHAT)}, [], "Hi\nHo"),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "Hi"}]}, [], "Hi"),
    "schema-guided": ({"turns": SGD}, [], "A cab\nWhere to?"),
    "sentences": ({"source": ["One.", "Two."]}, [], "One.\nTwo."),
    "an empty input": ({"instruction": "Write.", "input": ""}, [], "Write."),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_gives_what_it_asks(tmp_path, case):
    row, columns, text = ROWS[case]
    path = jsonl(tmp_path / "t.jsonl", row)
    assert held_out_texts(FIELD, [path], columns) == {path: [text]}


def test_texts_stand_at_their_lines_and_what_cannot_be_read_is_none(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", {"prompt": "one"}, "", "{", {"prompt": "four"})
    assert held_out_texts(FIELD, [path]) == {path: ["one", None, None, "four"]}


def test_a_folder_and_other_formats_are_read_as_prompts_are(tmp_path):
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"question": ["one", "two"]}), tmp_path / "d/b.parquet")
    (tmp_path / "d/a.csv").write_text("query,n\nthree,1\n")
    found = held_out_texts(FIELD, [str(tmp_path / "d")])
    assert list(found.values()) == [[None, "three"], ["one", "two"]]  # a header is a line


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"score": 1, "label": "x"}], r"of 1 lines none .*found: 'score', 'label'\. Rename"),
        ([{"prompt": "?!"}], r"found: 'prompt'"),
        ([{"prompt": 7}], r"found: 'prompt'"),
        (["{"], r"columns found: none"),
    ],
)
def test_a_file_without_readable_text_is_refused_with_what_was_found(tmp_path, rows, said):
    path = jsonl(tmp_path / "t.jsonl", *rows)
    with pytest.raises(InputError, match=said) as told:
        held_out_texts(FIELD, [path])
    assert str(told.value).startswith(f"{FIELD}: {path} holds no text")


def test_a_file_that_is_not_there_is_named_with_its_field(tmp_path):
    with pytest.raises(
        InputError, match=rf"{FIELD}: .*none.jsonl does not exist; correct the path"
    ):
        held_out_texts(FIELD, [str(tmp_path / "none.jsonl")])
