"""What is written and read back gives the same figures."""

import dataclasses

import pytest
from doubles.levels import level, sample, serving_of, steady, watch

from engine.loadgen.samples import Ceiling
from engine.rows.records import LOAD_LEVEL, REQUEST_SAMPLE, LoadLevel, RequestSample
from engine.rows.tables import parquet_bytes, read_tables, to_rows, to_table, write_parquet
from engine.stages.loadtest.files import Measured, from_rows, label_of
from engine.stages.loadtest.files import to_rows as rows_of
from engine.stages.loadtest.goodput import Slo


def everything():
    """Levels of each kind, with all that a sample can say."""
    odd = sample(
        12.5,
        first_byte_ms=3.0,
        text_chars=40,
        finish_reason="stop",
        oddities="no_done:1",
        prompt=3,
        session=2,
        turn=1,
        process=1,
    )
    silent = sample(20.0, output_tokens=None, prompt_tokens=None)
    requests = [*steady(), odd, silent, sample(33.0, "http_429", error="slow down")]
    two = [watch(), watch(process=1, lag_ms=1.5, others_cpu=0.8)]
    return [
        Measured("teacher", level(requests, watches=two), Ceiling(9e4, 8e3, 2)),
        Measured("teacher", level(requests[:40], scheduled=40)),
        Measured("student", level(requests, concurrency=4)),
        Measured("student", level(requests, kind="sessions", concurrency=8)),
        Measured("student", level(requests, kind="trace", rate=3.3)),
        Measured("student", level([])),
    ]


def through_files(measured, folder):
    levels, samples = rows_of(measured)
    write_parquet(to_table(levels, LOAD_LEVEL), folder / "levels.parquet")
    write_parquet(to_table(samples, REQUEST_SAMPLE), folder / "samples.parquet")
    (levels_table,) = read_tables([folder / "levels.parquet"])
    (samples_table,) = read_tables([folder / "samples.parquet"])
    assert levels_table.schema.equals(LOAD_LEVEL)
    assert samples_table.schema.equals(REQUEST_SAMPLE)
    return to_rows(levels_table, LoadLevel), to_rows(samples_table, RequestSample)


def test_a_level_comes_back_as_it_was(tmp_path):
    measured = everything()
    assert from_rows(*through_files(measured, tmp_path)) == measured


def test_the_report_is_a_function_of_both_files(tmp_path):
    measured = everything()
    slo = Slo(ttft_ms=30)
    levels, samples = through_files(measured, tmp_path)
    said = serving_of(measured, slo)
    assert serving_of(from_rows(levels, samples), slo) == said
    # and both are needed: warm-up requests, and how the client fared
    timed = [row for row in samples if not row.warm]
    assert serving_of(from_rows(levels, timed), slo) != said
    late = [dataclasses.replace(row, watches=[vars_of(watch(lag_ms=400.0))]) for row in levels]
    verdicts = {
        entry["verdict"]
        for model in serving_of(from_rows(late, samples), slo).values()
        for entry in model["levels"]
    }
    assert verdicts == {"client limited", "failed"}  # failed: the empty one


def vars_of(found):
    return vars(found) | {"loop_lag_ms": list(found.loop_lag_ms)}


def test_a_load_that_was_tried_again_has_a_name_of_its_own():
    levels, samples = rows_of(everything())
    names = [(row.model, row.level) for row in levels]
    assert names == [
        ("teacher", "rate=10"),
        ("teacher", "rate=10 #2"),
        ("student", "concurrency=4"),
        ("student", "users=8"),
        ("student", "trace"),
        ("student", "rate=10"),
    ]
    assert {(row.model, row.level) for row in samples} == set(names[:-1])


@pytest.mark.parametrize(("intended_ms", "warm"), [(-0.1, True), (0.0, False), (9999.9, False)])
def test_a_warm_up_request_is_marked(intended_ms, warm):
    _, (row,) = rows_of([Measured("student", level([sample(intended_ms)]))])
    assert row.warm is warm
    assert row.tpot_ms == 8.0


def test_an_empty_load_test_has_two_empty_files():
    levels, samples = rows_of([])
    assert (levels, samples) == ([], [])
    assert parquet_bytes(to_table(levels, LOAD_LEVEL)).size > 0


def test_a_label_says_what_was_asked():
    assert label_of(level([], rate=2.50)) == "rate=2.5"
