import json

import pyarrow.parquet as pq
import pytest

from engine.errors import StageError
from engine.job.spec import EvaluateSpec, FakeTeacherSpec, GenerateSpec, SamplingSpec
from engine.rows.records import ANSWER, PROMPT, Completion, Prompt, completion_schema
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
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


def ask(number, reference):
    messages = [{"role": "user", "content": f"q{number}"}]
    return Prompt(
        number, f"{number:064x}", f"a:{number}", messages, "math", "a", "validation", reference
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


@pytest.fixture
def run(tmp_path):
    def run_stage(
        prompts,
        teacher,
        student,
        baseline=None,
        task="math",
        generate=GENERATE,
        owners=None,
        folder=None,
        **spec,
    ):
        names = owners or ["big"] * len(prompts)
        stored = [
            reply(p.prompt_id, text, name)
            for p, text, name in zip(prompts, teacher, names, strict=True)
            if text is not None
        ]
        stored += [reply(p.prompt_id, "999", "other") for p in prompts if not owners] + [
            reply(5000, "1", split="train")
        ]
        inputs = {
            "prompts": publish_table(
                tmp_path / "1",
                "prompts",
                "data/validation-00000.parquet",
                to_table(prompts, PROMPT),
                PromptsInfo(),
            ),
            "generate": publish_table(
                tmp_path / "2",
                "generate",
                "data/p.parquet",
                to_table(stored, completion_schema()),
                GENERATED,
            ),
            "train": publish_table(
                tmp_path / "4",
                "train",
                "data/x.parquet",
                to_table([], ANSWER),
                TRAINED,
            ),
        }
        (tmp_path / "4/student").mkdir()
        asked = {}

        def answer(models, files, out, max_tokens, ctx):
            asked.update(models=models, max_tokens=max_tokens)
            assert [
                row for table in read_tables(files) for row in to_rows(table, Prompt)
            ] == prompts
            said = {"student": student, "baseline": baseline}
            answers = {}
            for model in models:
                pairs = list(zip(prompts, said[model.name], strict=True))[::-1]
                answers[model.name] = [
                    reply(p.prompt_id, text, model.name) for p, text in pairs if text is not None
                ]
            return answers

        out = folder or tmp_path / "5"
        out.mkdir(exist_ok=True)
        ctx = Context(job="t", task=task, seed=0)
        spec = EvaluateSpec(baseline=baseline is not None, **spec)
        counts = evaluate.run(spec, inputs, out, ctx, generate=generate, answer=answer)
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
        prompts, said, [*said[:3], "no idea"], task="summarization", bootstrap_samples=100
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
