"""Rows, statuses and resumption, with the fake teacher in this process."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import statuses
from doubles import misbehaving_api

from engine import pipeline
from engine.backends import fake
from engine.errors import StageError
from engine.rows.final_answer import rules_for
from engine.rows.records import Completion
from engine.rows.signal import read_signal, signal_of
from engine.rows.tables import file_metadata, read_tables, to_rows
from engine.rows.tools import spelled
from engine.run.context import Context
from engine.stages import generate


@pytest.fixture
def answer(fake_job, tmp_path):
    """Run the stage on fresh or existing prompts; returns (counts, rows, folder)."""

    def run(
        count: int = 40,
        knobs: dict | None = None,
        concurrency: int = 16,
        prices: dict | None = None,
        **changes,
    ):
        teacher = {
            "name": "t",
            "kind": "fake",
            "model": "fake",
            "fake": knobs or {},
            "concurrency": concurrency,
            "prices": prices,
        }
        job = fake_job(count, generate={"teachers": [teacher], **changes})
        prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
        out = tmp_path / "generate"
        (out / "data").mkdir(parents=True, exist_ok=True)
        counts = generate.run(
            job.generate, {"prompts": prompts}, out, Context("job", "math", 0), stream=fake.stream
        )
        return (
            counts,
            [
                row
                for table in read_tables([out / f for f in counts.files])
                for row in to_rows(table, Completion)
            ],
            out,
        )

    return run


def test_every_prompt_and_sample_ends_in_one_row(answer):
    counts, rows, _ = answer(40, sampling={"temperature": 0.7, "samples": 3})
    keys = [(row.prompt_id, row.teacher, row.sample_index) for row in rows]
    assert counts.rows_in == counts.rows_out == len(set(keys)) == len(keys) == 40 * 3 + 8
    assert {row.sample_index for row in rows if row.split == "validation"} == {0}
    assert counts.info.status == {"ok": 128}


def test_an_answer_of_a_priced_teacher_has_a_mean_cost(answer):
    counts, rows, _ = answer(10, prices={"input": 2.0, "output": 8.0})
    usd = sum(2 * row.prompt_tokens + 8 * row.completion_tokens for row in rows) / 1e6
    (teacher,) = counts.info.teachers
    assert teacher.usd_per_answer == pytest.approx(usd / len(rows))
    assert usd > 0


def test_an_answer_of_a_teacher_without_prices_costs_nobody_knows_what(answer):
    (teacher,) = answer(10)[0].info.teachers
    assert teacher.usd_per_answer is None


def test_validation_is_greedy_and_samples_differ_by_seed_alone(answer):
    _, rows, _ = answer(20, sampling={"temperature": 0.7, "samples": 2})
    assert all(row.text == "What is" + row.text[7:] for row in rows if row.split == "validation")
    first, second = (
        {r.prompt_id: r.text for r in rows if r.sample_index == s and r.split == "train"}
        for s in (0, 1)
    )
    assert any(first[i] != second[i] for i in first)


def test_the_draws_do_not_depend_on_shards_and_parts(answer, tmp_path):
    _, rows, out = answer(30, sampling={"temperature": 0.7}, shard_rows=32)
    out.rename(tmp_path / "first")
    _, again, _ = answer(30, sampling={"temperature": 0.7}, shard_rows=500, part_rows=3)
    assert {(r.prompt_id, r.text) for r in rows} == {(r.prompt_id, r.text) for r in again}


def test_the_signal_is_stored_flat_with_its_metadata(answer):
    counts, rows, out = answer(10, capture={"top_k": 4})
    signal = signal_of(rows[0].topk_ids, rows[0].topk_logprobs, rows[0].tail)
    assert signal.ids.shape == signal.logprobs.shape == (len(rows[0].token_ids), 4)
    assert signal.tail == pytest.approx(0.5**4)
    metadata = file_metadata(out / next(iter(counts.files)))
    assert (metadata["top_k"], metadata["vocab_size"], metadata["codec"], metadata["teacher"]) == (
        4,
        256,
        "plain",
        "t",
    )


def test_a_packed_signal_is_that_of_plain(answer, tmp_path):
    _, plain, out = answer(10, capture={"top_k": 4}, sampling={"temperature": 0.7, "samples": 2})
    out.rename(tmp_path / "plain")
    counts, rows, out = answer(
        10, capture={"top_k": 4, "codec": "packed"}, sampling={"temperature": 0.7, "samples": 2}
    )
    assert all(len(row.topk_ids) == len(row.topk_logprobs) == len(row.tail) == 0 for row in rows)
    expected = {
        (row.prompt_id, row.sample_index): signal_of(row.topk_ids, row.topk_logprobs, row.tail)
        for row in plain
    }
    read = [row for file in counts.files for row in read_signal(out / file)]
    assert len(read) == len(expected) == 28
    for row in read:
        signal = expected[row.prompt_id, row.sample_index]
        assert (np.sort(row.ids) == np.sort(signal.ids)).all()
        assert row.logprobs == pytest.approx(-np.sort(-signal.logprobs), abs=0.02)
        assert row.tail == pytest.approx(signal.tail, abs=2e-4)


def test_a_teacher_that_tells_no_vocabulary_answers_a_packed_job_in_plain(
    fake_job, tmp_path, monkeypatch
):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", misbehaving_api.KEY)
    top = [
        {"token": "5", "logprob": -0.5, "bytes": None},
        {"token": "6", "logprob": -2.0, "bytes": None},
    ]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "5"}}
    reply = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        "choices": [choice | {"logprobs": {"content": [top[0] | {"top_logprobs": top}]}}],
    }
    with misbehaving_api.serve(answer=lambda path, body: (200, reply)) as api:
        teacher = {
            "name": "t",
            "kind": "openai",
            "model": "m",
            "base_url": f"{api.url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
        }
        job = fake_job(
            4, generate={"teachers": [teacher], "capture": {"top_k": 2, "codec": "packed"}}
        )
        prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
        (tmp_path / "generate/data").mkdir(parents=True)
        context = Context("job", "math", 0)
        counts = generate.run(
            job.generate, {"prompts": prompts}, tmp_path / "generate", context, stream=fake.stream
        )
    files = [tmp_path / "generate" / name for name in counts.files]
    rows = [row for table in read_tables(files) for row in to_rows(table, Completion)]
    assert counts.info.status == {"ok": 12}
    assert all(file_metadata(file)["codec"] == "plain" for file in files)
    assert all(
        (row.topk_tokens, row.topk_logprobs, row.topk_packed) == (["5", "6"], [-0.5, -2.0], b"")
        for row in rows
    )


def test_a_prompt_longer_than_the_context_is_too_long_and_the_rest_finishes(answer):
    counts, rows, _ = answer(40, {"max_model_len": 30})
    long = [row for row in rows if row.status == "too_long"]
    assert 0 < len(long) < 48
    assert all(row.completion_tokens == 0 and "in a context of 30" in row.error for row in long)
    assert counts.rows_in == 48


def test_a_teacher_that_does_not_know_the_task_is_named_before_anybody_trains_on_it(answer):
    counts, *_ = answer(10, sampling={"temperature": 0.0, "max_tokens": 5})
    assert counts.info.teachers[0].validation_score == 0.0
    (warning,) = counts.info.warnings
    assert (
        "teacher 't' scores 0 on its 8 validation answers with a reference, 8 of them cut"
        in warning
    )
    assert "generate.min_teacher_score" in warning


def test_a_teacher_that_knows_it_gets_no_warning(answer):
    counts, *_ = answer(10, min_teacher_score=0.9)
    assert counts.info.teachers[0].validation_score == 1.0
    assert counts.info.warnings == []


def test_a_teacher_whose_answers_only_algebra_can_tell_is_not_called_poor(fake_job, tmp_path):
    """The fake teacher says the question's words; the gold answer is another spelling of it."""
    rows = []
    for number in range(2, 6):
        gold = rf"\sin({number}x)+1"
        rows.append({"prompt": rf"\boxed{{1+\sin({number}x)}}", "reference": gold})
    source = tmp_path / "sines.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    @contextmanager
    def algebra(deadline_s):
        yield lambda pairs: asked.extend(pairs) or [True] * len(pairs)

    job = fake_job(4, prompts={"validation": str(source)})
    prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
    (tmp_path / "sines/data").mkdir(parents=True)
    context = Context("job", "math", 0)
    counts = generate.run(
        job.generate,
        {"prompts": prompts},
        tmp_path / "sines",
        context,
        stream=fake.stream,
        open_algebra=algebra,
    )
    assert len(asked) == 4
    assert counts.info.teachers[0].validation_score == 1.0
    assert counts.info.warnings == []


def test_a_teacher_below_the_floor_ends_the_stage_and_a_lower_floor_goes_on_with_its_answers(
    answer, tmp_path
):
    short = {"temperature": 0.0, "max_tokens": 5}
    with pytest.raises(
        StageError, match=r"scores 0 on its 8 .*min_teacher_score is 0\.5\. The answers are kept"
    ):
        answer(10, sampling=short, min_teacher_score=0.5)
    before = sorted(path.name for path in (tmp_path / "generate/data").iterdir())
    counts, *_ = answer(10, sampling=short, min_teacher_score=0)
    assert (counts.rows_out, counts.info.answered_this_run) == (18, 0)
    assert sorted(path.name for path in (tmp_path / "generate/data").iterdir()) == before


def test_an_answer_that_runs_into_max_tokens_is_truncated(answer):
    counts, _, _ = answer(10, sampling={"temperature": 0.0, "max_tokens": 5})
    assert counts.info.status == {"truncated": 18}


def test_failed_rows_fail_the_stage_and_the_next_run_tries_only_them(answer, tmp_path):
    calls = tmp_path / "calls"
    with pytest.raises(
        StageError,
        match=r"of 48 rows failed \(first: RuntimeError: the fake teacher failed this request\)",
    ):
        answer(40, {"error_fraction": 0.3, "calls": str(calls)})
    failed = [key for key, status in statuses(tmp_path / "generate").items() if status == "error"]
    assert 0 < len(failed) < 48
    calls.unlink()
    counts, rows, _ = answer(40, {"calls": str(calls)})
    assert calls.read_text().count(" start") == len(failed)
    assert {row.status for row in rows} == {"ok"}
    assert counts.rows_out == 48


def test_failed_rows_are_published_within_the_declared_tolerance(answer):
    counts, rows, _ = answer(40, {"error_fraction": 0.3}, max_failed_fraction=0.9)
    assert counts.info.status["error"] == sum(row.status == "error" for row in rows) > 0


def test_a_request_past_its_deadline_is_an_error(answer):
    with pytest.raises(StageError, match=r"no answer within 0\.2 s"):
        answer(10, {"hang_fraction": 0.4}, request_timeout_s=0.2)


def test_the_deadline_counts_from_the_opening_of_a_request_and_not_from_its_turn(answer):
    counts, _, _ = answer(30, {"latency_s": 0.2}, concurrency=4, request_timeout_s=1.0)
    assert counts.info.status == {"ok": 38}


def test_an_argument_of_a_call_is_no_final_answer():
    text = "I shall submit it."
    said = spelled(text, json.dumps([{"name": "submit", "arguments": {"answer": "7"}}]))
    asked = [generate.Asked(["7"], "What is 3 + 4?")]
    rules = rules_for("exact", {})

    def is_right(text):
        found = generate._statistics(
            "exact_match", "math", [text], [said], asked, rules, lambda found: found
        )
        return bool(found[0, 0])

    assert is_right("#### 7")
    assert not is_right(text)
