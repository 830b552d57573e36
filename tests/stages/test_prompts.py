import gzip
import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.job.spec import FieldMap, PromptsSpec
from engine.rows.final_answer import Rules
from engine.rows.ids import prompt_hash, prompt_id_of
from engine.rows.records import PROMPT, Prompt
from engine.rows.sources.readers import data_files
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.identity import content_identity
from engine.run.manifests import finished, load_manifest, publish
from engine.stages import prompts
from engine.stages.prompts import heads
from engine.stages.prompts.head_lines import head_lines

CTX = Context(job="t", task="math", seed=0)


def write(path, *rows):
    path.write_bytes(
        b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
        + b"\n"
    )
    return str(path)


def run(tmp_path, ctx=CTX, **spec):
    """The published stage: its counts, its prompts by split and its folder."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    counts = prompts.run(PromptsSpec(**{"validation_fraction": 0.0, **spec}), {}, out, ctx)
    publish(out, "prompts", {}, counts, 0.0)
    assert counts.rows_in == counts.rows_out + sum(counts.dropped.values())
    return counts, {split: load(out, split) for split in ("train", "validation")}, out


def load(out, split):
    return [
        row for table in read_tables(finished(out).files(split)) for row in to_rows(table, Prompt)
    ]


def many(count):
    return [{"prompt": f"What is {n} + 1?", "reference": f"#### {n + 1}"} for n in range(count)]


def test_a_prompt_gets_a_stable_id_from_its_messages(tmp_path):
    _, split, out = run(
        tmp_path,
        train=write(tmp_path / "a.jsonl", {"prompt": "Hi", "reference": 3, "level": "easy"}),
    )
    messages = [{"role": "user", "content": "Hi"}]
    sha256 = prompt_hash(messages)
    assert split["train"] == [
        Prompt(
            prompt_id_of(sha256),
            sha256,
            "a.jsonl:1",
            messages,
            "math",
            "a.jsonl",
            "train",
            "3",
            '{"level": "easy"}',
            ["3"],
        )
    ]
    assert pq.read_schema(finished(out).files("train")[0]).equals(PROMPT)


def test_gsm8k_columns_are_mapped_and_the_reference_is_kept_whole(tmp_path):
    source = write(tmp_path / "a.jsonl", {"question": "How many?", "answer": "2+2=4\n#### 4"})
    _, split, _ = run(
        tmp_path, train=source, fields=FieldMap(prompt="question", reference="answer")
    )
    assert split["train"][0].messages == [{"role": "user", "content": "How many?"}]
    assert split["train"][0].reference == "2+2=4\n#### 4"


def test_jsonl_csv_and_parquet_give_the_same_prompts(tmp_path):
    rows = [{"prompt": 'Say "a,b"\nand c', "reference": "x"}, {"prompt": "Grüße", "reference": "y"}]
    write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.csv").write_text(
        '\ufeffprompt,reference\n"Say ""a,b""\nand c",x\nGrüße,y\n', encoding="utf-8"
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = {}
    for kind in ("jsonl", "csv", "parquet"):
        (tmp_path / kind).mkdir()
        read[kind] = [
            (p.messages, p.reference)
            for p in run(tmp_path / kind, train=str(tmp_path / f"a.{kind}"))[1]["train"]
        ]
    assert read["jsonl"] == read["csv"] == read["parquet"]
    assert len(read["jsonl"]) == 2


def test_a_folder_and_a_list_are_read_in_order(tmp_path):
    (tmp_path / "d").mkdir()
    write(tmp_path / "d/b.jsonl", {"prompt": "two"})
    write(tmp_path / "d/a.jsonl", {"prompt": "one"})
    last = write(tmp_path / "c.jsonl", {"prompt": "three"})
    _, split, _ = run(tmp_path, train=[str(tmp_path / "d"), last])
    assert [p.messages[0]["content"] for p in split["train"]] == ["one", "two", "three"]


def test_conversations_and_system_messages(tmp_path):
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "d"}]
    rows = [
        {"messages": chat, "prompt": "ignored"},
        {"messages": own},
        {"messages": None, "prompt": "e", "sys": "row"},
    ]
    _, split, _ = run(
        tmp_path,
        train=write(tmp_path / "a.jsonl", *rows),
        system="all",
        fields=FieldMap(system="sys"),
    )
    first, second, third = (p.messages for p in split["train"])
    assert first == [{"role": "system", "content": "all"}, *chat]
    assert second == own
    assert third == [{"role": "system", "content": "row"}, {"role": "user", "content": "e"}]


BAD_LINES = [
    (b'{"prompt": "cut', "broken_json"),
    (b"[" * 200_000, "broken_json"),
    (b'{"prompt": "\xff"}', "invalid_utf8"),
    (b'{"prompt": "\\ud800"}', "invalid_utf8"),
    ({"text": "no such column"}, "missing_field"),
    (["not", "an object"], "wrong_type"),
    ({"prompt": 7}, "content_not_text"),
    ({"prompt": "p", "reference": [[1], [2]]}, "several_values"),
    ({"messages": [{"role": "user"}]}, "wrong_type"),
    ({"prompt": " \n"}, "empty_prompt"),
    ({"messages": [{"role": "system", "content": "q"}]}, "last_message_not_user"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "last_message_not_user"),
    ({"messages": [{"role": "user", "content": "q", "name": "bob"}]}, "unknown_message_field"),
    ({"messages": [{"role": "wizard", "content": "q"}]}, "unknown_role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "content_not_text",
    ),
    (
        {
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
                {"role": "user", "content": "q"},
            ]
        },
        "broken_tool_call",
    ),
    (
        {"messages": [{"role": "tool", "content": "42"}, {"role": "user", "content": "q"}]},
        "tool_answer_without_call",
    ),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_goes_to_quarantine_and_the_others_are_kept(tmp_path, line, reason):
    source = write(tmp_path / "a.jsonl", {"prompt": "good"}, line, {"prompt": "good too"})
    counts, split, out = run(tmp_path, train=source)
    assert len(split["train"]) == 2
    assert counts.dropped == {reason: 1}
    assert pq.read_table(out / "data/quarantine.parquet").to_pylist() == [
        {"file": source, "line": 2, "reason": reason}
    ]


def test_warnings_say_how_many_lines_are_in_quarantine_and_that_nothing_validates(tmp_path):
    counts, _, out = run(
        tmp_path, train=write(tmp_path / "a.jsonl", {"prompt": "good"}, b"{", {"prompt": 1}, b"}")
    )
    quarantine, validation = counts.info.warnings
    assert quarantine == (
        "3 of 4 lines went to quarantine (broken_json 2, content_not_text 1):"
        f" {out / 'data/quarantine.parquet'}; --strict makes this an error"
    )
    assert validation.startswith("none of 4 rows is a validation prompt")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("one,two,three", "wrong_column_count"),
        ('"a"b,c', "broken_csv"),
        ("caf\xe9,r", "invalid_utf8"),
    ],
)
def test_a_bad_csv_line_goes_to_quarantine(tmp_path, line, reason):
    (tmp_path / "a.csv").write_bytes(f"prompt,reference\ngood,1\n{line}\n".encode("latin-1"))
    counts, split, _ = run(tmp_path, train=str(tmp_path / "a.csv"))
    assert len(split["train"]) == 1
    assert counts.dropped == {reason: 1}


def test_invalid_utf8_in_parquet_costs_one_row(tmp_path):
    column = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet")
    counts, split, _ = run(tmp_path, train=str(tmp_path / "a.parquet"))
    assert len(split["train"]) == 2
    assert counts.dropped == {"invalid_utf8": 1}


def test_strict_turns_bad_lines_into_an_error_that_names_them(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "good"}, b"{", {"prompt": 1})
    with pytest.raises(
        InputError, match=r"2 of 3 lines.*broken_json 1.*quarantine.parquet.*a.jsonl:2: broken_json"
    ):
        run(tmp_path, Context(job="t", task="math", seed=0, strict=True), train=source)
    assert load_manifest(tmp_path / "out") is None
    assert pq.read_metadata(tmp_path / "out/data/quarantine.parquet").num_rows == 2


def test_repeated_prompts_are_dropped_and_counted(tmp_path):
    counts, split, _ = run(
        tmp_path, train=write(tmp_path / "a.jsonl", *[{"prompt": "same", "reference": "1"}] * 3)
    )
    assert len(split["train"]) == 1
    assert counts.dropped == {"duplicate": 2}


def test_equal_messages_with_other_references_stop_or_keep_the_first(tmp_path):
    source = write(
        tmp_path / "a.jsonl", {"prompt": "q", "reference": "1"}, {"prompt": "q", "reference": "2"}
    )
    with pytest.raises(
        InputError,
        match=r"a.jsonl:1 and .*a.jsonl:2: equal messages, different"
        r" references.*on_conflict: first",
    ):
        run(tmp_path, train=source)
    counts, split, _ = run(tmp_path, train=source, on_conflict="first")
    assert [p.reference for p in split["train"]] == ["1"]
    assert counts.dropped == {"other_reference": 1}


def test_a_file_named_twice_is_read_once(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": "b"})
    counts, split, _ = run(tmp_path, train=[source, source])
    assert len(split["train"]) == 2
    assert counts.dropped == {"duplicate": 2}


def test_a_duplicate_id_with_other_content_names_both_places(tmp_path):
    source = write(
        tmp_path / "a.jsonl",
        {"prompt": "a", "id": 7},
        {"prompt": "a", "id": 7},
        {"prompt": "b", "id": 7},
    )
    with pytest.raises(
        InputError, match=r"a.jsonl:1 and .*a.jsonl:3: a duplicate id with other content \(id='7'\)"
    ):
        run(tmp_path, train=source, fields=FieldMap(id="id"))


def test_a_validation_prompt_is_taken_out_of_train(tmp_path):
    train = write(tmp_path / "t.jsonl", {"prompt": "a"}, {"prompt": "b"})
    validation = write(tmp_path / "v.jsonl", {"prompt": "b"})
    counts, split, _ = run(tmp_path, train=train, validation=validation)
    assert [
        [p.messages[0]["content"] for p in split[name]] for name in ("train", "validation")
    ] == [["a"], ["b"]]
    assert counts.dropped == {"in_validation": 1}
    assert (counts.info.train, counts.info.validation, counts.info.warnings) == (1, 1, [])


def test_the_seeded_split_does_not_depend_on_order_or_on_other_rows(tmp_path):
    rows = many(2000)
    held_out = []
    for name, chosen in (
        ("all", rows),
        ("shuffled", random.Random(1).sample(rows, 2000)),
        ("half", rows[:1000]),
    ):
        (tmp_path / name).mkdir()
        _, split, _ = run(
            tmp_path / name,
            train=write(tmp_path / f"{name}.jsonl", *chosen),
            validation_fraction=0.1,
        )
        assert {p.split for p in split["validation"]} == {"validation"}
        held_out.append({p.prompt_id for p in split["validation"]})
    everything, shuffled, half = held_out
    assert everything == shuffled
    assert half < everything
    assert 150 < len(everything) < 250  # 200 expected, sigma 13


def test_shards_hold_shard_rows_and_a_rerun_writes_the_same_bytes(tmp_path):
    source = write(tmp_path / "a.jsonl", *many(25))
    counts, _, out = run(tmp_path, train=source, shard_rows=10)
    assert dict(counts.files) == {
        "data/train-00000.parquet": 10,
        "data/train-00001.parquet": 10,
        "data/train-00002.parquet": 5,
    }
    before = {name: entry.sha256 for name, entry in load_manifest(out).files.items()}
    run(tmp_path, train=source, shard_rows=10)
    assert {name: entry.sha256 for name, entry in load_manifest(out).files.items()} == before


def test_limit_reads_the_first_rows_of_each_file(tmp_path):
    sources = [
        write(tmp_path / f"{n}.jsonl", {"prompt": f"{n}a"}, {"prompt": f"{n}b"}) for n in range(2)
    ]
    _, split, _ = run(tmp_path, train=sources, limit=1)
    assert [p.messages[0]["content"] for p in split["train"]] == ["0a", "1a"]


def test_missing_empty_and_useless_sources_are_errors(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "a.txt").write_text("hello")
    useless = write(tmp_path / "useless.jsonl", {"question": "q"})
    for source, message in [
        (tmp_path / "none.jsonl", "prompts.train: .*none.jsonl does not exist"),
        (tmp_path / "empty.jsonl", "empty.jsonl:1: the file is empty"),
        (tmp_path / "folder", r"folder is not one of \.jsonl, \.parquet, .* and holds none"),
        (tmp_path / "cut.parquet", "cut.parquet: unreadable Parquet"),
        (tmp_path / "a.txt", "a.txt is not one of"),
        (useless, r"none of 1 rows is a train prompt \(dropped: missing_field 1\)"),
    ]:
        with pytest.raises(InputError, match=message):
            run(tmp_path, train=str(source))
    with pytest.raises(
        InputError, match=r"prompts.validation: none of 2 rows is a validation prompt"
    ):
        run(tmp_path, train=write(tmp_path / "t.jsonl", {"prompt": "a"}), validation=useless)


def test_the_head_of_good_files_has_no_problems(tmp_path):
    (tmp_path / "v.csv").write_text("prompt,reference\na,1\n")
    train = write(tmp_path / "a.jsonl", *many(300), b"{broken below the head")
    assert heads.head_problems(PromptsSpec(train=train, validation=str(tmp_path / "v.csv"))) == []


def test_the_head_tells_what_is_wrong_with_place_and_remedy(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    twice = [{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}]
    cases = [
        ({"train": str(tmp_path / "none.jsonl")}, "none.jsonl does not exist; correct"),
        ({"train": str(tmp_path / "empty.jsonl")}, "empty.jsonl:1: the file is empty; fill it"),
        (
            {"train": write(tmp_path / "q.jsonl", {"question": "q"})},
            "q.jsonl:1: missing_field, and none of the first",
        ),
        (
            {"train": write(tmp_path / "b.jsonl", b"{", b"}")},
            "b.jsonl:1: broken_json, and none of the first 200 rows",
        ),
        (
            {
                "train": write(tmp_path / "r.jsonl", {"prompt": "q"}),
                "fields": FieldMap(reference="gold"),
            },
            "no row has a 'gold'",
        ),
        (
            {"train": write(tmp_path / "d.jsonl", *twice), "fields": FieldMap(id="id")},
            "a duplicate id with other content",
        ),
    ]
    for spec, message in cases:
        problems = heads.head_problems(PromptsSpec(**spec))
        assert len(problems) == 1
        assert message in problems[0]


@pytest.mark.parametrize(
    ("rows", "spec", "task", "said"),
    [
        (
            [
                {"prompt": "p", "reference": "#### 1"},
                {"prompt": "q", "reference": "none"},
                {"prompt": "r", "level": "x"},
            ],
            {},
            "math",
            "3 of its first 3 rows become prompts; 2 have a reference, of which task math can read"
            " 1 (not line 2: 'none'; give a number, an expression or a solution that ends in one);"
            " not used: level",
        ),
        (
            [{"prompt": "p"}, {"question": "q"}, {"prompt": ""}],
            {},
            "qa",
            "1 of its first 3 rows become prompts (empty_prompt 1, missing_field 1); 0 have a"
            " reference, of which task qa can read 0",
        ),
        (
            [{"premise": "a", "hypothesis": "b", "label": "c", "gold": "neutral"}],
            {"template": "{premise} {hypothesis}"},
            "nli",
            "1 of its first 1 rows become prompts; 0 have a reference, of which task nli can read"
            " 0; not used: gold, label",
        ),
        (
            [{"prompt": "p", "lang": "en"}],
            {},
            "conversation",
            "become prompts; 0 have a reference, of which task conversation can read 0",
        ),
        (
            [{"instruction": "i", "input": "x", "output": "o"}],
            {"fields": FieldMap(prompt="instruction", reference="output")},
            "summarization",
            "1 of its first 1 rows become prompts; 1 have a reference, of which task summarization"
            " can read 1",
        ),
    ],
)
def test_the_head_says_what_becomes_of_the_rows_and_what_nothing_reads(
    tmp_path, rows, spec, task, said
):
    train = write(tmp_path / "a.jsonl", *rows)
    (line,) = head_lines(PromptsSpec(train=train, **spec), task, ["lang"])
    assert line.startswith(f"{train}: ")
    assert line.endswith(said)


@pytest.mark.parametrize(
    ("reference", "all_of_them"),
    [
        (["Ann Lee", "Lee"], ["Ann Lee", "Lee"]),
        ({"text": ["Ann Lee", "Lee", "Lee"], "answer_start": [1, 5, 9]}, ["Ann Lee", "Lee"]),
        (
            {"value": "Ann Lee", "aliases": ["Lee", "A. Lee"], "type": "person"},
            ["Ann Lee", "Lee", "A. Lee"],
        ),
        (["Ann Lee"], ["Ann Lee"]),
        ([1, 2], ["1", "2"]),
        ({"text": [], "answer_start": []}, []),
    ],
)
def test_several_right_answers_are_all_references(tmp_path, reference, all_of_them):
    train = write(tmp_path / "a.jsonl", {"prompt": "Who?", "gold": reference, "page": 3})
    counts, split, _ = run(tmp_path, train=train, fields=FieldMap(reference="gold"))
    (row,) = split["train"]
    assert row.references == all_of_them
    assert row.right_answers == all_of_them
    assert row.reference == next(iter(all_of_them), None)
    assert json.loads(row.meta) == {"page": 3}
    told = "1 rows have several right answers in 'gold'; each of them counts"
    assert (told in counts.info.warnings) == (len(all_of_them) > 1)


def test_labels_of_the_source_become_those_of_the_task(tmp_path):
    rows = [{"prompt": str(n), "label": label} for n, label in enumerate([0, "REFUTES", "?"])]
    train = write(tmp_path / "a.jsonl", *rows)
    labels = {0: "entailment", "REFUTES": "contradiction"}
    fields = FieldMap(reference="label", labels=labels)
    counts, split, _ = run(tmp_path, train=train, fields=fields)
    assert [row.reference for row in split["train"]] == ["entailment", "contradiction", "?"]
    assert counts.info.labels == {"0": "entailment", "REFUTES": "contradiction"}


def test_the_head_names_a_reference_that_the_task_cannot_read_and_what_to_do(tmp_path):
    labels = [{"prompt": str(n), "reference": label} for n, label in enumerate([0, -1, "yes"])]
    train = write(tmp_path / "a.jsonl", *labels)
    (line,) = head_lines(PromptsSpec(train=train), "nli", [])
    assert line.endswith(
        "3 have a reference, of which task nli can read 2 (not line 2: '-1'; name what the labels"
        " mean in prompts.fields.labels)"
    )
    texts = ["Paris", "It stands in the capital of France, which is Paris."]
    long = [{"prompt": str(n), "reference": text} for n, text in enumerate(texts)]
    spec = PromptsSpec(train=write(tmp_path / "b.jsonl", *long))
    (line,) = head_lines(spec, "qa", [])
    assert "task qa can read 1 (not line 2: 'It stands in the capital of France, whic…'" in line
    assert line.endswith("set curate.verify.qa, or it is not checked)")
    (line,) = head_lines(spec, "qa", [], Rules(qa="f1>=0.5"))
    assert line.endswith("of which task qa can read 2")


@pytest.mark.parametrize(
    ("column", "types"),
    [
        ("reference", "integer in one and string in the other"),
        ("level", "string in one and float in the other"),
    ],
)
def test_a_column_that_changes_its_type_between_shards_names_both_files(tmp_path, column, types):
    kinds = {"reference": ([1, 2], ["1", "2"]), "level": (["low", "high"], [1.0, 2.0])}[column]
    for name, values in zip("ab", kinds, strict=True):
        rows = {"prompt": [f"{name}0?", f"{name}1?"], "reference": [None, None]} | {column: values}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    message = f"a.parquet and .*b.parquet: column '{column}' is {types}"
    with pytest.raises(InputError, match=message):
        run(tmp_path, train=str(tmp_path))
    (problem,) = heads.head_problems(PromptsSpec(train=str(tmp_path)))
    assert re.search(message, problem), "found before anything starts"


def test_a_change_in_a_later_shard_than_preflight_reads_is_found_too(tmp_path):
    for number in range(12):
        values = ["1"] if number < 11 else [1]
        pq.write_table(
            pa.table({"prompt": [f"{number}?"], "reference": values}),
            tmp_path / f"{number:02d}.parquet",
        )
    with pytest.raises(InputError, match=r"00\.parquet and .*11\.parquet: column 'reference'"):
        run(tmp_path, train=str(tmp_path))


def test_width_encoding_and_empty_columns_are_no_change_of_type(tmp_path):
    text = pa.array(["1"])
    columns = [
        text,
        text.cast(pa.large_string()),
        text.dictionary_encode(),
        pa.nulls(1),
        pa.array(["1"], pa.string_view()),
    ]
    for number, column in enumerate(columns):
        pq.write_table(
            pa.table({"prompt": [f"{number}?"], "reference": column}),
            tmp_path / f"{number}.parquet",
        )
    counts, _, _ = run(tmp_path, train=str(tmp_path))
    assert counts.rows_out == 5


# Files as people have them

ROWS = [{"prompt": f"q{n}", "reference": str(n)} for n in range(3)]


def as_read(tmp_path, name, data, **spec):
    """(prompt, reference) of each row of a file with these bytes, and the counts."""
    (tmp_path / name).write_bytes(data)
    counts, split, _ = run(tmp_path, train=str(tmp_path / name), **spec)
    return [(row.messages[-1]["content"], row.reference) for row in split["train"]], counts


JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
SEMICOLONS = "\ufeffprompt;reference\n" + "".join(f"q{n};{n}\n" for n in range(3))
FORMS = {
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.jsonl.gz": gzip.compress(JSONL.encode()),
    "a.jsonl.zst": bytes(pa.compress(JSONL.encode(), codec="zstd", asbytes=True)),
    "a.jsonl": JSONL.encode("utf-16"),
    "b.jsonl": b"\xef\xbb\xbf" + JSONL.encode(),
    "a.csv": SEMICOLONS.encode(),
    "b.csv": SEMICOLONS.replace(";", "|").encode("utf-8"),
    "c.csv": SEMICOLONS.replace("\ufeff", "").encode("utf-16"),
    "d.csv": SEMICOLONS.replace(";", " , ").encode(),
    "a.tsv": SEMICOLONS.replace(";", "\t").encode(),
    "a.csv.gz": gzip.compress(SEMICOLONS.encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_row_is_the_same_however_its_file_is_written(tmp_path, name):
    rows, counts = as_read(tmp_path, name, FORMS[name])
    assert [(prompt.strip(), reference.strip()) for prompt, reference in rows] == [
        ("q0", "0"),
        ("q1", "1"),
        ("q2", "2"),
    ]
    assert counts.rows_in == 3


@pytest.mark.parametrize(
    ("text", "rows", "broken"),
    [
        (
            'prompt,reference\ngood,1\n"never closed,7\n'
            + "".join(f"What is {n} + 0?,{n}\n" for n in range(1000)),
            1001,
            1,
        ),
        ('prompt,reference\n"never closed,7\na,1\n"b, too",2\nc,3\n', 3, 1),
        ('prompt,reference\na,1\n"one, two"three,2\nb,3\n"also "bad",4\nc,5\n', 3, 2),
        ('prompt,reference\n"a\nwith lines",1\nb,2\n', 2, 0),
    ],
)
def test_one_stray_quote_costs_one_row(tmp_path, text, rows, broken):
    found, counts = as_read(tmp_path, "a.csv", text.encode())
    assert (len(found), counts.rows_in) == (rows, rows + broken)


def test_a_quote_that_is_never_closed_in_a_large_file_costs_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.rows.sources.delimited.MOST_LINES", 50)
    text = 'prompt,reference\n"never closed,7\n' + "".join(f"q{n},{n}\n" for n in range(500))
    found, counts = as_read(tmp_path, "a.csv", text.encode())
    assert (len(found), counts.rows_in, dict(counts.dropped)) == (500, 501, {"broken_csv": 1})


def test_a_column_that_is_there_twice_is_refused_and_those_found_are_listed(tmp_path):
    (tmp_path / "twice.csv").write_text("prompt,reference, reference\nq,5,9\n")
    with pytest.raises(InputError, match=r"twice\.csv:1: the column 'reference' is there twice"):
        run(tmp_path, train=str(tmp_path / "twice.csv"))
    (tmp_path / "other.csv").write_text("question,answer\nq,5\n")
    (problem,) = heads.head_problems(PromptsSpec(train=str(tmp_path / "other.csv")))
    assert problem.endswith("columns found: 'question', 'answer'")


def test_foreign_files_of_a_folder_are_skipped_and_listed(tmp_path):
    folder = tmp_path / "data"
    for name in (
        "a.jsonl",
        ".ipynb_checkpoints/a-checkpoint.jsonl",
        "._a.jsonl",
        "__MACOSX/b.jsonl",
        "_cache/c.jsonl",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"prompt": name}) + "\n")
    (folder / "state.json").write_text('{"_fingerprint": "x"}')
    (folder / ".hidden.csv").touch()
    counts, split, _ = run(tmp_path, train=str(folder))
    assert [row.messages[0]["content"] for row in split["train"]] == ["a.jsonl"]
    assert len(counts.info.skipped_files) == 6
    assert heads.head_problems(PromptsSpec(train=str(folder))) == []


def test_a_datasets_folder_that_was_saved_to_disk_is_read(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    table = pa.Table.from_pylist(ROWS)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    (folder / "state.json").write_text("{}")
    _, split, _ = run(tmp_path, train=str(folder))
    assert [row.reference for row in split["train"]] == ["0", "1", "2"]


CONVERSATIONS = {
    "the last answer is the reference": (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        [("user", "Hi")],
        "Ho",
    ),
    "an answer of no weight is none": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho", "weight": 0},
            ]
        },
        [("user", "Hi")],
        None,
    ),
    "weights inside": (
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "weight": 0},
                {"role": "user", "content": "c"},
            ]
        },
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        None,
    ),
    "developer": (
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
            ]
        },
        [("system", "Be kind."), ("user", "Hi")],
        None,
    ),
    "text parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
                }
            ]
        },
        [("user", "Hi")],
        None,
    ),
    "empty lists": (
        {"messages": [{"role": "user", "content": "Hi", "tool_calls": []}]},
        [("user", "Hi")],
        None,
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Ho"},
            ]
        },
        [("system", "Be kind."), ("user", "Hi")],
        "Ho",
    ),
    "the reference column wins": (
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
            "reference": "He",
        },
        [("user", "Hi")],
        "He",
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_in_other_peoples_forms(tmp_path, name):
    row, messages, reference = CONVERSATIONS[name]
    _, split, _ = run(tmp_path, train=write(tmp_path / "a.jsonl", row))
    (found,) = split["train"]
    assert [(turn["role"], turn["content"]) for turn in found.messages] == messages
    assert found.reference == reference


def test_an_alpaca_row_is_about_its_input(tmp_path):
    rows = [
        {"instruction": "Translate.", "input": word, "output": "x" + word}
        for word in ("dog", "cat", "")
    ]
    _, split, _ = run(
        tmp_path,
        train=write(tmp_path / "a.jsonl", *rows),
        fields=FieldMap(prompt="instruction", reference="output"),
    )
    assert [row.messages[-1]["content"] for row in split["train"]] == [
        "Translate.\n\ndog",
        "Translate.\n\ncat",
        "Translate.",
    ]


def test_a_template_builds_the_prompt_from_columns_by_name(tmp_path):
    rows = [
        {"premise": "It rains.", "hypothesis": "It is {wet}.", "label": "neutral"},
        {"premise": "It rains."},
    ]
    counts, split, _ = run(
        tmp_path,
        train=write(tmp_path / "a.jsonl", *rows),
        fields=FieldMap(reference="label"),
        template="Premise: {premise}\nHypothesis: {hypothesis}",
    )
    (row,) = split["train"]
    assert (row.messages[0]["content"], row.reference) == (
        "Premise: It rains.\nHypothesis: It is {wet}.",
        "neutral",
    )
    assert counts.dropped == {"missing_field": 1}


@pytest.mark.parametrize("template", ["{premise", "no column", "{}", "{0}", "{a.b}", "{a!r}"])
def test_a_template_that_names_no_columns_is_refused(template):
    with pytest.raises(ValueError, match=r"write column names in braces, such as \{premise\}"):
        PromptsSpec(train="a", template=template)


def test_a_value_that_python_does_not_have_costs_nothing_and_no_number_is_no_reference(tmp_path):
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "reference": [float("nan"), 5.0],
            "until": pa.array([2534023008000000000, 0], pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    _, split, _ = run(tmp_path, train=str(tmp_path / "a.parquet"))
    assert [row.reference for row in split["train"]] == [None, "5.0"]
    rows, _ = as_read(tmp_path, "a.jsonl", b'{"prompt": "a", "reference": NaN}\n')
    assert rows == [("a", None)]


def test_an_array_under_another_name_says_what_it_is(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "[\n" + json.dumps(ROWS[0]) + ",\n" + json.dumps(ROWS[1]) + "\n]\n"
    )
    with pytest.raises(InputError, match=r"this is one JSON array .* name it \.json"):
        run(tmp_path, train=str(tmp_path / "a.jsonl"))


# What else people have


def arrow_folder(folder, rows, name="data-00000-of-00001.arrow"):
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with (
        pa.OSFile(str(folder / name), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    (folder / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
    )
    return folder


def texts(split):
    return [row.messages[-1]["content"] for row in split["train"]]


def test_a_folder_of_several_splits_is_refused_with_their_names(tmp_path):
    for name in ("train", "test"):
        arrow_folder(tmp_path / "ds" / name, ROWS)
    (tmp_path / "ds/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(
        InputError,
        match=r"holds several splits; name one in its place, e.g. of .*ds/train, .*ds/test",
    ):
        run(tmp_path, train=str(tmp_path / "ds"))
    _, split, _ = run(tmp_path, train=str(tmp_path / "ds/train"))
    assert len(split["train"]) == len(ROWS)


def test_what_a_library_cached_is_not_read_and_all_that_is_not_read_is_listed(tmp_path):
    folder = arrow_folder(tmp_path / "ds", ROWS)
    arrow_folder(folder, [{"prompt": "MAPPED"}], "cache-1c80317fa3b1799d.arrow")
    write(folder / "A.JSONL", {"prompt": "capital"})
    write(folder / "b.ndjson", {"prompt": "another ending"})
    (folder / "cache").mkdir()
    write(folder / "cache/old.jsonl", {"prompt": "OLD"})
    (folder / "empty.jsonl").touch()
    (folder / "README.txt").write_text("not data")
    counts, split, _ = run(tmp_path, train=str(folder))
    assert set(texts(split)) == {row["prompt"] for row in ROWS} | {"capital", "another ending"}
    names = {Path(path).name for path in counts.info.skipped_files}
    assert names == {
        "cache-1c80317fa3b1799d.arrow",
        "old.jsonl",
        "empty.jsonl",
        "README.txt",
        "state.json",
    }
    (line,) = [
        line
        for line in head_lines(PromptsSpec(train=str(folder)), "math", [])
        if "are not read" in line
    ]
    assert line.startswith("5 other files")


def test_a_foreign_file_in_a_folder_changes_no_identity(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.jsonl", {"prompt": "p"})
    cache = tmp_path / "cache.json"
    before = content_identity(str(folder), cache, lambda path: data_files(path)[0])
    for name in (
        "README.txt",
        ".ipynb_checkpoints/a.jsonl",
        "dataset_info.json",
        "cache/x.parquet",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert content_identity(str(folder), cache, lambda path: data_files(path)[0]) == before
    write(folder / "b.jsonl", {"prompt": "q"})
    assert content_identity(str(folder), cache, lambda path: data_files(path)[0]) != before


def test_a_mapped_system_message_stands_before_a_conversation_too(tmp_path):
    turns = [{"role": "user", "content": "Hi"}]
    own = [{"role": "system", "content": "Own."}, *turns]
    source = write(
        tmp_path / "a.jsonl",
        {"messages": turns, "sys": "Be brief."},
        {"messages": own, "sys": "Other."},
    )
    _, split, _ = run(tmp_path, train=source, fields=FieldMap(system="sys"))
    assert [row.messages[0]["content"] for row in split["train"]] == ["Be brief.", "Own."]


def test_a_mapped_column_that_is_not_read_is_named(tmp_path):
    source = write(
        tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "Hi"}], "prompt": "unread"}
    )
    (line,) = head_lines(PromptsSpec(train=source), "math", [])
    assert "not used: prompt" in line


@pytest.mark.parametrize(
    ("value", "told"), [(17, "Is it prime?\n\n17"), ("", "Is it prime?"), (None, "Is it prime?")]
)
def test_alpacas_second_column_may_be_a_number(tmp_path, value, told):
    source = write(
        tmp_path / "a.jsonl", {"instruction": "Is it prime?", "input": value, "output": "yes"}
    )
    _, split, _ = run(
        tmp_path, train=source, fields=FieldMap(prompt="instruction", reference="output")
    )
    assert texts(split) == [told]


def test_an_empty_column_of_a_template_is_an_empty_text_and_names_may_have_spaces(tmp_path):
    rows = [
        {"Question Text": "Why?", "hint": ""},
        {"Question Text": "How?", "hint": None},
        {"Question Text": "Who?", "hint": 3},
    ]
    counts, split, _ = run(
        tmp_path, train=write(tmp_path / "a.jsonl", *rows), template="{Question Text}|{hint}"
    )
    assert texts(split) == ["Why?|", "Who?|3"]
    assert counts.dropped == {"missing_field": 1}


def test_scalars_of_parquet_are_text_and_columns_that_nobody_reads_cost_nothing(tmp_path):
    late = pa.array([[2**62]], pa.list_(pa.timestamp("us")))
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    )
    columns = {
        " prompt ": pa.array([5]),
        "reference": pa.array([b"0.1"]),
        "weight": pa.array([0.1], pa.float32()),
        "late": late,
        "broken": broken,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    _, split, _ = run(tmp_path, train=str(tmp_path / "a.parquet"))
    assert (texts(split), split["train"][0].reference) == (["5"], "0.1")
    assert json.loads(split["train"][0].meta)["weight"] == 0.1


def test_a_broken_text_in_the_column_that_is_read_costs_its_row(tmp_path):
    broken = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"ok\xff\xfe")
    )
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "a.parquet")
    counts, split, _ = run(tmp_path, train=str(tmp_path / "a.parquet"))
    assert (texts(split), counts.dropped) == (["ok"], {"invalid_utf8": 1})


@pytest.mark.parametrize(
    ("reference", "first"),
    [
        ({"value": "x", "aliases": None}, "x"),
        ({"value": "x", "aliases": "yes"}, "x"),
        ({"answer": "x"}, "x"),
        ([{"text": "x"}, {"text": "y"}], "x"),
    ],
)
def test_references_in_maps_are_found(tmp_path, reference, first):
    _, split, _ = run(
        tmp_path, train=write(tmp_path / "a.jsonl", {"prompt": "p", "reference": reference})
    )
    assert split["train"][0].reference == first


def test_a_map_that_holds_no_known_reference_is_named(tmp_path):
    source = write(
        tmp_path / "a.jsonl", {"prompt": "p", "reference": {"what": "x"}}, {"prompt": "q"}
    )
    assert run(tmp_path, train=source)[0].dropped == {"unknown_reference": 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "p"}\n' * 2000, mtime=0)[:40]),
        ("a.jsonl.gz", b"no gzip at all"),
        ("a.jsonl.zst", b"no zstd at all"),
        ("a.jsonl", '{"prompt": "p"}'.encode("utf-16-le")),
        ("a.csv", "prompt\np\n".encode("utf-32-le")),
        ("a.jsonl", b'[{"prompt": "p"}, {"prompt": "q"}]'),
        ("a.jsonl", b'[{"prompt": "p"},\n{"prompt": "q"}]'),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_with_a_way_out(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"{name}.*(written as its name says|looks like UTF-16|JSON array)"
    ):
        run(tmp_path, train=str(tmp_path / name))
    assert heads.head_problems(PromptsSpec(train=str(tmp_path / name)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_mark_tells_the_encoding(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_bytes('{"prompt": "Grüße"}\n'.encode(encoding))
    assert texts(run(tmp_path, train=str(tmp_path / "a.jsonl"))[1]) == ["Grüße"]


@pytest.mark.parametrize(
    ("name", "content", "prompt", "reference"),
    [
        ("a.tsv", "prompt\treference, gold\np\tr\n", "p", None),
        ("a.csv", "prompt;reference, gold\np;r\nq;s\n", "p", None),
        ("a.csv", "\n\nprompt,reference\np,r\n", "p", "r"),
        ("a.csv", "sep=;\nprompt;reference\np, q;r\n", "p, q", "r"),
        ("a.csv", "prompt,reference,,\np,r,,\n", "p", "r"),
        ("a.csv", "prompt,reference\n    return x,r\n", "    return x", "r"),
        ("a.csv", 'prompt, reference\n"p, q", "r"\n', "p, q", "r"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, name, content, prompt, reference):
    (tmp_path / name).write_text(content)
    _, split, _ = run(tmp_path, train=str(tmp_path / name))
    assert (texts(split)[0], split["train"][0].reference) == (prompt, reference)


@pytest.mark.parametrize("role", ["Human", "HUMAN", "User"])
@pytest.mark.parametrize("other", ["GPT", "chatgpt", "bing", "bard", "model"])
def test_names_of_roles_in_many_spellings(tmp_path, role, other):
    turns = [{"from": role, "value": "Hi"}, {"from": other, "value": "Ho"}]
    _, split, _ = run(tmp_path, train=write(tmp_path / "a.jsonl", {"conversations": turns}))
    assert (split["train"][0].messages, split["train"][0].reference) == (
        [{"role": "user", "content": "Hi"}],
        "Ho",
    )


def test_an_arrow_file_is_read_in_both_of_arrows_formats(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    _, split, _ = run(tmp_path, train=str(tmp_path / "a.arrow"))
    assert texts(split) == [row["prompt"] for row in ROWS]


def test_answers_of_weight_0_inside_a_conversation_are_told(tmp_path):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "b"},
    ]
    source = write(tmp_path / "a.jsonl", {"messages": turns}, {"messages": turns[-1:]})
    counts, split, _ = run(tmp_path, train=source)
    assert json.loads(split["train"][0].meta) == {"turns_of_weight_0": [1]}
    assert any(
        "1 conversations hold answers of weight 0" in warning for warning in counts.info.warnings
    )
    assert heads.holds_unlearnt(PromptsSpec(train=source))
    assert not heads.holds_unlearnt(PromptsSpec(train=str(tmp_path / "away.jsonl")))
