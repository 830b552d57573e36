import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from doubles.curated import (
    CTX,
    ask,
    data_files,
    files_of,
    finish,
    key,
    many,
    publish_stage,
    reply,
    run,
)

from engine.backends.math_verifier import opened
from engine.errors import StageError
from engine.job.spec import CurateSpec, VerifySpec
from engine.rows.codec import token_bytes
from engine.rows.records import EXAMPLE, PROMPT, STATUSES, Completion, completion_schema
from engine.rows.tables import file_metadata, to_table, write_parquet
from engine.rows.tools import conversation_of, tools_column
from engine.run.facts import PromptsInfo
from engine.run.manifests import Counts, finished, publish
from engine.stages import curate
from engine.stages.curate.groups import Group
from engine.stages.curate.judging import Judging, judge_group
from engine.stages.curate.prompts_by_id import prompts_of


def test_an_example_is_the_conversation_with_its_answer_and_its_untouched_signal(tmp_path):
    given = reply(4)
    counts, examples, out = run(tmp_path, [ask(4)], [[given]])
    (example,) = examples["train"]
    assert example["messages"] == [
        {"role": "user", "content": "4+1?"},
        {"role": "assistant", "content": "5"},
    ]
    for name in (
        "prompt_token_ids",
        "token_ids",
        "topk_ids",
        "topk_logprobs",
        "tail",
        "topk_packed",
    ):
        assert np.array_equal(example[name], getattr(given, name)), name
    (file,) = data_files(counts)
    assert pq.read_schema(out / file).equals(EXAMPLE)
    assert file_metadata(out / file) == {"top_k": 2, "vocab_size": 99, "tokenizer_fingerprint": "f"}


def test_an_example_has_the_tools_of_its_prompt_and_the_calls_of_its_answer(tmp_path):
    weather = {"type": "function", "function": {"name": "weather"}}
    calls = '[{"name": "weather", "arguments": {"city": "Ely"}}]'
    prompt = replace(ask(4), tools=tools_column([weather], {}), reference_calls=calls)
    said = replace(reply(4, text=""), tool_calls=calls)
    _, examples, _ = run(tmp_path, [prompt, ask(5)], [[said, reply(5)]])
    calling, plain = examples["train"]
    assert plain["tools"] is None
    whole = conversation_of(calling["messages"], calling["tools"])
    assert whole.tools == [weather]
    assert whole.messages[-1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Ely"}},
            }
        ],
    }


def test_files_from_before_there_were_tools_are_curated(tmp_path):
    def without(table, *names):
        return table.drop_columns(list(names))

    asked = without(to_table([ask(4)], PROMPT), "tools", "reference_calls")
    said = without(to_table([reply(4)], completion_schema(), {"top_k": 2}), "tool_calls")
    later = to_table([reply(4, sample=1, text="no 5")], completion_schema(), {"top_k": 2})
    empty = to_table([], PROMPT)
    inputs = {
        "prompts": publish_stage(
            tmp_path / "p",
            "prompts",
            {"data/train-00000.parquet": asked, "data/validation-00000.parquet": empty},
        ),
        "generate": publish_stage(
            tmp_path / "g", "generate", {"data/a.parquet": said, "data/b.parquet": later}
        ),
    }
    counts = curate.run(CurateSpec(), inputs, tmp_path / "c", CTX)
    assert counts.rows_out == 2
    rows = pq.read_table(tmp_path / "c/data/train-00000.parquet")
    assert rows["tools"].null_count == 2
    assert rows.schema.equals(EXAMPLE)


def test_each_filter_counts_its_drops_and_the_funnel_narrows(tmp_path):
    rows = [
        reply(0),
        reply(1, status="refused"),
        reply(2, status="truncated"),
        reply(3, tokens=0),
        reply(4, tokens=50),
        reply(5, text="77"),
        reply(6),
        reply(6, sample=1),
        reply(7, status="error"),
    ]
    counts, examples, _ = run(
        tmp_path, [ask(n) for n in range(8)], [rows[:5], rows[5:]], max_tokens=9
    )
    assert counts.dropped == {
        "refused": 1,
        "error": 1,
        "truncated": 1,
        "too_few_tokens": 1,
        "too_many_tokens": 1,
        "wrong_answer": 1,
        "duplicate_answer": 1,
    }
    assert counts.info.funnel == [
        ("completions", 9),
        ("status", 7),
        ("truncated", 6),
        ("length", 4),
        ("tool_calls", 4),
        ("reference", 3),
        ("duplicate", 2),
    ]
    assert [row["prompt_id"] for row in examples["train"]] == [0, 6]


def test_truncated_validation_answers_are_kept_where_truncated_training_answers_are(tmp_path):
    rows = [
        reply(1, status="truncated"),
        reply(2, "validation", status="truncated"),
        reply(3, "validation", status="loop"),
    ]
    prompts = [ask(1), ask(2, "validation"), ask(3, "validation")]
    counts, examples, _ = run(tmp_path, prompts, [rows], keep_truncated=True, check_reference=False)
    assert [len(examples[split]) for split in ("train", "validation")] == [1, 1]
    assert counts.info.validation_unusable == {"loop": 1}


def test_an_answer_whose_length_nobody_told_is_neither_too_short_nor_too_long(tmp_path):
    untold = reply(1)
    object.__setattr__(untold, "completion_tokens", None)
    counts, _, _ = run(tmp_path, [ask(1)], [[untold]], min_tokens=2, max_tokens=2)
    assert counts.rows_out == 1


def test_validation_answers_pass_uncurated_if_they_are_ok(tmp_path):
    rows = [
        reply(1),
        reply(2, "validation", text="wrong"),
        reply(3, "validation", status="truncated"),
    ]
    counts, examples, _ = run(
        tmp_path, [ask(1), ask(2, "validation"), ask(3, "validation")], [rows]
    )
    assert (counts.rows_in, counts.rows_out) == (1, 1)
    assert [row["messages"][-1]["content"] for row in examples["validation"]] == ["wrong"]
    assert counts.info.validation_examples == 1
    assert counts.info.validation_unusable == {"truncated": 1}


def test_teachers_with_other_metadata_get_files_of_their_own(tmp_path):
    metadata = [
        {"tokenizer_fingerprint": "f"},
        {"tokenizer_fingerprint": "g"},
        {"tokenizer_fingerprint": "f"},
    ]
    parts = [[reply(1)], [reply(1, teacher="u", text="so 2")], [reply(2)]]
    counts, _, out = run(tmp_path, [ask(1), ask(2)], parts, metadata)
    found = {
        file: (rows, file_metadata(out / file)["tokenizer_fingerprint"])
        for file, rows in data_files(counts).items()
    }
    assert found == {"data/train-00000.parquet": (2, "f"), "data/train-00001.parquet": (1, "g")}


def test_nothing_left_is_a_warning_not_an_error(tmp_path):
    counts, examples, _ = run(tmp_path, [ask(1)], [[reply(1, text="9")]])
    assert (counts.rows_out, counts.dropped, examples["train"]) == (0, {"wrong_answer": 1}, [])
    (warning,) = counts.info.warnings
    assert warning.startswith("no example is left: all 1 answers were dropped (wrong_answer 1)")


def test_a_completion_without_prompt_is_an_error(tmp_path):
    with pytest.raises(StageError, match=r"1 completions belong to no prompt, e.g. id 9"):
        run(tmp_path, [ask(1)], [[reply(1), reply(9)]])


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_are_kept_or_dropped_for_any_input_and_any_settings(tmp_path, seed):
    rng = random.Random(seed)
    prompts = [ask(n, rng.choice(["train", "train", "validation"])) for n in range(40)]
    rows = [
        reply(
            p.prompt_id,
            p.split,
            rng.choice(STATUSES + ("ok",) * 5),
            rng.choice([None, "0", "none"]),
            rng.randrange(6),
            sample,
        )
        for p in prompts
        for sample in range(3 if p.split == "train" else 1)
    ]
    counts, examples, _ = run(
        tmp_path,
        prompts,
        [rows[:30], rows[30:]],
        min_tokens=rng.randrange(4),
        keep_truncated=rng.random() < 0.5,
        dedup=rng.choice(["exact", "none"]),
        check_reference=rng.random() < 0.5,
    )
    assert counts.rows_in == sum(row.split == "train" for row in rows)
    assert counts.info.funnel[-1][1] == counts.rows_out
    kept = {(row["prompt_id"], row["sample_index"]) for row in examples["train"]}
    assert len(kept) == counts.rows_out


@pytest.mark.parametrize(("good", "said"), [(3, True), (4, False)])
def test_a_curation_that_keeps_next_to_nothing_says_what_was_lost(tmp_path, good, said):
    prompts = [ask(number) for number in range(40)]
    answers = [
        reply(n, text=None if n < good else "no", status="ok" if n < 20 else "truncated")
        for n in range(40)
    ]
    counts, *_ = run(tmp_path, prompts, [answers])
    listed = f"only {good} of 40 answers are kept (truncated 20, no_answer {20 - good})"
    assert [listed in warning for warning in counts.info.warnings] == [True] * said


@pytest.mark.parametrize("bucket_bytes", [curate.BUCKET_BYTES, 3000])
def test_files_are_equal_byte_by_byte_whatever_files_and_order_the_answers_lie_in(
    tmp_path, bucket_bytes
):
    prompts, answers = many()
    rng = random.Random(1)
    written = []
    for number, size in enumerate((len(answers), 7, 1)):
        parts = [answers[start : start + size] for start in range(0, len(answers), size)]
        counts, *_, out = run(
            tmp_path / str(number), prompts, parts, bucket_bytes=bucket_bytes, max_tokens=30
        )
        written.append((files_of(out), counts.dropped, counts.info))
        rng.shuffle(answers)
    assert {"wrong_answer", "duplicate_answer", "too_many_tokens"} <= written[0][1].keys()
    assert written == [written[0]] * 3


@pytest.mark.parametrize("bucket_bytes", [6000, 1])
def test_several_buckets_have_the_rows_of_one_in_the_same_order(tmp_path, bucket_bytes):
    prompts, answers = many()
    parts = [answers[start : start + 20] for start in range(0, len(answers), 20)]
    counts, one, _ = run(tmp_path / "one", prompts, parts)
    assert list(data_files(counts)) == ["data/train-00000.parquet", "data/validation-00000.parquet"]
    for rows in one.values():
        assert [key(row) for row in rows] == sorted(key(row) for row in rows)
    counts, several, out = run(tmp_path / "several", prompts, parts, bucket_bytes=bucket_bytes)
    assert several == one
    splits = Counter(name[5:-14] for name in data_files(counts))
    assert min(splits.values()) > 2
    for name, rows in data_files(counts).items():
        in_memory = pq.read_table(out / name).nbytes
        assert rows == 1 or in_memory < 1.2 * bucket_bytes
    if bucket_bytes == 1:
        assert set(data_files(counts).values()) == {1}


@pytest.mark.parametrize("first", [0, 1])
def test_of_equal_answers_the_first_in_canonical_order_stays(tmp_path, first):
    samples = [[reply(1, sample=0, tokens=3)], [reply(1, sample=1, tokens=4)]]
    by_two = [[reply(2, teacher="a", sample=1)], [reply(2, teacher="b", sample=0)]]
    if first:
        samples.reverse()
        by_two.reverse()
    _, examples, _ = run(tmp_path, [ask(1), ask(2)], samples + by_two)
    assert [key(row) for row in examples["train"]] == [(1, "t", 0), (2, "a", 1)]


@pytest.mark.parametrize("bucket_bytes", [curate.BUCKET_BYTES, 2000])
def test_two_teachers_share_buckets_but_no_file(tmp_path, bucket_bytes):
    prompts, answers = many()
    tokenizer_of = {"t": "f", "a": "g"}
    theirs = [
        replace(answer, teacher=teacher, text=f"{teacher}: {answer.text}")
        for teacher in tokenizer_of
        for answer in answers
    ]
    random.Random(2).shuffle(theirs)
    parts, metadata = [], []
    for start in range(0, len(theirs), 25):
        for teacher, fingerprint in tokenizer_of.items():
            part = [answer for answer in theirs[start : start + 25] if answer.teacher == teacher]
            parts.append(part)
            metadata.append({"top_k": 2, "teacher": teacher, "tokenizer_fingerprint": fingerprint})
    counts, examples, out = run(
        tmp_path, prompts, parts, metadata, bucket_bytes=bucket_bytes, check_reference=False
    )
    first_ids = {"a": [], "t": []}
    for name in data_files(counts):
        rows = pq.read_table(out / name).to_pylist()
        (teacher,) = {row["teacher"] for row in rows}
        told = file_metadata(out / name)
        assert (told["teacher"], told["tokenizer_fingerprint"]) == (teacher, tokenizer_of[teacher])
        assert [key(row) for row in rows] == sorted(key(row) for row in rows)
        first_ids[teacher].append((name[:7], rows[0]["prompt_id"]))
    for ids in first_ids.values():
        assert ids == sorted(ids), "files of one teacher follow each other in canonical order"
    wanted = Counter(answer.split for answer in theirs)
    dropped = sum(counts.dropped.values())
    assert len(examples["train"]) == wanted["train"] - dropped
    assert len(examples["validation"]) == wanted["validation"]


@pytest.mark.parametrize("codec", ["plain", "packed"])
def test_the_size_of_an_example_is_known_before_its_signal_is_read(tmp_path, codec):
    top_k, vocab_size, tokens = 16, 32_000, 500
    source = {"codec": codec, "top_k": top_k, "vocab_size": vocab_size, "packed_bits": 8}
    signal = {"topk_packed": bytes(tokens * token_bytes(top_k, vocab_size, 8))}
    if codec == "plain":
        signal = {
            "topk_ids": np.zeros(tokens * top_k, np.int32),
            "topk_logprobs": np.zeros(tokens * top_k, np.float16),
            "tail": np.zeros(tokens, np.float32),
        }
    answer = Completion(
        1,
        "t",
        0,
        "train",
        0,
        "ok",
        text="é" * 900,
        prompt_tokens=2,
        completion_tokens=tokens,
        prompt_token_ids=[1, 2],
        token_ids=np.zeros(tokens, np.int32),
        **signal,
    )
    inputs = finish(tmp_path, [ask(1)], [[answer]], [source])
    spec = CurateSpec(check_reference=False)
    plan = Judging(spec, prompts_of(inputs["prompts"]), {}, tmp_path, opened)
    judge_group(plan, Group("00000", 0, tuple(inputs["generate"].files())))
    judged = pq.read_table(tmp_path / "work/judged/00000.parquet")
    (tmp_path / "curate").mkdir()
    curate.run(spec, inputs, tmp_path / "curate", CTX)
    in_memory = pq.read_table(tmp_path / "curate/data/train-00000.parquet").nbytes
    assert judged["bytes"].to_pylist() == [pytest.approx(in_memory, rel=0.05)]


def test_what_only_algebra_can_tell_is_told_by_math_verify_or_counted_apart(tmp_path):
    prompts = [replace(ask(number), reference=r"\sin(x)+1") for number in range(4)]
    texts = [
        r"So \boxed{1+\sin(x)}.",
        r"So \boxed{\sin(x)-1}.",
        r"So \boxed{9^{9^{9^{9}}}}.",
        "I cannot say.",
    ]
    answers = [reply(number, text=text) for number, text in enumerate(texts)]
    counts, examples, _ = run(tmp_path, prompts, [answers], verify=VerifySpec(timeout_s=1.0))
    assert [example["prompt_id"] for example in examples["train"]] == [0]
    assert counts.dropped == {"wrong_answer": 1, "unverified": 1, "no_answer": 1}


def test_any_of_several_right_answers_is_right(tmp_path):
    prompts = [replace(ask(number), references=["7", "8"]) for number in range(3)]
    answers = [reply(number, text=text) for number, text in enumerate(["7", "It is 8.", "9"])]
    counts, examples, _ = run(tmp_path, prompts, [answers])
    assert [example["prompt_id"] for example in examples["train"]] == [0, 1]
    assert counts.dropped == {"wrong_answer": 1}


def test_prompts_of_a_version_without_several_references_are_read(tmp_path):
    (tmp_path / "prompts" / "data").mkdir(parents=True)
    table = to_table([ask(1)], PROMPT).drop_columns(["references"])
    name = "data/train-00000.parquet"
    write_parquet(table, tmp_path / "prompts" / name)
    publish(tmp_path / "prompts", "prompts", {}, Counts(1, 1, {name: 1}, info=PromptsInfo()), 0.0)
    loaded = prompts_of(finished(tmp_path / "prompts"))
    (prompt,) = loaded.of(to_table([reply(1)], completion_schema()))
    assert prompt.right_answers == ["2"]
