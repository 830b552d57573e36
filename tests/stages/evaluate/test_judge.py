"""A judge on answers: what it is asked, what is kept of it, and what is said of its word."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, stream_together
from doubles import misbehaving_api
from doubles.misbehaving_api import KEY, Faults
from drivers.judging import opinion

from engine.errors import SpecError, StageError
from engine.job.spec import EngineSpec, FakeTeacherSpec, GenerateSpec, Model
from engine.run.ledger import Commits, data_places

FIRST = '{"verdict": "A"}'
SECOND = '{"verdict": "B"}'
TIE = '{"verdict": "tie"}'
# of an honest judge: the answer with GOOD in it is better
BY_CONTENT = {
    r"answer A\n[^-]*GOOD.*answer B\n[^-]*GOOD": TIE,
    r"answer A\n[^-]*GOOD": FIRST,
    r"answer B\n[^-]*GOOD": SECOND,
    r"answer\n[^-]*GOOD": '{"score": 5}',
    r"How good": '{"score": 2}',
    "": TIE,
}


@pytest.fixture
def judge(tmp_path):
    """The block of a fake judge who says these things."""
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("The better answer is better.")

    def block(replies=BY_CONTENT, *, prices=None, knobs=None, **fields):
        teacher = {
            "kind": "fake",
            "name": "judge",
            "model": "j",
            "fake": {"replies": replies, "calls": str(tmp_path / "calls")} | (knobs or {}),
            "prices": prices,
        }
        return {"teacher": teacher, "rubric": str(rubric)} | fields

    return block


def calls(tmp_path):
    """How often each question was asked."""
    lines = (tmp_path / "calls").read_text().splitlines()
    return Counter(line.split()[2] for line in lines if line.endswith("start"))


def verdicts(out):
    return pq.read_table(out / "judge/verdicts.parquet").to_pylist()


def pairs(wins, losses, ties):
    """Answers of student and teacher, of which an honest judge says so."""
    student = [f"GOOD {n}" for n in range(wins)] + [f"bad {n}" for n in range(losses + ties)]
    teacher = [f"poor {n}" for n in range(wins)] + [f"GOOD {n}" for n in range(losses)]
    return {"teacher": teacher + [f"poor {n}" for n in range(ties)], "student": student}


def test_wins_and_losses_are_those_of_the_answers(judge, tmp_path):
    told = opinion(judge(), pairs(6, 2, 2), tmp_path)
    found = told.facts.pairs["teacher"]
    assert (found.wins, found.losses, found.ties, found.flips, found.n) == (6, 2, 2, 0, 10)
    assert found.win_rate == pytest.approx(0.7)
    assert found.ci95[0] < 0.7 < found.ci95[1]
    assert (told.facts.named, told.facts.first_share, told.facts.flip_rate) == (16, 0.5, 0)
    assert told.warnings == []


def test_every_reply_is_a_row(judge, tmp_path):
    told = opinion(judge(prices={"input": 1.0, "output": 2.0}), pairs(1, 0, 0), tmp_path)
    assert told.files == {"judge/verdicts.parquet": 2}
    rows = verdicts(tmp_path)
    assert [(row["order"], row["verdict"]) for row in rows] == [(0, "first"), (1, "second")]
    assert {(row["prompt_id"], row["model"], row["against"]) for row in rows} == {
        (0, "student", "teacher")
    }
    assert [json.loads(row["text"])["verdict"] for row in rows] == ["A", "B"]
    costs = [row["cost_usd"] for row in rows]
    assert min(costs) > 2 * 17 / 1e6, "a verdict of 17 bytes is 17 tokens, and the question is more"
    assert told.facts.cost_usd == pytest.approx(sum(costs), abs=1e-6)


def test_a_judge_that_always_takes_the_first_is_exposed(judge, tmp_path):
    told = opinion(judge({"": FIRST}), pairs(6, 2, 2), tmp_path)
    found = told.facts.pairs["teacher"]
    assert (found.wins, found.losses, found.ties, found.flips) == (0, 0, 10, 10)
    assert (told.facts.first_share, told.facts.flip_rate, found.win_rate) == (1, 1, 0.5)
    (warning,) = told.warnings
    assert warning.startswith(
        "the judge named the answer that stood first in 100% of 20 votes that name a winner, and"
        " 100% of the pairs changed their winner with the order"
    )
    assert "its win rates say nothing" in warning


def test_a_judge_that_takes_the_second_more_often_leans(judge, tmp_path):
    """It knows a good answer in half of the questions, and takes the second in the others."""
    known = {f"question [02468]\n.*{pattern}": said for pattern, said in BY_CONTENT.items()}
    told = opinion(judge(known | {"": SECOND}), pairs(10, 0, 0), tmp_path)
    assert (told.facts.first_share, told.facts.flip_rate) == (0.25, 0.5)
    (warning,) = told.warnings
    assert "stood second in 75% of 20 votes" in warning
    assert "leans towards a place" in warning


def test_a_judge_that_flips_either_way_is_told(judge, tmp_path):
    odd = {f"question [02468]\n.*{pattern}": FIRST for pattern in ("",)}
    told = opinion(judge(odd | {"": SECOND}), pairs(10, 0, 0), tmp_path)
    assert (told.facts.first_share, told.facts.first_p) == (0.5, 1)
    (warning,) = told.warnings
    assert "can hardly tell these answers apart" in warning


def test_a_reply_without_a_verdict_is_no_vote(judge, tmp_path):
    silent = {r"question [01]\n.*answer A\n[^-]*GOOD": "Both have merits.", **BY_CONTENT}
    told = opinion(judge(silent), pairs(6, 0, 0), tmp_path)
    found = told.facts.pairs["teacher"]
    assert (found.wins, found.unjudged, found.n, found.win_rate) == (4, 2, 4, 1)
    assert (told.facts.unreadable, told.facts.replies) == ({"ok": 2}, 12)
    (warning,) = told.warnings
    assert warning.startswith("2 of the judge's 12 replies hold no verdict (ok 2) and are no votes")


def test_a_judge_without_any_verdict_has_no_win_rate(judge, tmp_path):
    told = opinion(judge({"": "Hm."}), pairs(2, 1, 0), tmp_path)
    found = told.facts.pairs["teacher"]
    assert (found.win_rate, found.ci95, found.p, found.n, found.unjudged) == (None,) * 3 + (0, 3)
    assert (told.facts.first_share, told.facts.flip_rate) == (None, None)


def test_a_reply_that_was_cut_is_counted_by_its_status(judge, tmp_path):
    told = opinion(judge({"": "Well, " * 50}, max_tokens=20), pairs(2, 0, 0), tmp_path)
    assert told.facts.unreadable == {"truncated": 4}
    assert "truncated 4" in told.warnings[0]


def test_equal_answers_are_a_tie_that_nobody_is_asked_about(judge, tmp_path):
    texts = {"teacher": ["GOOD", "poor"], "student": [" GOOD\n", "GOOD"]}
    found = opinion(judge(), texts, tmp_path).facts.pairs["teacher"]
    assert (found.wins, found.ties, found.same, found.win_rate) == (1, 1, 1, 0.75)
    assert calls(tmp_path).total() == 2
    alone = opinion(judge(), {"teacher": ["a"], "student": ["a"]}, tmp_path / "alone").facts
    assert (alone.replies, alone.pairs["teacher"].ties, alone.flip_rate) == (0, 1, None)


def test_equal_questions_are_asked_once(judge, tmp_path):
    """Where teacher and baseline answer alike, the student is compared with both at one price."""
    texts = {"teacher": ["poor"], "student": ["GOOD"], "baseline": ["poor"]}
    told = opinion(judge(), texts, tmp_path)
    assert {model: found.wins for model, found in told.facts.pairs.items()} == {
        "teacher": 1,
        "baseline": 1,
    }
    assert calls(tmp_path).total() == 2
    assert told.rows == 4


def test_only_those_that_are_named_and_answer_are_compared(judge, tmp_path):
    texts = {"teacher": ["poor"], "student": ["GOOD"], "baseline": ["bad"]}
    told = opinion(judge(against=["baseline"]), texts, tmp_path)
    assert list(told.facts.pairs) == ["baseline"]
    del texts["baseline"]
    told = opinion(judge(against=["baseline", "teacher"]), texts, tmp_path / "2")
    assert list(told.facts.pairs) == ["teacher"]


def test_answers_are_graded_where_there_is_a_scale(judge, tmp_path):
    told = opinion(judge(against=[], scale=[1, 5]), pairs(6, 2, 2), tmp_path).facts
    assert {model: found.mean for model, found in told.grades.items()} == pytest.approx(
        {"teacher": 2.6, "student": 3.8}
    )
    assert told.grades["student"].ci95[0] < 3.8 < told.grades["student"].ci95[1]
    assert told.grades["teacher"].student_ahead == pytest.approx(1.2)
    assert (told.pairs, told.scale, told.grades["student"].n) == ({}, (1, 5), 10)
    assert {row["grade"] for row in verdicts(tmp_path)} == {2, 5}


def test_turns_of_a_dialogue_count_as_one(judge, tmp_path):
    texts = pairs(12, 8, 0)
    alone = opinion(judge(), texts, tmp_path).facts.pairs["teacher"]
    groups = [n // 4 for n in range(20)]
    together = opinion(judge(), texts, tmp_path, clusters=groups).facts.pairs["teacher"]
    assert (alone.clusters, together.clusters) == (20, 5)
    assert together.ci95[1] - together.ci95[0] > alone.ci95[1] - alone.ci95[0]


@pytest.mark.parametrize(("references", "shown"), [(True, True), (False, False)])
def test_right_answers_are_shown_unless_they_are_hidden(judge, tmp_path, references, shown):
    saw = {"right answer 2": FIRST, "": TIE}
    block = judge(saw, references=references)
    found = opinion(block, pairs(1, 0, 0), tmp_path, references=["nine", "9"]).facts
    assert (found.named > 0) == shown


def test_a_judge_that_also_taught_is_told(judge, tmp_path):
    generate = GenerateSpec(teachers=[FakeTeacherSpec(name="big", model="j")])
    told = opinion(judge(), pairs(6, 2, 2), tmp_path, generate=generate)
    assert told.facts.is_teacher
    (warning,) = told.warnings
    assert warning.startswith("the judge 'judge' is the teacher (j)")


def test_a_judge_that_is_the_trained_student_is_refused(judge, tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "student")
    block = judge()
    block["teacher"]["model"] = str(tmp_path / "link")
    student = Model("student", str(tmp_path / "student"), None, EngineSpec())
    with pytest.raises(SpecError, match="is the student, whose answers it would judge"):
        opinion(block, pairs(1, 0, 0), tmp_path, models=[student])


# What is kept, and what is paid


def test_a_second_run_asks_nothing(judge, tmp_path):
    first = opinion(judge(), pairs(6, 2, 2), tmp_path)
    asked = calls(tmp_path).total()
    assert opinion(judge(), pairs(6, 2, 2), tmp_path) == first
    assert calls(tmp_path).total() == asked == 20


def test_verify_and_gc_look_at_the_replies_too(judge, tmp_path):
    opinion(judge(), pairs(6, 2, 2), tmp_path)
    rows = 0
    for place in data_places(tmp_path):
        for record in Commits(place).counting.values():
            rows += len(record["prompt_id"])
    assert rows == 20


def test_after_a_kill_what_was_said_is_not_asked_again(judge, tmp_path):
    texts = pairs(30, 15, 15)
    block = judge(knobs={"crash_point": "after_record:3"}, part_seconds=0.05)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"judge": block, "texts": texts, "out": str(tmp_path)}))
    driver = [sys.executable, str(REPOSITORY / "tests/drivers/judging.py"), str(plan)]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    killed = subprocess.run(driver, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    records = Commits(tmp_path / "judge").counting.values()
    kept = {number for record in records for number in record["prompt_id"]}
    assert 0 < len(kept) < 120
    asked_before = calls(tmp_path)

    found = opinion(judge(), texts, tmp_path).facts.pairs["teacher"]
    assert (found.wins, found.losses, found.ties, found.n) == (30, 15, 15, 60)
    asked_after = calls(tmp_path) - asked_before
    assert asked_after.total() == 120 - len(kept)
    assert max(asked_after.values()) == 1


def test_at_its_limit_the_judge_asks_nothing_more_and_goes_on_when_it_is_raised(judge, tmp_path):
    prices = {"input": 1000.0, "output": 1000.0}
    texts = pairs(12, 0, 0)
    whole = opinion(judge(prices=prices), texts, tmp_path / "whole").facts
    asked = calls(tmp_path).total()
    limited = judge(prices=prices, max_cost_usd=whole.cost_usd / 2)
    with pytest.raises(StageError, match=r"^evaluate.judge.max_cost_usd=[\d.]+ is used up: \d+ of"):
        opinion(limited, texts, tmp_path)
    before = calls(tmp_path).total() - asked
    assert 0 < before < 24
    assert not (tmp_path / "judge/verdicts.parquet").exists()
    again = opinion(judge(prices=prices, max_cost_usd=2 * whole.cost_usd), texts, tmp_path).facts
    assert calls(tmp_path).total() == asked + 24
    assert again.cost_usd == pytest.approx(whole.cost_usd)


def test_questions_that_fail_end_the_stage_unless_some_may(judge, tmp_path):
    broken = {"error_fraction": 0.3}
    with pytest.raises(
        StageError, match=r"evaluate.judge: \d+ of 40 questions failed \(first: Runt"
    ):
        opinion(judge(knobs=broken), pairs(20, 0, 0), tmp_path)
    told = opinion(judge(knobs=broken, max_failed_fraction=0.9), pairs(20, 0, 0), tmp_path).facts
    assert told.unreadable["error"] > 0
    assert told.pairs["teacher"].unjudged > 0
    mended = opinion(judge(), pairs(20, 0, 0), tmp_path).facts
    assert (mended.unreadable, mended.pairs["teacher"].wins) == ({}, 20)


# Over real clients and engines


def by_content(path, body):
    """A judge behind a local API: the answer with GOOD in it is better."""
    asked = body["messages"][-1]["content"]
    first, second = re.findall(r" answer [AB]\n([^-]*)", asked)
    said = TIE
    if ("GOOD" in first) != ("GOOD" in second):
        said = FIRST if "GOOD" in first else SECOND
    spoken = body | {"messages": [{"role": "user", "content": said}]}
    return misbehaving_api.answer(path, spoken)


def api_judge(judge, url, **fields):
    block = judge(**fields)
    block["teacher"] = {
        "kind": "openai",
        "name": "judge",
        "model": "m",
        "base_url": f"{url}/v1",
        "api_key_env": "DISTILL_TEST_API_KEY",
        "concurrency": 4,
        "prices": {"input": 1.0, "output": 2.0},
    }
    return block


def test_a_judge_behind_an_api_that_misbehaves_answers_everything(judge, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)
    faults = Faults(busy=0.1, error=0.1, cut=0.05, seed=3)
    with misbehaving_api.serve(faults, by_content) as api:
        block = api_judge(judge, api.url)
        told = opinion(block, pairs(6, 3, 3), tmp_path, stream=stream_together).facts
        found = told.pairs["teacher"]
        assert (found.wins, found.losses, found.ties, found.n) == (6, 3, 3, 12)
        assert told.cost_usd >= 24 * (9 + 2 * 4) / 1e6, "tries that may have been charged count too"
        asked = len(api.calls)
        opinion(block, pairs(6, 3, 3), tmp_path, stream=stream_together)
        assert len(api.calls) == asked
    assert {call.body["temperature"] for call in api.calls} == {0.0}


@pytest.mark.proof
def test_a_real_tiny_engine_judges_and_is_asked_nothing_twice(judge, tmp_path, ray_cluster):
    """The quickstart's teacher knows sums and no verdicts: its replies are counted as what they
    are."""
    from engine.backends import ray_data

    block = judge(max_tokens=24, scale=[1, 5])
    block["teacher"] = {
        "kind": "vllm",
        "name": "judge",
        "model": str(REPOSITORY / "jobs/quickstart/teacher"),
        "dtype": "float32",
        "kv_cache_gib": 0.25,
        "max_model_len": 1024,
    }
    texts = pairs(4, 2, 2)
    first = opinion(block, texts, tmp_path, stream=ray_data.stream)
    rows = verdicts(tmp_path)
    assert len(rows) == 8 * 2 + 8 * 2
    assert {row["status"] for row in rows} <= {"ok", "truncated", "loop", "empty"}
    assert any(row["text"] for row in rows)
    silent = sum(row["verdict"] is None and row["grade"] is None for row in rows)
    assert sum(first.facts.unreadable.values()) == silent
    assert first.facts.tokens_in > 32 * 50
    before = sorted(path.name for path in (tmp_path / "judge/data").iterdir())
    again = opinion(block, texts, tmp_path, stream=ray_data.stream)
    assert again == first
    assert sorted(path.name for path in (tmp_path / "judge/data").iterdir()) == before
