import itertools
import json
from contextlib import contextmanager
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from engine.backends import fake
from engine.errors import SpecError, StageError
from engine.job.spec import (
    EvaluateSpec,
    FakeTeacherSpec,
    GenerateSpec,
    SamplingSpec,
    VerifySpec,
)
from engine.rows.records import ANSWER, PROMPT, Completion, Prompt, completion_schema
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.rows.tools import tools_column
from engine.run.context import Context
from engine.run.facts import GenerateInfo, PromptsInfo, TrainInfo
from engine.run.manifests import Counts, finished, publish
from engine.stages import evaluate

GENERATE = GenerateSpec(
    teachers=[
        FakeTeacherSpec(name="big", model="m"),
        FakeTeacherSpec(name="other", model="m"),
    ],
    sampling=SamplingSpec(max_tokens=77),
)

PLAIN = PromptsInfo()


def ask(number, reference, meta="{}", content=None):
    messages = [{"role": "user", "content": content or f"q{number}"}]
    return Prompt(
        number,
        f"{number:064x}",
        f"a:{number}",
        messages,
        "math",
        "a",
        "validation",
        reference,
        meta,
    )


def reply(number, text, model="big", split="validation", status="ok"):
    return Completion(number, model, 0, split, 0, status, text=text)


def publish_table(folder, stage, name, table, info):
    (folder / "data").mkdir(parents=True)
    write_parquet(table, folder / name)
    rows = len(table)
    publish(folder, stage, {}, Counts(rows, rows, {name: rows}, info=info), 0.0)
    return finished(folder)


GENERATED = GenerateInfo(
    prompts=0, completions=0, tokens_in=0, tokens_out=0, tokens_per_second=None, status={}
)
TRAINED = TrainInfo(
    steps=1,
    tokens=1,
    tokens_per_second=None,
    final_loss=None,
    validation_loss=None,
    zero_stage=0,
    workers=1,
    student="student",
    baseline="hub/tiny",
)


@contextmanager
def no_algebra(deadline_s):
    """For answers that rules can tell."""

    def nobody_should_ask(pairs):
        raise AssertionError(pairs)

    yield nobody_should_ask


def thoughts_apart(text):
    """What an engine with a parser of reasoning gives as the answer."""
    return text.rpartition("</think>")[2].strip()


@pytest.fixture
def run(tmp_path):
    runs = itertools.count()

    def run_stage(
        prompts,
        teacher,
        student,
        baseline=None,
        task="math",
        generate=GENERATE,
        owners=None,
        folder=None,
        make_student=lambda folder: None,
        labels=None,
        verify=None,
        algebra=no_algebra,
        asked_as=PLAIN,
        calls=None,
        **spec,
    ):
        number = next(runs)
        place = tmp_path / f"again-{number}" if number else tmp_path
        names = owners or ["big"] * len(prompts)
        stored = [
            reply(p.prompt_id, text, name)
            for p, text, name in zip(prompts, teacher, names, strict=True)
            if text is not None
        ]
        if calls:
            paired = zip(stored, calls["teacher"], strict=True)
            stored = [replace(row, tool_calls=each) for row, each in paired]
        stored += [reply(p.prompt_id, "999", "other") for p in prompts if not owners] + [
            reply(5000, "1", split="train")
        ]
        inputs = {
            "prompts": publish_table(
                place / "1",
                "prompts",
                "data/validation-00000.parquet",
                to_table(prompts, PROMPT),
                asked_as.model_copy(update={"labels": labels or {}}),
            ),
            "generate": publish_table(
                place / "2",
                "generate",
                "data/p.parquet",
                to_table(stored, completion_schema()),
                GENERATED,
            ),
            "train": publish_table(
                place / "4",
                "train",
                "data/x.parquet",
                to_table([], ANSWER),
                TRAINED,
            ),
        }
        (place / "4/student").mkdir()
        make_student(place / "4/student")
        asked = {}

        def answer(models, files, out, max_tokens, ctx):
            asked.update(models=models, max_tokens=max_tokens)
            assert [
                row for table in read_tables(files) for row in to_rows(table, Prompt)
            ] == prompts
            said = {"student": student, "baseline": baseline}
            parser = {model.reasoning_parser for model in models}
            apart = thoughts_apart if parser == {"deepseek_r1"} else lambda text: text
            answers = {}
            for model in models:
                pairs = list(zip(prompts, said[model.name], strict=True))[::-1]
                answers[model.name] = [
                    reply(p.prompt_id, apart(text), model.name)
                    for p, text in pairs
                    if text is not None
                ]
                if calls:
                    paired = zip(answers[model.name], calls[model.name][::-1], strict=True)
                    answers[model.name] = [replace(row, tool_calls=each) for row, each in paired]
            return answers

        out = folder or place / "5"
        out.mkdir(exist_ok=True, parents=True)
        ctx = Context(job="t", task=task, seed=0)
        spec = EvaluateSpec(baseline=baseline is not None, **spec)
        counts = evaluate.run(
            spec,
            inputs,
            out,
            ctx,
            generate=generate,
            verify=verify,
            answer=answer,
            open_algebra=algebra,
            stream=fake.stream,
        )
        publish(out, "evaluate", {}, counts, 0.0)
        json.dumps(counts.info.model_dump(mode="json"), allow_nan=False)
        return counts, asked, pq.read_table(out / "data/answers.parquet").to_pylist()

    return run_stage


def test_teacher_baseline_and_student_are_scored_against_the_gold_answers(run, tmp_path):
    prompts = [ask(n, f"#### {n}") for n in range(10)]
    counts, asked, rows = run(
        prompts,
        [str(n) for n in range(9)] + ["x"],
        [str(n) for n in range(6)] + [""] * 4,
        ["0"] * 10,
        max_tokens=None,
    )
    weights = [(model.name, model.model, model.revision) for model in asked["models"]]
    assert weights == [
        ("student", str(tmp_path / "4/student"), None),
        ("baseline", "hub/tiny", None),
    ]
    assert asked["max_tokens"] == 77
    quality = counts.info.quality
    assert [getattr(quality, key) for key in ("metric", "n", "teacher", "baseline", "student")] == [
        "exact_match",
        10,
        0.9,
        0.1,
        0.6,
    ]
    assert quality.retention == pytest.approx(6 / 9)
    assert set(quality.ci95) == {"teacher", "baseline", "student", "retention"}
    assert all(low <= getattr(quality, name) <= high for name, (low, high) in quality.ci95.items())
    assert counts.info.metrics == {"exact_match": {"teacher": 0.9, "baseline": 0.1, "student": 0.6}}
    assert counts.info.reference == "gold"
    assert (counts.rows_in, counts.rows_out) == (30, 30)
    assert {
        "prompt_id": 7,
        "model": "student",
        "status": "ok",
        "text": "",
        "reference": "#### 7",
        "scores": '{"exact_match": 0.0}',
        "verdict": "no_answer",
    } in rows


def test_a_disk_that_is_full_when_the_scores_are_written_is_said(run, small_disk):
    disk, fill = small_disk
    fill()
    with pytest.raises(OSError, match="No space left on device"):
        run([ask(1, "1")], ["1"], ["1"], folder=disk)


def test_without_gold_answers_the_teacher_is_the_reference(run):
    prompts = [ask(n, None) for n in range(4)]
    said = ["the cat sat on the mat", "dogs bark at night", "birds sing", "fish swim in water"]
    counts, _, _ = run(
        prompts, said, [*said[:3], "no idea"], task="summarization", bootstrap_samples=1000
    )
    quality = counts.info.quality
    assert counts.info.reference == "teacher"
    assert (quality.metric, quality.teacher, quality.baseline, quality.student) == (
        "rougeL",
        None,
        None,
        0.75,
    )
    assert quality.retention == 0.75
    assert quality.ci95["teacher"] is None
    assert quality.ci95["retention"] == quality.ci95["student"]
    assert counts.info.metrics["bleu"]["teacher"] == pytest.approx(1)


def test_prompts_without_gold_answer_among_others_are_called_mixed(run):
    counts, _, _ = run([ask(1, "1"), ask(2, "a proof")], ["1", "2"], ["1", "2"])
    assert counts.info.reference == "mixed"
    assert counts.info.quality.student == 1
    assert counts.info.warnings == [
        "1 of 2 prompts have no gold answer; the teacher's is their reference, and retention is of"
        " the others"
    ]


def test_a_useless_teacher_gives_no_retention(run):
    quality = run([ask(1, "1")], ["none"], ["1"])[0].info.quality
    assert (
        quality.teacher,
        quality.student,
        quality.retention,
        quality.ci95["retention"],
    ) == (0, 1, None, None)


def test_no_validation_prompts_are_an_error(run):
    with pytest.raises(StageError, match="no validation prompts"):
        run([], [], [])


def test_a_model_that_skips_a_prompt_is_an_error(run):
    with pytest.raises(
        StageError, match=r"student gave no answer to 1 of 2 validation prompts, e.g. id 2"
    ):
        run([ask(1, "1"), ask(2, "2")], ["1", "2"], ["1", None])


@pytest.mark.parametrize("route", [{"route": "split"}, {"route": "by", "route_by": "language"}])
def test_the_teachers_answer_to_a_routed_prompt_is_that_of_whom_it_went_to(run, route):
    generate, owners = GENERATE.model_copy(update=route), ["big", "other", "other", "big"]
    counts, _, rows = run(
        [ask(n, f"#### {n}") for n in range(4)],
        ["0", "1", "x", "3"],
        ["0"] * 4,
        generate=generate,
        owners=owners,
    )
    assert counts.info.quality.teacher == 0.75
    assert {row["prompt_id"]: row["text"] for row in rows if row["model"] == "teacher"} == {
        0: "0",
        1: "1",
        2: "x",
        3: "3",
    }


def test_a_routed_prompt_without_an_answer_is_an_error(run):
    generate = GENERATE.model_copy(update={"route": "split"})
    with pytest.raises(
        StageError, match=r"teacher gave no answer to 1 of 2 validation prompts, e.g. id 2"
    ):
        run(
            [ask(1, "1"), ask(2, "2")],
            ["1", None],
            ["1", "2"],
            generate=generate,
            owners=["big", "other"],
        )


@pytest.mark.parametrize(("student", "said"), [(["7", "x"], True), (["0", "x"], False)])
def test_a_student_that_scores_nothing_is_told_in_words(run, student, said):
    counts, *_ = run([ask(0, "#### 0"), ask(1, "#### 1")], ["0", "1"], student)
    assert [warning.partition(" on all ")[0] for warning in counts.info.warnings] == [
        "the student scores 0 in exact_match"
    ] * said


def test_the_student_is_compared_with_both_others_on_the_same_prompts(run):
    prompts = [ask(n, f"#### {n}") for n in range(40)]
    right = [str(n) for n in range(40)]
    counts, *_ = run(
        prompts,
        [*right[:36], *["x"] * 4],
        [*right[:30], *["x"] * 10],
        [*["x"] * 35, *right[35:]],
        bootstrap_samples=1000,
    )
    compared = counts.info.comparisons
    assert list(compared) == ["baseline", "teacher"]
    (baseline,) = compared["baseline"]
    assert (baseline.wins, baseline.losses, baseline.ties, baseline.n) == (30, 5, 5, 40)
    assert baseline.difference == pytest.approx(25 / 40)
    assert baseline.p == baseline.p_holm < 0.001
    assert baseline.ci95[0] < 25 / 40 < baseline.ci95[1]
    (teacher,) = compared["teacher"]
    assert (teacher.wins, teacher.losses, teacher.test) == (0, 6, "McNemar mid-p")
    assert teacher.p == pytest.approx(1 / 64)


def test_where_the_teacher_is_the_reference_nobody_is_compared_with_it(run):
    said = ["the cat sat on the mat", "dogs bark at night"]
    counts, *_ = run([ask(n, None) for n in range(2)], said, said, ["x", "y"], task="summarization")
    assert list(counts.info.comparisons) == ["baseline"]
    compared = {one.metric for one in counts.info.comparisons["baseline"]}
    assert compared == {"rougeL", "bleu", "rouge1", "rouge2", "chrf"}


def test_retention_and_the_teachers_comparison_are_of_the_prompts_with_gold_answers(run):
    prompts = [*(ask(n, f"#### {n}") for n in range(4)), *(ask(n, "a proof") for n in range(4, 8))]
    counts, *_ = run(prompts, ["0", "1", "x", "x", *"4567"], ["0"] + ["y"] * 7)
    quality = counts.info.quality
    assert (quality.teacher, quality.student) == (6 / 8, 1 / 8)
    assert quality.retention == pytest.approx(1 / 2)
    (teacher,) = counts.info.comparisons["teacher"]
    assert (teacher.n, teacher.losses) == (4, 1)


def test_a_student_that_is_right_in_one_of_four_keeps_a_quarter(run):
    """With golds that can be read: no retention above 1 for a student that is worse."""
    golds = ["#### 7", "#### 28", "#### -5", "#### 9"]
    counts, *_ = run([ask(n, gold) for n, gold in enumerate(golds)], golds, ["1", "7", "5", "9"])
    quality = counts.info.quality
    assert (quality.teacher, quality.student, quality.retention) == (1, 0.25, 0.25)


def test_bare_latex_references_are_read_as_what_they_say(run):
    golds = ["x^2+1", r"4\sqrt{7}", r"-\frac{1}{2}", "9"]
    teacher = [rf"\boxed{{{gold}}}" for gold in golds]
    student = [r"\boxed{1}", r"\boxed{7}", r"\boxed{\frac{1}{2}}", r"\boxed{9}"]
    counts, *_ = run([ask(n, gold) for n, gold in enumerate(golds)], teacher, student)
    quality = counts.info.quality
    assert (quality.teacher, quality.student, quality.retention) == (1, 0.25, 0.25)


def test_labels_that_are_numbers_are_those_of_the_usual_order(run):
    said = ["contradiction", "neutral", "contradiction", "neutral"]
    prompts = [ask(n, label) for n, label in enumerate("0120")]
    counts, *_ = run(prompts, said, said, task="nli", bootstrap_samples=1000)
    assert (counts.info.quality.teacher, counts.info.quality.student) == (0.5, 0.5)


@pytest.mark.parametrize(
    "texts",
    [
        ["今天下午我们去图书馆看书。", "他昨天买了一本新书。"],
        ["Мальчик читает книгу", "Поезд ушёл"],
        ["الولد يقرأ كتابا", "غادر القطار"],
        ["लड़का किताब पढ़ता है", "रेलगाड़ी चली गई"],
    ],
)
@pytest.mark.parametrize("task", ["summarization", "conversation"])
def test_answers_equal_to_their_references_score_1_in_any_language(run, texts, task):
    prompts = [ask(n, text) for n, text in enumerate(texts)]
    counts, _, rows = run(prompts, texts, texts, task=task, bootstrap_samples=1000)
    assert counts.info.quality.student == pytest.approx(1)
    assert counts.info.quality.retention == pytest.approx(1)
    for name, scores in counts.info.metrics.items():
        assert scores["student"] == pytest.approx(1), name
    assert all(json.loads(row["scores"])["chrf"] == pytest.approx(1) for row in rows)


def test_metrics_with_nothing_to_score_are_left_out_unless_they_were_named(run):
    prompts = [ask(1, "a table for two"), ask(2, "which city")]
    said = ["a table for two", "which city do you mean"]
    counts, *_ = run(prompts, said, said, task="conversation", bootstrap_samples=1000)
    assert "slots" not in counts.info.metrics
    counts, *_ = run(prompts, said, said, task="conversation", metrics=["bleu", "slots"])
    assert counts.info.metrics["slots"] == {"teacher": None, "student": None}
    assert "slots has nothing to score" in counts.info.warnings[0]


def test_any_of_several_gold_answers_is_right(run):
    prompts = [replace(ask(0, "4"), references=["4", "5"]), ask(1, "6")]
    counts, *_ = run(prompts, ["#### 5", "#### 6"], ["#### 7", "#### 6"])
    assert counts.info.quality.teacher == 1
    assert counts.info.quality.student == 0.5


def test_slot_values_come_from_the_prompts_columns(run):
    meta = json.dumps({"slots": {"city": "San Jose", "time": "7 pm"}})
    counts, _, rows = run(
        [ask(1, "Booked in San Jose at 7 pm.", meta)],
        ["Booked in San Jose at 7 pm."],
        ["Booked in San Jose."],
        task="conversation",
        bootstrap_samples=1000,
    )
    assert counts.info.metrics["slots"] == {"teacher": 1, "student": 0.5}
    assert json.loads(rows[-1]["scores"])["slots"] == 0.5


def test_calls_of_tools_are_scored_and_read_behind_the_text(run):
    weather = tools_column([{"type": "function", "function": {"name": "weather"}}], {})
    ely = '[{"name": "weather", "arguments": {"city": "Ely"}}]'
    prompts = [
        replace(ask(1, 'weather {"city": "Ely"}'), tools=weather, reference_calls=ely),
        replace(ask(2, "It is 20 degrees."), tools=weather),
        ask(3, "Hello there."),
    ]
    calls = {"teacher": (ely, None, None), "student": (ely, ely, None)}
    texts = ["", "It is 20 degrees.", "Hello there."]
    counts, _, rows = run(
        prompts, texts, texts, task="conversation", calls=calls, bootstrap_samples=1000
    )
    assert counts.info.metrics["tool_calls"] == {"teacher": 1, "student": 1}
    assert counts.info.metrics["needless_calls"] == {"teacher": 0, "student": 1}
    assert rows[0]["text"] == rows[0]["reference"] == 'weather {"city": "Ely"}'
    assert json.loads(rows[0]["scores"])["bleu"] == pytest.approx(1)
    assert rows[4]["text"] == 'It is 20 degrees.\nweather {"city": "Ely"}'


def test_numbers_are_looked_for_in_the_prompt(run):
    prompts = [ask(1, "Sales rose to 12.", content="Sales rose from 10 to 12 in 2021.")]
    counts, *_ = run(
        prompts, ["Sales rose to 12."], ["13 in 2021"], task="summarization", bootstrap_samples=1000
    )
    assert counts.info.metrics["new_numbers"] == {"teacher": 0, "student": 0.5}


def test_turns_of_a_dialogue_count_as_one(run):
    prompts = [ask(n, f"#### {n}", json.dumps({"dialogue": n // 5})) for n in range(20)]
    right = [str(n) for n in range(20)]
    student = [*right[:10], *["x"] * 10]
    alone, *_ = run(prompts, right, student, ["x"] * 20)
    together, *_ = run(prompts, right, student, ["x"] * 20, cluster_by="dialogue")
    (baseline,) = together.info.comparisons["baseline"]
    assert (baseline.n, baseline.clusters, baseline.test) == (20, 4, "paired bootstrap")
    assert alone.info.comparisons["baseline"][0].p < 0.01 < baseline.p
    narrow, wide = (counts.info.quality.ci95["student"] for counts in (alone, together))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_prompts_of_each_turn_are_grouped_by_their_dialogue_without_being_told(run):
    prompts = [ask(n, f"#### {n}", json.dumps({"dialogue_id": n // 5})) for n in range(20)]
    right = [str(n) for n in range(20)]
    said = (prompts, right, [*right[:10], *["x"] * 10], ["x"] * 20)
    each = PromptsInfo(cluster_by="dialogue_id")
    assert run(*said, asked_as=each)[0].info.comparisons["baseline"][0].clusters == 4
    assert run(*said)[0].info.comparisons["baseline"][0].clusters == 20


def test_a_column_that_no_prompt_has_cannot_group_them(run):
    with pytest.raises(SpecError, match=r"evaluate.cluster_by=dialog: no validation prompt has"):
        run([ask(1, "1")], ["1"], ["1"], cluster_by="dialog")


def test_how_text_metrics_were_computed_is_kept(run):
    said = ["the cat sat on the mat"]
    counts, *_ = run([ask(1, said[0])], said, said, task="conversation", bootstrap_samples=1000)
    assert counts.info.signatures["bleu"].startswith(
        "nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp"
    )
    assert set(counts.info.signatures) == {"bleu", "chrf", "rougeL", "rouge1", "rouge2"}
    counts, *_ = run([ask(1, "#### 1")], ["1"], ["1"])
    assert counts.info.signatures == {}


def test_what_a_model_takes_is_read_from_its_folder(run, tmp_path):
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "dtype": "bfloat16",
    }

    def student(folder):
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"\0" * 5000)

    counts, *_ = run([ask(1, "1")], ["1"], ["1"], make_student=student)
    footprint = counts.info.footprint
    assert footprint["student"].weights_bytes == 5000
    assert footprint["student"].kv_bytes_per_token == 2 * 2 * 2 * 2 * 16  # k, v, bytes, heads, dim
    assert "kind fake" in footprint["teacher"].why_unknown


def test_a_model_that_is_not_here_has_no_known_size(run):
    counts, *_ = run([ask(1, "1")], ["1"], ["1"], ["x"])
    assert "no config.json" in counts.info.footprint["baseline"].why_unknown


GOLD = r"\sin(x)+1"
SAME = r"\boxed{1+\sin(x)}"
OTHER = r"\boxed{\sin(x)-1}"
ENDLESS = r"\boxed{\sin(9^{x})}"


@contextmanager
def algebra(deadline_s):
    """An algebra system that knows one identity and does not end with another pair."""
    known = {r"1+\sin(x)": True, r"\sin(9^{x})": None}
    yield lambda pairs: [known.get(said, False) for _, said in pairs]


def test_what_only_algebra_can_tell_is_asked_of_it_for_every_model(run):
    prompts = [ask(n, GOLD) for n in range(4)]
    counts, _, rows = run(
        prompts, [SAME] * 4, [SAME, SAME, OTHER, ENDLESS], [OTHER] * 4, algebra=algebra
    )
    quality = counts.info.quality
    assert (quality.teacher, quality.baseline, quality.student) == (1, 0, 0.5)
    nothing = dict.fromkeys(("right", "wrong", "no_answer", "ambiguous"), 0)
    nothing |= {"unverified": 0, "unchecked": 0}
    assert counts.info.verdicts == {
        "teacher": nothing | {"right": 4},
        "student": nothing | {"right": 2, "wrong": 1, "unverified": 1},
        "baseline": nothing | {"wrong": 4},
    }
    (warning,) = counts.info.warnings
    assert "1 of 4 answers of the student are unverified, neither right nor wrong" in warning
    assert "lies between 0.5 and 0.75" in warning
    told = [row["verdict"] for row in rows if row["model"] == "student"]
    assert told == ["right", "right", "wrong", "unverified"]


def test_rules_alone_leave_it_unverified_and_say_so(run):
    counts, *_ = run([ask(1, GOLD)], [SAME], [SAME], verify=VerifySpec(math="rules"))
    assert counts.info.verdicts["student"]["unverified"] == 1
    assert "curate.verify.math is `rules`" in counts.info.warnings[-1]


def test_answers_without_one_and_with_several_are_counted_apart(run):
    prompts = [ask(n, "#### 4") for n in range(4)]
    said = ["It is 4.", "I cannot say.", "The answer is 4 or 5.", "5"]
    counts, *_ = run(prompts, ["4"] * 4, said)
    tally = counts.info.verdicts["student"]
    assert list(tally.values()) == [1, 1, 1, 1, 0, 0]
    assert list(tally)[:4] == ["right", "wrong", "no_answer", "ambiguous"]
    assert counts.info.warnings == []


def test_the_teachers_own_answers_are_not_counted_as_right(run):
    counts, *_ = run([ask(1, "1"), ask(2, "a proof")], ["1", "2"], ["1", "2"])
    assert counts.info.verdicts["teacher"]["right"] == 1
    assert counts.info.verdicts["student"]["right"] == 2


def test_tasks_without_right_and_wrong_have_no_verdicts(run):
    said = ["the cat sat on the mat"]
    counts, _, rows = run(
        [ask(1, said[0])], said, said, task="conversation", bootstrap_samples=1000
    )
    assert counts.info.verdicts == {}
    assert {row["verdict"] for row in rows} == {None}


def test_words_are_right_by_the_jobs_rule_and_match_exactly_by_squads(run):
    said = ["It stands in Paris."]
    counts, *_ = run([ask(1, "Paris")], said, said, task="qa")
    assert counts.info.verdicts["student"]["right"] == 1
    assert counts.info.metrics["exact_match"]["student"] == 0
    exact = VerifySpec(qa="exact")
    counts, *_ = run([ask(1, "Paris")], said, said, task="qa", verify=exact)
    assert counts.info.verdicts["student"]["wrong"] == 1


def test_long_references_of_words_are_unchecked_without_a_rule(run):
    long = "it was built by many people over many years"
    counts, *_ = run([ask(1, long)], ["x"], [long], task="qa")
    assert counts.info.verdicts["student"]["unchecked"] == 1
    assert counts.info.metrics["exact_match"]["student"] == 1


def test_the_jobs_own_names_of_labels_count(run):
    prompts = [ask(1, "contradiction"), ask(2, "neutral")]
    said = ["REFUTES", "NOT ENOUGH INFO"]
    labels = {"REFUTES": "contradiction", "NOT ENOUGH INFO": "neutral"}
    counts, *_ = run(prompts, said, said, task="nli", labels=labels, bootstrap_samples=1000)
    student = {name: scores["student"] for name, scores in counts.info.metrics.items()}
    assert student == {"accuracy": 1, "macro_f1": 1, "no_label": 0}


THOUGHTS = "<think>Nine and nine is 18, or is it 19? No.</think>"


def test_a_student_that_learnt_to_think_is_scored_on_its_answer(run):
    gold = "the cat sat on the mat"
    thinking = [f"{THOUGHTS} {gold}"]
    prompts = [ask(1, gold)]
    counts, asked, _ = run(
        prompts,
        [gold],
        thinking,
        thinking,
        task="summarization",
        reasoning_parser="deepseek_r1",
        bootstrap_samples=1000,
    )
    assert [model.reasoning_parser for model in asked["models"]] == ["deepseek_r1"] * 2
    assert counts.info.metrics["rougeL"] == {"teacher": 1, "baseline": 1, "student": 1}
    assert counts.info.warnings == []


def test_thoughts_that_nobody_tells_apart_are_named_with_the_remedy(run):
    gold = "the cat sat on the mat"
    counts, *_ = run(
        [ask(1, gold)], [gold], [f"{THOUGHTS} {gold}"], task="summarization", bootstrap_samples=1000
    )
    assert counts.info.metrics["rougeL"]["student"] < 1
    (warning,) = counts.info.warnings
    assert "1 of 1 answers of the student hold thoughts" in warning
    assert "evaluate.reasoning_parser" in warning


def test_an_answer_behind_thoughts_is_read_without_a_parser_where_it_is_right_or_wrong(run):
    counts, *_ = run([ask(1, "#### 20")], ["20"], [f"{THOUGHTS} It is 20."])
    assert counts.info.quality.student == 1


def test_a_judge_compares_the_student_with_both_others_and_its_rows_are_published(run, tmp_path):
    (tmp_path / "rubric.txt").write_text("Even is better.")
    replies = {r"answer A\n#### \d*[02468]\n": '{"verdict": "A"}', "": '{"verdict": "B"}'}
    teacher = {"kind": "fake", "name": "j", "model": "j", "fake": {"replies": replies}}
    counts, *_ = run(
        [ask(n, f"#### {n}") for n in range(4)],
        ["#### 1", "#### 1", "#### 2", "#### 1"],
        ["#### 2", "#### 4", "#### 1", "#### 6"],
        ["#### 1", "#### 3", "#### 5", "#### 7"],
        judge={"teacher": teacher, "rubric": str(tmp_path / "rubric.txt")},
    )
    judge = counts.info.judge
    assert [judge.pairs[model].wins for model in ("teacher", "baseline")] == [3, 3]
    assert [judge.pairs[model].losses for model in ("teacher", "baseline")] == [1, 0]
    assert (counts.rows_out, counts.files["judge/verdicts.parquet"]) == (12, 16)
    assert judge.flip_rate == 1 / 8, "of two odd answers it takes the second"


def test_without_a_judge_there_is_nothing_of_one(run, tmp_path):
    counts, *_ = run([ask(1, "1")], ["1"], ["1"])
    assert counts.info.judge is None
    assert list(counts.files) == ["data/answers.parquet"]
