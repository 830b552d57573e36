import dataclasses
import re

import numpy as np
import pytest

from engine.errors import InputError, StageError
from engine.rows import codec, ids, records, tables
from engine.rows.records import Completion, completion_schema
from engine.rows.signal import read_signal, signal_of
from engine.rows.tables import to_rows, to_table


def test_a_prompt_id_is_the_first_63_bits_of_the_hash():
    digest = ids.prompt_hash([{"role": "user", "content": "hi"}])
    assert ids.prompt_id_of(digest) == int(digest, 16) >> (256 - 63)
    assert 0 <= ids.prompt_id_of("f" * 64) < 2**63


def test_the_hash_depends_on_content_and_not_on_key_order():
    assert ids.prompt_hash([{"role": "user", "content": "é"}]) == ids.prompt_hash(
        [{"content": "é", "role": "user"}]
    )
    assert ids.prompt_hash([{"role": "user", "content": "a"}]) != ids.prompt_hash(
        [{"role": "system", "content": "a"}]
    )


def test_seeds_are_31_bits_and_differ_by_every_part():
    seeds = {
        ids.derive_seed(0, prompt, teacher, sample)
        for prompt in range(50)
        for teacher in "ab"
        for sample in range(3)
    }
    assert len(seeds) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_completion_survives_parquet_with_its_signal_and_metadata(tmp_path, dtype):
    row = Completion(
        2**62,
        "t",
        1,
        "train",
        5,
        "ok",
        "stop",
        "hi",
        reasoning="so",
        prompt_token_ids=[1, 2],
        token_ids=[3, 4],
        token_logprobs=[-0.5, -1.0],
        topk_packed=b"\0\xff",
        topk_tokens=["a", "é", "b", "c"],
        topk_ids=[3, 9, 4, 8],
        topk_logprobs=np.array([-0.5, -2.0, -1.0, -1.5]),
        tail=[0.25, 0.125],
    )
    path = tmp_path / "x.parquet"
    tables.write_parquet(
        to_table([row], completion_schema(dtype), {"top_k": 2, "teacher": "t"}), path
    )
    assert tables.file_metadata(path) == {"top_k": 2, "teacher": "t"}
    (table,) = tables.read_tables([path])
    (back,) = to_rows(table, Completion)
    assert (back.prompt_id, back.text, back.reasoning, back.token_ids) == (
        2**62,
        "hi",
        "so",
        [3, 4],
    )
    assert (back.topk_packed, back.topk_tokens) == (b"\0\xff", ["a", "é", "b", "c"])
    signal = signal_of(back.topk_ids, back.topk_logprobs, back.tail)
    assert signal.ids.tolist() == [[3, 9], [4, 8]]
    assert signal.logprobs.tolist() == [[-0.5, -2.0], [-1.0, -1.5]]


def test_a_damaged_page_is_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [Completion(n, "t", 0, "train", 0, "ok", text=f"answer {n}") for n in range(500)]
    tables.write_parquet(to_table(rows, completion_schema()), path)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"x\.parquet is missing or damaged .*CRC.*distill verify"):
        list(tables.read_tables([path]))


def test_a_signal_cut_short_is_refused():
    with pytest.raises(ValueError, match="signal cut short"):
        signal_of([1, 2, 3], [0.0, 0.0, 0.0], [0.1, 0.1])


V, K = 129_280, 16


def answers(tokens=(5, 3, 0, 7)):
    """Completions of two samples per prompt, each with a signal of K ids; one without a token
    failed."""
    rng = np.random.default_rng(7)
    for number, count in enumerate(tokens):
        logits = -np.sort(-rng.normal(0, 4, (count, K)), axis=1)
        tail = rng.uniform(0.01, 0.6, count)
        logprobs = (
            np.log1p(-tail)[:, None] + logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        )
        ids = np.array([rng.choice(V, K, replace=False) for _ in range(count)]).ravel()
        yield Completion(
            number // 2,
            "t",
            number % 2,
            "train",
            0,
            "ok" if count else "error",
            token_ids=ids[::K],
            token_logprobs=logprobs[:, 0],
            topk_ids=ids,
            topk_logprobs=logprobs.ravel(),
            tail=tail,
        )


def write_answers(path, rows, name="plain", **changed):
    """Rows as a part of codec `name`; `changed` replaces metadata."""
    if name == "packed":
        columns = codec.pack_rows(
            [(row.topk_ids, row.topk_logprobs, row.tail) for row in rows], K, V, 8
        )
        empty = {"topk_ids": [], "topk_logprobs": [], "tail": []}
        rows = [
            dataclasses.replace(row, topk_packed=packed, **empty)
            for row, packed in zip(rows, columns, strict=True)
        ]
    metadata = {
        "schema_version": 1,
        "codec": name,
        "top_k": K,
        "vocab_size": V,
        "packed_bits": 8,
    } | changed
    tables.write_parquet(to_table(rows, completion_schema(), metadata), path)
    return path


@pytest.mark.parametrize(("name", "close"), [("plain", 0.01), ("packed", 0.1)])
def test_one_reader_gives_the_signal_of_both_codecs_and_of_every_sample(tmp_path, name, close):
    rows = list(answers())
    read = list(read_signal(write_answers(tmp_path / "x.parquet", rows, name)))
    assert [(row.prompt_id, row.teacher, row.sample_index) for row in read] == [
        (0, "t", 0),
        (0, "t", 1),
        (1, "t", 1),
    ]
    for given, back in zip([rows[0], rows[1], rows[3]], read, strict=True):
        assert back.token_ids.tolist() == given.token_ids.tolist()
        assert back.token_logprobs == pytest.approx(given.token_logprobs)
        assert back.ids.shape == back.logprobs.shape == (len(given.tail), K)
        assert (np.sort(back.ids) == np.sort(given.topk_ids.reshape(-1, K))).all()
        assert (np.diff(back.logprobs) <= 0).all()
        assert np.sort(back.logprobs) == pytest.approx(
            np.sort(given.topk_logprobs.reshape(-1, K)), abs=close
        )
        assert back.tail == pytest.approx(given.tail, abs=2e-4)


@pytest.mark.parametrize("name", ["plain", "packed"])
def test_the_reader_refuses_a_signal_that_does_not_fit_its_tokens(tmp_path, name):
    rows = list(answers())
    rows[1] = dataclasses.replace(rows[1], token_ids=rows[1].token_ids[:-1])
    with pytest.raises(InputError, match="1 of 4 rows have no whole signal"):
        list(read_signal(write_answers(tmp_path / "x.parquet", rows, name)))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": None}, "schema version None"),
        ({"top_k": 0}, "top_k 0"),
    ],
)
def test_the_reader_refuses_another_schema_and_a_file_without_signal(tmp_path, changed, found):
    with pytest.raises(InputError, match=found):
        list(read_signal(write_answers(tmp_path / "x.parquet", list(answers()), **changed)))


def test_every_column_and_the_metadata_of_completions_is_documented():
    for name in [
        *completion_schema().names,
        "schema_version",
        "codec",
        "packed_bits",
        "top_k",
        "vocab_size",
        "tokenizer_fingerprint",
    ]:
        assert re.search(rf"^\|.*\b{name}\b", records.__doc__, re.MULTILINE), name


def test_a_fingerprint_means_the_same_token_ids():
    assert ids.tokenizer_fingerprint({"a": 0, "b": 1}) == ids.tokenizer_fingerprint(
        {"b": 1, "a": 0}
    )
    assert ids.tokenizer_fingerprint({"a": 0, "b": 1}) != ids.tokenizer_fingerprint(
        {"a": 1, "b": 0}
    )
