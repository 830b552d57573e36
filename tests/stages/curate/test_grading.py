"""A judge as a filter, and as what the best answers are chosen by."""

from dataclasses import replace

import pytest
from doubles.curated import CTX, ask, files_of, finish, key, reply, run, verdicts_in

from engine.backends import fake
from engine.backends.processes import here
from engine.errors import StageError
from engine.job.spec import CurateSpec
from engine.run.manifests import finished, publish
from engine.stages import curate

HONEST = {
    r"answer A\n[^-]*GOOD.*answer B\n[^-]*GOOD": '{"verdict": "tie"}',
    r"answer A\n[^-]*GOOD": '{"verdict": "A"}',
    r"answer B\n[^-]*GOOD": '{"verdict": "B"}',
    r"answer\n[^-]*GOOD": '{"score": 5}',
    r"answer\n[^-]*silent": "I would rather not say.",
    r"How good": '{"score": 2}',
    "": '{"verdict": "A"}',
}

TOLD = ('{"score": 5}', '{"score": 2}', "I would rather not say.")


@pytest.fixture
def judge(tmp_path):
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("The better answer is better.")

    def block(**fields):
        prices = fields.pop("prices", None)
        knobs = {"replies": HONEST, "calls": str(tmp_path / "calls")}
        teacher = {"kind": "fake", "name": "j", "model": "j", "fake": knobs, "prices": prices}
        return {"teacher": teacher, "rubric": str(rubric)} | fields

    return block


def asked(tmp_path):
    lines = (tmp_path / "calls").read_text().splitlines()
    return sum(line.endswith("start") for line in lines)


def prompts(count):
    return [replace(ask(number), reference=None) for number in range(count)]


def test_answers_that_are_graded_too_low_or_not_at_all_go(judge, tmp_path):
    answers = [reply(0, text="GOOD one"), reply(1, text="poor one"), reply(2, text="silent")]
    answers.append(reply(3, text="poor, and cut", status="truncated"))
    counts, examples, out = run(
        tmp_path / "run",
        prompts(4),
        [answers],
        judge=judge(keep=">= 4", prices={"input": 2.0, "output": 8.0}),
        stream=fake.stream,
        keeps=("judge",),
    )
    told = counts.info.judge
    assert (told.name, told.kind, told.model, told.replies) == ("j", "fake", "j", 3)
    assert told.tokens_out == sum(len(said) + 1 for said in TOLD)
    assert told.cost_usd == pytest.approx((2.0 * told.tokens_in + 8.0 * told.tokens_out) / 1e6)
    assert counts.dropped == {"truncated": 1, "low_grade": 1, "ungraded": 1}
    assert [row["prompt_id"] for row in examples["train"]] == [0]
    assert [row["score"] for row in verdicts_in(out)] == [5.0, 2.0, None, None]
    assert asked(tmp_path) == 3, "nobody is asked about what cheaper filters dropped"


def test_the_best_of_a_prompt_wins_its_pairs_in_both_orders(judge, tmp_path):
    texts = ["first", "GOOD", "third", "fourth"]
    answers = [reply(1, text=text, sample=sample) for sample, text in enumerate(texts)]
    _, examples, out = run(
        tmp_path / "run",
        prompts(2),
        [answers],
        judge=judge(),
        select={"by": ["judge"]},
        stream=fake.stream,
        keeps=("judge",),
    )
    assert [key(row) for row in examples["train"]] == [(1, "t", 1)]
    # the others flip with the order, which is a tie: half a win in two of three pairs
    scores = [row["score"] for row in verdicts_in(out)]
    assert scores == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])
    assert asked(tmp_path) == 12


def test_a_budget_that_is_used_up_stops_and_the_same_command_goes_on(judge, tmp_path):
    prices = {"input": 100.0, "output": 100.0}
    answers = [reply(number, text=f"GOOD {number}") for number in range(6)]
    where = (tmp_path / "run", prompts(6), [answers])
    block = judge(keep=">= 4", prices=prices, max_cost_usd=0.15, max_tokens=100)
    with pytest.raises(StageError, match=r"curate.judge.max_cost_usd=0.15 is used up"):
        run(*where, judge=block, stream=fake.stream)
    assert (tmp_path / "run/curate/work/judged/00000.parquet").exists()
    paid = asked(tmp_path)
    assert 0 < paid < 6
    spec = CurateSpec(judge=block | {"max_cost_usd": 10.0})
    inputs = {name: finished(tmp_path / "run" / name) for name in ("prompts", "generate")}
    counts = curate.run(spec, inputs, tmp_path / "run/curate", CTX, stream=fake.stream)
    assert counts.rows_out == 6
    assert asked(tmp_path) == 6, "what is paid is not asked again"


def test_a_reply_that_comes_late_changes_all_that_was_decided_without_it(judge, tmp_path):
    """The judge fails on some answers, the command is killed while it writes, and the next one has
    their replies."""
    texts = ["GOOD " * 8 + f"in many words that all of them share, number {n}" for n in range(9)]
    answers = [reply(number, text=text) for number, text in enumerate(texts)]
    inputs = finish(tmp_path, prompts(9), [answers[:5], answers[5:]])

    def curated(name, spread=here, **knobs):
        block = judge(keep=">= 4", max_failed_fraction=1.0)
        block["teacher"] = block["teacher"] | {"fake": block["teacher"]["fake"] | knobs}
        spec = CurateSpec(judge=block, near_duplicates={"of": "answer", "jaccard": 0.6})
        (tmp_path / name).mkdir(exist_ok=True)
        sizes = {"group_rows": 1, "spread": spread, "stream": fake.stream}
        counts = curate.run(spec, inputs, tmp_path / name, CTX, **sizes)
        publish(tmp_path / name, "curate", {}, counts, 0.0)
        return counts

    def dies_while_it_writes(work, orders):
        for order in orders:
            if getattr(order, "split", None):
                raise KeyboardInterrupt
            yield work(order)

    with pytest.raises(KeyboardInterrupt):
        curated("late", dies_while_it_writes, error_fraction=0.5)
    early = list((tmp_path / "late/verdicts").iterdir())
    assert len(early) == 2
    without = {row["reason"] for row in verdicts_in(tmp_path / "late")}
    assert "ungraded" in without
    late = curated("late")
    whole = curated("whole")
    assert late.dropped == whole.dropped == {"near_duplicate": 8}
    assert verdicts_in(tmp_path / "late") == verdicts_in(tmp_path / "whole")
    assert files_of(tmp_path / "late") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keep": "good"}, "give >= and a grade of the scale"),
        ({"keep": ">= 9"}, "give >= and a grade of the scale"),
        ({"scale": [5, 1]}, r"give \[worst, best\]"),
        ({"max_cost_usd": 1.0}, "j has no prices"),
    ],
)
def test_a_block_that_cannot_work_says_what_to_give(judge, fields, said):
    with pytest.raises(ValueError, match=said):
        CurateSpec(judge=judge(**fields))


def test_the_best_go_by_grades_or_by_votes(judge):
    with pytest.raises(ValueError, match="choose one of them"):
        CurateSpec(judge=judge(), select={"by": ["score", "judge"]})
