"""What is asked: shards of what is missing, teachers in turn, budgets, failures, and what may not
be written anywhere."""

import errno
import json
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import statuses, stream_together
from doubles import misbehaving_api

from engine import pipeline
from engine.asking.dispatch import Tally, missing_shards
from engine.asking.routing import Wanted
from engine.asking.shards import Receipt
from engine.errors import StageError
from engine.rows.records import Completion
from engine.rows.tables import read_tables, to_rows
from engine.run import parts, progress
from engine.run.context import Context
from engine.run.manifests import publish
from engine.run.progress import Progress
from engine.stages import generate

NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int32))


def wanted(rows, samples=1):
    rows = np.repeat(np.asarray(rows), samples)
    return Wanted(rows, rows + 1000, np.arange(len(rows)) % samples)


def expand(shards):
    """(file, row, sample) of every row of the shards, in order."""
    return [
        (shard.file, row, sample)
        for shard in shards
        for start, stop, sample in shard.ranges
        for row in range(start, stop)
    ]


def test_rows_in_order_are_one_range_and_holes_make_more():
    (whole,) = missing_shards([wanted(range(10))], "t", NOTHING, 512, 512, 1)
    assert (whole.file, whole.count, whole.ranges) == (0, 10, ((0, 10, 0),))
    answered = np.asarray([1003, 1004, 1008]), np.zeros(3, np.int32)
    (holed,) = missing_shards([wanted(range(10))], "t", answered, 512, 512, 1)
    assert (holed.count, holed.ranges) == (7, ((0, 3, 0), (5, 8, 0), (9, 10, 0)))


def test_shards_hold_every_missing_row_once_and_stay_inside_their_file():
    files = [wanted(range(0, 100, 2), samples=3), wanted(range(70))]
    answered = np.asarray([1000, 1004, 1004]), np.asarray([2, 0, 1], np.int32)
    shards = missing_shards(files, "t", answered, 32, 512, 1)
    found = expand(shards)
    assert (
        len(found) == len(set(found)) == 150 - 3 + 70 - 1
    )  # row 4 of the other file has the same id
    assert {(0, 0, 2), (0, 4, 0), (0, 4, 1), (1, 4, 0)}.isdisjoint(found)
    assert (0, 4, 2) in found
    assert len({shard.id for shard in shards}) == len(shards)
    assert [sum(stop - start for start, stop, _ in shard.ranges) for shard in shards] == [
        shard.count for shard in shards
    ]


@pytest.mark.parametrize(
    ("rows", "shard_rows", "in_flight", "replicas", "largest"),
    [
        (10_000, 512, 512, 1, 128),
        (10_000, 100, 512, 1, 100),
        (1600, 512, 512, 1, 100),
        (1600, 512, 512, 2, 50),
        (100, 512, 512, 8, 13),
        (10_000, 512, 16, 1, 40),
        (100_000, 512, 16, 1, 391),
        (1_000_000, 512, 16, 1, 512),
        (8, 512, 1, 1, 1),
    ],
)
def test_shards_are_small_but_not_many(rows, shard_rows, in_flight, replicas, largest):
    shards = missing_shards([wanted(range(rows))], "t", NOTHING, shard_rows, in_flight, replicas)
    assert max(shard.count for shard in shards) == largest


def test_what_is_answered_leaves_no_shards():
    assert (
        missing_shards(
            [wanted(range(4), 2)],
            "t",
            (np.repeat(np.arange(1000, 1004), 2), np.tile([0, 1], 4)),
            512,
            512,
            1,
        )
        == []
    )


@pytest.fixture
def answer(fake_job, tmp_path):
    """Run generate with these teachers on 40 training and 8 validation prompts; returns (counts,
    rows)."""

    def run(*teachers, count=40, context=None, **changes):
        job = fake_job(
            count,
            generate={
                "teachers": [{"kind": "fake", "model": "fake"} | teacher for teacher in teachers],
                **changes,
            },
        )
        prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
        out = tmp_path / "generate"
        (out / "data").mkdir(parents=True, exist_ok=True)
        context = context or Context("job", "math", 0)
        with context.progress.stage("generate", out):
            counts = generate.run(
                job.generate, {"prompts": prompts}, out, context, stream=stream_together
            )
        publish(out, "generate", {}, counts, 0.0, supersede=True)
        return counts, [
            row
            for table in read_tables([out / name for name in counts.files])
            for row in to_rows(table, Completion)
        ]

    return run


def calls(path: Path) -> int:
    return path.read_text().count(" start") if path.exists() else 0


def test_the_manifest_counts_rows_statuses_and_tokens_of_each_teacher(answer):
    counts, rows = answer(
        {"name": "a"},
        {"name": "b", "fake": {"error_fraction": 0.3}, "sampling": {"samples": 2, "max_tokens": 5}},
        max_failed_fraction=0.9,
    )
    assert (counts.rows_out, counts.info.prompts, counts.info.route) == (48 + 88, 48, "all")
    told = {teacher.name: teacher for teacher in counts.info.teachers}
    assert (told["a"].kind, told["a"].revision) == ("fake", None)
    for name in ("a", "b"):
        mine = [row for row in rows if row.teacher == name]
        assert told[name].rows == len(mine) == {"a": 48, "b": 88}[name]
        assert told[name].status == Counter(row.status for row in mine)
        assert told[name].tokens_in == sum(row.prompt_tokens for row in mine)
        assert told[name].tokens_out == sum(row.completion_tokens for row in mine)
    assert told["a"].status == {"ok": 48}
    assert set(told["b"].status) == {"truncated", "error"}
    assert counts.info.status == Counter(row.status for row in rows)


@pytest.mark.parametrize(
    "route",
    [
        {"route": "split"},
        {"route": "by", "route_by": "task"},
    ],
)
def test_routed_prompts_get_one_answer_of_one_teacher(answer, route):
    first = {"name": "a"} | ({"routes": ["qa"]} if route["route"] == "by" else {})
    counts, rows = answer(first, {"name": "b"}, **route)
    assert len({row.prompt_id for row in rows}) == len(rows) == counts.rows_out == 48
    told = {teacher.name: teacher.rows for teacher in counts.info.teachers}
    assert told == {"a": 0, "b": 48} if route["route"] == "by" else told["a"] > 8 < told["b"]


PRICED = {"prices": {"input": 1e6, "output": 1e6}}  # a dollar a token


def test_a_spent_budget_stops_cleanly_and_a_larger_one_asks_only_the_rest(answer, tmp_path):
    noted = {"name": "t", "fake": {"calls": str(tmp_path / "calls")}} | PRICED
    cheap = {"sampling": {"temperature": 0.0, "max_tokens": 3}}
    with pytest.raises(
        StageError, match=r"max_cost_usd=900 is used up: \d+ of 48 rows are not asked; raise it"
    ):
        answer(noted, max_cost_usd=900.0, **cheap)
    paid = len(statuses(tmp_path / "generate"))
    assert 0 < paid < 48
    assert calls(tmp_path / "calls") == paid
    records = parts.accepted_records(tmp_path / "generate")
    spent = sum(int(record.tokens_in.sum() + record.tokens_out.sum()) for record in records)
    dearest = max(int(record.tokens_in.max()) for record in records) + 3
    assert 900 - dearest <= spent <= 900
    with pytest.raises(StageError, match="max_cost_usd=900 is used up"):
        answer(noted, max_cost_usd=900.0, **cheap)
    assert calls(tmp_path / "calls") == paid, "a run without money asks nothing"
    counts, rows = answer(noted, max_cost_usd=1e6, **cheap)
    assert (
        calls(tmp_path / "calls") == len({row.prompt_id for row in rows}) == counts.rows_out == 48
    )
    assert counts.info.answered_this_run == 48 - paid
    assert counts.info.cost_usd == sum(row.prompt_tokens + row.completion_tokens for row in rows)


def test_one_teachers_spent_budget_leaves_those_without_a_price_their_work(answer, tmp_path):
    with pytest.raises(StageError, match="max_cost_usd"):
        answer({"name": "dear"} | PRICED, {"name": "own"}, max_cost_usd=900.0)
    found = Counter(teacher for teacher, _, _ in statuses(tmp_path / "generate"))
    assert found["own"] == 48
    assert 0 < found["dear"] < 48


def test_a_teacher_that_fails_costs_the_other_nothing_and_the_next_run_asks_it_alone(
    answer, tmp_path
):
    good = {"name": "good", "fake": {"calls": str(tmp_path / "good")}}
    with pytest.raises(
        StageError, match=r"model 'bad' \(fake\): the fake teacher was told not to start"
    ):
        answer({"name": "bad", "fake": {"cannot_start": True}}, good)
    assert Counter(teacher for teacher, _, _ in statuses(tmp_path / "generate")) == {"good": 48}
    assert calls(tmp_path / "good") == 48
    counts, _ = answer({"name": "bad", "fake": {"calls": str(tmp_path / "bad")}}, good)
    assert (calls(tmp_path / "good"), calls(tmp_path / "bad")) == (48, 48)
    assert counts.info.answered_this_run == 48
    assert {teacher.name: teacher.rows for teacher in counts.info.teachers} == {
        "bad": 48,
        "good": 48,
    }


def test_a_finished_run_asks_nothing_and_opens_no_engine(answer, tmp_path):
    answer({"name": "t"})
    counts, _ = answer(
        {"name": "t", "fake": {"cannot_start": True, "calls": str(tmp_path / "calls")}}
    )
    assert (counts.rows_out, counts.info.answered_this_run, calls(tmp_path / "calls")) == (
        48,
        0,
        0,
    )


def test_the_driver_ends_the_attempts_of_finished_shards(answer, tmp_path):
    answer({"name": "t"})
    assert list((tmp_path / "generate/attempts").iterdir()) == []


def test_more_samples_ask_only_for_what_is_new(answer, tmp_path):
    noted = {"name": "t", "fake": {"calls": str(tmp_path / "calls")}}
    answer(noted, sampling={"temperature": 0.7, "samples": 1})
    counts, rows = answer(noted, sampling={"temperature": 0.7, "samples": 3})
    assert counts.rows_out == len(rows) == 3 * 40 + 8
    assert calls(tmp_path / "calls") == 3 * 40 + 8


CANARY = "the magpie Esmeralda hid nine rings under the third step"


@pytest.mark.parametrize("failing", [False, True])
def test_neither_prompt_nor_key_is_in_a_log_a_record_a_manifest_or_metadata(
    fake_job, tmp_path, monkeypatch, caplog, capfd, failing
):
    """A local teacher and an API, in a run that finishes and in one whose every answer fails; the
    console is a person's."""
    from rich.console import Console

    monkeypatch.setenv("DISTILL_TEST_API_KEY", misbehaving_api.KEY)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    caplog.set_level(logging.DEBUG)
    told = open(tmp_path / "console", "w+")  # noqa: SIM115

    def refuse(path, body):
        return 422, {"error": {"message": f"cannot read {body['messages'][-1]['content']}"}}

    with misbehaving_api.serve(answer=refuse if failing else misbehaving_api.answer) as api, told:
        (tmp_path / "secret.jsonl").write_text(
            "".join(json.dumps({"prompt": f"{CANARY} {n}"}) + "\n" for n in range(20))
        )
        teachers = [
            {
                "name": "own",
                "kind": "fake",
                "model": "fake",
                "fake": {"error_fraction": float(failing)},
            },
            {
                "name": "api",
                "kind": "openai",
                "model": "m",
                "base_url": f"{api.url}/v1",
                "api_key_env": "DISTILL_TEST_API_KEY",
            },
        ]
        files = {
            "train": str(tmp_path / "secret.jsonl"),
            "validation": None,
            "validation_fraction": 0.2,
        }
        job = fake_job(prompts=files, generate={"teachers": teachers, "max_attempts": 1})
        run = pipeline.run(job, tmp_path / "runs", until="prompts")
        out = pipeline.plan(job, tmp_path / "runs")[1].folder
        (out / "data").mkdir(parents=True)
        context = Context("job", "math", 0, progress=Progress(Console(file=told, width=200)))
        with context.progress.stage("generate", out):
            if failing:
                with pytest.raises(StageError) as error:
                    generate.run(
                        job.generate,
                        {"prompts": run.stages["prompts"]},
                        out,
                        context,
                        stream=stream_together,
                    )
                assert CANARY not in str(error.value)
            else:
                counts = generate.run(
                    job.generate,
                    {"prompts": run.stages["prompts"]},
                    out,
                    context,
                    stream=stream_together,
                )
                publish(
                    out,
                    "generate",
                    pipeline.STAGES[1].identity(
                        job, {"prompts": run.stages["prompts"]}, run.root / "cache.json"
                    ),
                    counts,
                    0.0,
                )
        assert len(api.calls) == 20
    everything = [
        Path(folder) / name for folder, _, names in os.walk(tmp_path / "runs") for name in names
    ]
    parquet = [path for path in everything if path.suffix == ".parquet" and out in path.parents]
    texts = {
        **{str(path): path.read_bytes() for path in everything if path.suffix != ".parquet"},
        **{
            f"{path} (metadata)": str(
                (pq.read_metadata(path).metadata, pq.read_schema(path).metadata)
            ).encode()
            for path in parquet
        },
        "log": caplog.text.encode(),
        "console": (tmp_path / "console").read_bytes(),
        "output": "".join(capfd.readouterr()).encode(),
    }
    assert {path.name for path in everything} >= {"progress.json", "job.yaml"} | (
        set() if failing else {"manifest.json"}
    )
    assert len(parquet) >= 2
    assert texts["console"].count(b"generate") >= 2
    for where, text in texts.items():
        assert CANARY.encode() not in text, where
        assert misbehaving_api.KEY.encode() not in text, where
    holding = [
        path
        for path in parquet
        if CANARY.encode() in str(pq.read_table(path)["text"].to_pylist()).encode()
    ]
    assert bool(holding) != failing, "the canary must be where answers belong, and nowhere else"
    if failing:
        errors = [error for path in parquet for error in pq.read_table(path)["error"].to_pylist()]
        assert len(errors) == 40
        assert not any(CANARY in error for error in errors)


def test_a_later_teachers_wrong_key_is_found_before_the_first_is_asked(
    answer, tmp_path, monkeypatch
):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", "wrong")
    noted = {"name": "own", "fake": {"calls": str(tmp_path / "calls")}}
    with misbehaving_api.serve() as api:
        paid = {
            "name": "api",
            "kind": "openai",
            "base_url": f"{api.url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
        }
        with pytest.raises(StageError, match=r"teacher 'api' cannot be asked: .*401"):
            answer(noted, paid)
    assert calls(tmp_path / "calls") == 0


def test_every_teacher_that_failed_is_named(answer):
    bad = {"fake": {"cannot_start": True}}
    with pytest.raises(StageError, match=r"(?s)model 'a' .*model 'b' "):
        answer({"name": "a"} | bad, {"name": "b"} | bad)


@pytest.mark.parametrize("usage", [True, False])
def test_what_an_api_charged_without_an_answer_counts_as_the_most_it_can(
    answer, monkeypatch, tmp_path, usage
):
    """A third of the answers come cut: they were paid for. Without token counts every answer costs
    the most that it can."""
    monkeypatch.setenv("DISTILL_TEST_API_KEY", misbehaving_api.KEY)

    def reply(path, body):
        status, content = misbehaving_api.answer(path, body)
        return status, content if usage else {
            key: value for key, value in content.items() if key != "usage"
        }

    with misbehaving_api.serve(misbehaving_api.Faults(cut=0.3), reply) as api:
        teacher = {
            "name": "api",
            "kind": "openai",
            "model": "m",
            "base_url": f"{api.url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
        }
        limits = {"sampling": {"max_tokens": 10}, "max_attempts": 20}
        counts, rows = answer(
            teacher | {"prices": {"input": 0.0, "output": 1e6}}, count=12, **limits
        )
        cut = len(api.statuses(-2))
    assert cut > 1
    assert len(rows) == 20
    assert counts.info.cost_usd == 10 * cut + (4 if usage else 10) * 20


def test_the_stream_is_closed_before_an_error_of_the_driver_goes_on(
    fake_job, tmp_path, monkeypatch
):
    """Left suspended, its watch would call a Ray that is gone, which ends the process without a
    word."""
    closed = []

    def stream(shards, build, **options):
        try:
            for shard in shards:
                yield Receipt(shard.id, shard.count, 0, 0.0, 1.0)
        finally:
            closed.append(True)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts, "end_attempts", full)
    job = fake_job(40)
    prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
    (tmp_path / "generate").mkdir()
    with pytest.raises(OSError, match="No space left") as caught:
        generate.run(
            job.generate,
            {"prompts": prompts},
            tmp_path / "generate",
            Context("job", "math", 0),
            stream=stream,
        )
    assert caught.value is not None
    assert closed == [True]


def test_replicas_at_work_are_their_time_over_that_of_all():
    tally = Tally()
    assert tally.replicas is None
    spans = {"a": [(0.0, 40.0), (10.0, 100.0)], "b": [(50.0, 100.0)]}
    for replica, shards in spans.items():
        for started, finished in shards:
            tally.add(Receipt("shard", 10, 100, started, finished, replica=replica))
    assert tally.replicas == 1.5
    assert tally.tokens_per_second == 3.0
