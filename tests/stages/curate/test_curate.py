import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import StageError
from engine.job.spec import CurateSpec
from engine.rows.records import EXAMPLE, PROMPT, STATUSES, Completion, Prompt, completion_schema
from engine.rows.tables import file_metadata, to_table, write_parquet
from engine.run.context import Context
from engine.run.manifests import Counts, publish
from engine.stages import curate

CTX = Context(job="t", task="math", seed=0)


def ask(number, split="train"):
    messages = [{"role": "user", "content": f"{number}+1?"}]
    return Prompt(
        number, f"{number:064x}", f"a:{number}", messages, "math", "a", split, str(number + 1)
    )


def reply(number, split="train", status="ok", text=None, tokens=3, sample=0, teacher="t"):
    k, rng = 2, np.random.default_rng(number)
    return Completion(
        number,
        teacher,
        sample,
        split,
        0,
        status,
        text=str(number + 1) if text is None else text,
        completion_tokens=tokens,
        prompt_token_ids=[1, 2],
        token_ids=rng.integers(0, 99, tokens),
        topk_ids=rng.integers(0, 99, tokens * k),
        topk_logprobs=-rng.random(tokens * k).astype(np.float16),
        tail=rng.random(tokens).astype(np.float32),
        topk_packed=rng.bytes(tokens),
    )


def publish_stage(folder, stage, tables):
    (folder / "data").mkdir(parents=True)
    for name, table in tables.items():
        write_parquet(table, folder / name)
    rows = {name: len(table) for name, table in tables.items()}
    publish(folder, stage, {}, Counts(sum(rows.values()), sum(rows.values()), rows), 0.0)
    return folder


def run(tmp_path, prompts, parts, metadata=None, **spec):
    """Curate `parts` (lists of completions, one per file); gives counts and the examples by
    split."""
    metadata = metadata or [{"top_k": 2, "vocab_size": 99, "tokenizer_fingerprint": "f"}] * len(
        parts
    )
    by_split = {
        f"data/{split}-00000.parquet": to_table([p for p in prompts if p.split == split], PROMPT)
        for split in ("train", "validation")
    }
    files = {
        f"data/part-{n}.parquet": to_table(rows, completion_schema(), meta)
        for n, (rows, meta) in enumerate(zip(parts, metadata, strict=True))
    }
    inputs = {
        "prompts": publish_stage(tmp_path / "prompts", "prompts", by_split),
        "generate": publish_stage(tmp_path / "generate", "generate", files),
    }
    out = tmp_path / "curate"
    out.mkdir()
    counts = curate.run(CurateSpec(**spec), inputs, out, CTX)
    publish(out, "curate", {}, counts, 0.0)
    assert counts.rows_in == counts.rows_out + sum(counts.dropped.values())
    examples = {
        split: [
            row
            for file in counts.files
            if split in file
            for row in pq.read_table(out / file).to_pylist()
        ]
        for split in ("train", "validation")
    }
    assert len(examples["train"]) == counts.rows_out
    return counts, examples, out


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
    (file,) = counts.files
    assert pq.read_schema(out / file).equals(EXAMPLE)
    assert file_metadata(out / file) == {"top_k": 2, "vocab_size": 99, "tokenizer_fingerprint": "f"}


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
    assert counts.info["funnel"] == [
        ["completions", 9],
        ["status", 7],
        ["truncated", 6],
        ["length", 4],
        ["reference", 3],
        ["duplicate", 2],
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
    assert counts.info["validation_unusable"] == {"loop": 1}


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
    assert counts.info["validation_examples"] == 1
    assert counts.info["validation_unusable"] == {"truncated": 1}


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
        for file, rows in counts.files.items()
    }
    assert found == {
        f"data/train-0000{n}.parquet": (1, fingerprint) for n, fingerprint in enumerate("fgf")
    }


def test_nothing_left_is_a_warning_not_an_error(tmp_path):
    counts, examples, _ = run(tmp_path, [ask(1)], [[reply(1, text="9")]])
    assert (counts.rows_out, counts.dropped, examples["train"]) == (0, {"wrong_answer": 1}, [])
    (warning,) = counts.info["warnings"]
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
    assert counts.info["funnel"][-1][1] == counts.rows_out
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
    listed = f"only {good} of 40 answers are kept (truncated 20, wrong_answer {20 - good})"
    assert [listed in warning for warning in counts.info["warnings"]] == [True] * said
