"""Teachers asked in batches, through both vendors' clients, against a local server whose batches go
as a test wants."""

import asyncio
import itertools
import json
import os
import signal
import threading
import time

import pytest
from click.testing import CliRunner
from doubles import batch_api, misbehaving_api
from doubles.batch_api import CANCELLED, EXPIRED, KEY, OK, Plan

from engine import cli, pipeline
from engine.backends import api_batch, api_batch_patience, api_batch_vendors
from engine.errors import StageError, Stopped
from engine.rows.records import Completion
from engine.rows.tables import read_tables, to_rows
from engine.run.batches import BatchLedger, load_batches
from engine.run.context import Context
from engine.run.progress import Progress
from engine.stages import generate

COUNT = 40
STAGE = "runs/fake/2-generate-00000000"
ALL = COUNT + 8  # validation prompts too
ROW_USD = (9 * 10 + 4 * 100) / 2 / 1e6  # at half the price
both = pytest.mark.parametrize("kind", ["openai", "anthropic"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(api_batch, "GATHER_S", 0.3)  # of two busy cores
    for name, seconds in {"SETTLE_S": 0.3, "FIRST_LOOK_S": 0.02, "LONGEST_LOOK_S": 0.05}.items():
        monkeypatch.setattr(api_batch_patience, name, seconds)


def in_one_replica(shards, build, *, on_figures=lambda figures: None, **_):
    """`ray_data.stream` in this process: one replica, all shards at a time."""

    async def tell(worker):
        while True:
            on_figures(worker.figures())
            await asyncio.sleep(0.02)

    async def work():
        worker = build()
        beat = asyncio.ensure_future(tell(worker))
        receipts = await asyncio.gather(*map(worker, shards))
        beat.cancel()
        return receipts

    if shards:
        yield from asyncio.run(work())


@pytest.fixture
def answer(fake_job, tmp_path, monkeypatch):
    """Ask the server in batches for what is not answered yet: the stage's counts, and its rows by
    prompt. `said` collects what people are told."""
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)

    def run(api, kind="openai", *, said=None, teacher=None, **changes):
        one = {
            "name": "api",
            "kind": kind,
            "model": "m",
            "base_url": f"{api.url}/v1" if kind == "openai" else api.url,
            "api_key_env": "DISTILL_TEST_API_KEY",
            "batch": True,
            "prices": {"input": 10.0, "output": 100.0},
        } | (teacher or {})
        job = fake_job(COUNT, generate={"teachers": [one], "part_seconds": 0.1} | changes)
        prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
        out = tmp_path / STAGE
        (out / "data").mkdir(parents=True, exist_ok=True)
        progress = Progress()
        if said is not None:
            progress.say = said.append
            progress.update = lambda **figures: said.append(figures)
        ctx = Context("job", "math", 0, progress=progress)
        inputs = {"prompts": prompts}
        counts = generate.run(job.generate, inputs, out, ctx, stream=in_one_replica)
        rows = {}
        for table in read_tables([out / name for name in counts.files]):
            for row in to_rows(table, Completion):
                rows[row.prompt_id] = row
        return counts, list(rows.values())

    return run


def held_texts(api):
    return [held.prompts() for held in api.batches]


def once(api):
    """Whether every prompt was answered, and charged, exactly once."""
    asked = api.asked()
    return len(asked) == ALL and set(asked.values()) == {1}


def for_some(fate, *, batches=1):
    """A fate of the prompts that end in 1, ten of them, in the first so many batches; the others
    are answered."""

    def of(held, prompt):
        return fate if prompt.endswith("1") and held.number <= batches else OK

    return of


# What is asked, and what comes back


@both
def test_every_row_is_answered_once_in_one_batch_at_half_the_price(answer, kind, tmp_path):
    with batch_api.serve(Plan(slow_s=0.3)) as api:
        counts, rows = answer(api, kind)
    assert (counts.rows_out, len(rows), len(api.batches)) == (ALL, ALL, 1)
    assert once(api)
    assert {row.status for row in rows} == {"ok"}
    assert {(row.prompt_tokens, row.completion_tokens) for row in rows} == {(9, 4)}
    assert all(row.text.startswith("echo: ") for row in rows)
    assert counts.info.cost_usd == pytest.approx(ALL * ROW_USD)
    assert counts.info.teachers[0].usd_per_answer == pytest.approx(ROW_USD)
    (batch,) = load_batches(tmp_path / STAGE)
    assert (batch.vendor_id, len(batch.rows)) == ("batch_1", ALL)
    assert batch.ended in ("completed", "ended")


@both
def test_a_request_in_a_batch_is_the_one_that_goes_live(answer, kind):
    with batch_api.serve() as api:
        answer(api, kind)
    (held,) = api.batches
    body = next(iter(held.requests.values()))
    wanted = {"model": "m", "temperature": 0.0}
    wanted["max_completion_tokens" if kind == "openai" else "max_tokens"] = 512
    assert wanted.items() <= body.items()


def test_rows_are_split_into_as_many_batches_as_the_limits_want(answer):
    with batch_api.serve() as api:
        answer(api, teacher={"batch_rows": 20})
    assert [len(texts) for texts in held_texts(api)] == [20, 20, 8]


def test_no_batch_is_larger_than_the_vendor_takes(answer, monkeypatch):
    monkeypatch.setattr(api_batch_vendors.OpenAIBatches, "most_bytes", 6_000)
    with batch_api.serve() as api:
        answer(api)
    assert len(api.batches) > 1
    assert max(map(len, api.files.values())) <= 6_000
    assert once(api)


# What goes wrong


@both
def test_expired_rows_are_asked_again_in_a_new_batch(answer, kind):
    with batch_api.serve(Plan(fate=for_some(EXPIRED))) as api:
        counts, rows = answer(api, kind)
    assert {row.status for row in rows} == {"ok"}
    assert len(api.batches) == 2
    assert 0 < len(held_texts(api)[1]) < ALL
    assert once(api)
    assert counts.info.cost_usd == pytest.approx(ALL * ROW_USD)


@pytest.mark.parametrize("fate", ["500", batch_api.LOST])
def test_a_row_that_never_comes_is_an_error_after_the_tries_of_the_job(answer, fate):
    plan = Plan(fate=for_some(fate, batches=3))
    with batch_api.serve(plan) as api:
        _, rows = answer(api, max_attempts=3, max_failed_fraction=1.0)
        failed = [row for row in rows if row.status == "error"]
        assert failed
        assert len(api.batches) == 3
        assert all("no answer in 3 batches" in row.error for row in failed)
        _, rows = answer(api)
        assert {row.status for row in rows} == {"ok"}
        assert len(held_texts(api)[3]) == len(failed)


@both
def test_a_refused_row_keeps_the_servers_sentence(answer, kind):
    plan = Plan(fate=for_some("400", batches=3), words="this is not allowed here")
    with batch_api.serve(plan) as api:
        _, rows = answer(api, kind, max_failed_fraction=1.0)
    refused = [row for row in rows if row.status == "error"]
    assert refused
    assert all("this is not allowed here" in row.error for row in refused)
    assert len(api.batches) == 1


def test_a_prompt_that_does_not_fit_its_model_is_too_long(answer):
    plan = Plan(fate=for_some("400"), words="maximum context length is 8192 tokens")
    with batch_api.serve(plan) as api:
        counts, _ = answer(api)
    assert counts.info.status["too_long"] > 0
    assert len(api.batches) == 1


@both
def test_rows_of_a_cancelled_batch_are_errors_that_the_same_command_asks_again(answer, kind):
    plan = Plan(fate=for_some(CANCELLED))
    with batch_api.serve(plan) as api:
        with pytest.raises(StageError, match="batch_cance"):
            answer(api, kind)
        assert len(api.batches) == 1
        _, rows = answer(api, kind)
        assert {row.status for row in rows} == {"ok"}
        assert once(api)


def test_a_batch_that_is_not_begun_ends_the_stage_with_the_vendors_words(answer):
    problem = {"code": "model_not_found", "message": "there is no model m", "line": None}
    plan = Plan(fails=lambda held: [problem] if held.number == 1 else [])
    with batch_api.serve(plan) as api:
        with pytest.raises(StageError, match=r"began none .*there is no model m.*not.*charged"):
            answer(api)
        answer(api)
        assert (len(api.batches), once(api)) == (2, True)


def test_only_the_lines_that_the_vendor_names_are_errors(answer):
    problem = {"code": "invalid_value", "message": "line 3 has a bad value", "line": 3}
    plan = Plan(fails=lambda held: [problem] if held.number == 1 else [])
    with batch_api.serve(plan) as api:
        _, rows = answer(api, max_failed_fraction=1.0)
    (bad,) = [row for row in rows if row.status == "error"]
    assert bad.error.endswith("line 3 has a bad value")
    assert [len(texts) for texts in held_texts(api)] == [ALL, ALL - 1]


def test_batches_go_one_at_a_time_and_smaller_where_the_vendor_is_full(answer):
    problem = {"code": "token_limit_exceeded", "message": "enqueued token limit", "line": None}
    plan = Plan(slow_s=0.2, fails=lambda held: [problem] if len(held.requests) > 20 else [])
    with batch_api.serve(plan) as api:
        _, rows = answer(api)
    assert {row.status for row in rows} == {"ok"}
    begun = [held for held in api.batches if not plan.fails(held)]
    starts = [held.made for held in begun]
    assert all(later - earlier > 0.2 for earlier, later in itertools.pairwise(starts))
    assert once(api)


# Nothing is paid twice


@pytest.mark.parametrize(
    ("kind", "status"), [("openai", -500), ("anthropic", -500), ("openai", 500), ("openai", 429)]
)
def test_a_making_that_nobody_heard_of_makes_no_second_batch(answer, kind, status):
    plan = Plan(on_make=lambda number: status if number == 1 else 200)
    with batch_api.serve(plan) as api:
        answer(api, kind)
    assert (len(api.batches), once(api)) == (1, True)
    assert api.makes == (1 if status < 0 else 2)


def test_a_batch_that_the_vendor_refuses_ends_the_stage(answer, tmp_path):
    plan = Plan(on_make=lambda number: 403 if number == 1 else 200, words="no batches for you")
    with batch_api.serve(plan) as api:
        with pytest.raises(StageError, match="no batches for you"):
            answer(api)
        assert [one.ended for one in load_batches(tmp_path / STAGE)] == ["never made"]
        answer(api)
        assert once(api)


@both
def test_an_interrupt_says_what_is_under_way_and_the_same_command_takes_it_over(answer, kind):
    said = []
    plan = Plan(slow_s=30)
    with batch_api.serve(plan) as api:

        def interrupt():
            while not api.batches or api.batches[0].looks < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(Stopped, match="the same command resumes"):
            answer(api, kind, said=said)
        assert time.monotonic() - began < 10
        told = [line for line in said if isinstance(line, str)]
        assert f"not cancelled: 1 batch with {ALL} requests (batch_1)" in told[-1]
        plan.slow_s = 0
        counts, rows = answer(api, kind)
        assert {row.status for row in rows} == {"ok"}
        assert (len(api.batches), once(api)) == (1, True)
        assert counts.info.cost_usd == pytest.approx(ALL * ROW_USD)


def stop_after_making(answer, api, plan, kind, tmp_path, **changes):
    """A run that was ended while its batch was under way."""
    plan.slow_s = 30

    def interrupt():
        while not api.batches or api.batches[0].looks < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped):
        answer(api, kind, **changes)
    plan.slow_s = 0
    (file,) = (tmp_path / STAGE / "batches").iterdir()
    return file


@both
@pytest.mark.parametrize("was_made", [True, False])
def test_a_batch_whose_id_was_never_noted_is_found_by_its_name(answer, kind, was_made, tmp_path):
    plan = Plan()
    with batch_api.serve(plan) as api:
        file = stop_after_making(answer, api, plan, kind, tmp_path)
        noted = json.loads(file.read_text())
        file.write_text(json.dumps(noted | {"vendor_id": None, "created": time.time()}))
        if not was_made:
            api.batches.clear()
        # Somebody else's, of as many requests.
        other = {
            f"other-{number}": {"model": "m", "messages": [{"content": ""}]}
            for number in range(ALL)
        }
        api.batches.append(batch_api.Held(9, "batch_9", other, {"distill_batch": "other"}))
        _, rows = answer(api, kind)
    assert {row.status for row in rows} == {"ok"}
    ours = [held for held in api.batches if held.id != "batch_9"]
    assert len(ours) == 1
    assert sorted(ours[0].prompts()) == sorted(set(ours[0].prompts()))


def test_what_is_under_way_counts_against_the_budget_of_the_next_run(answer, tmp_path):
    """The budget holds twenty rows, which are under way: nothing else is asked beside them."""
    plan = Plan()
    with batch_api.serve(plan) as api:
        budget = {"max_cost_usd": 20 * (MOST_USD + 0.0004)}
        file = stop_after_making(answer, api, plan, "openai", tmp_path, **budget)
        held = len(json.loads(file.read_text())["rows"])
        assert held in (19, 20, 21)
        plan.slow_s = 0.5 + time.time() - api.batches[0].made
        answer(api, **budget)
        first, second, *_ = api.batches
        assert len(first.requests) == held
        assert second.made > first.made + plan.slow_s
        assert once(api)


MOST_USD = 512 * 100 / 2 / 1e6  # of an answer of max_tokens, its prompt left out


def test_no_batch_is_larger_than_the_budget_allows(answer):
    with batch_api.serve() as api:
        answer(api, max_cost_usd=0.5)
    sizes = [len(held.requests) for held in api.batches]
    assert len(sizes) > 2
    assert max(sizes) * MOST_USD <= 0.5
    assert once(api)


def test_the_stage_ends_before_a_batch_could_pass_the_limit(answer):
    with batch_api.serve() as api, pytest.raises(StageError, match="is used up"):
        answer(api, max_cost_usd=MOST_USD + 5 * ROW_USD)
    charged = sum(api.asked().values())
    assert 0 < charged <= 6


def test_a_live_run_does_not_pay_for_what_batches_hold(answer, tmp_path):
    plan = Plan()
    with batch_api.serve(plan) as api:
        stop_after_making(answer, api, plan, "openai", tmp_path)
        with pytest.raises(StageError, match=r"1 batch with 48 requests \(batch_1\).*batch: true"):
            answer(api, teacher={"batch": False})
        answer(api)
        assert once(api)


def test_a_row_costs_what_the_way_that_it_was_asked_costs(answer):
    """Half the prompts live, then the rest in batches: one folder, each at its own price."""
    with misbehaving_api.serve() as live:
        answer(live, teacher={"batch": False}, limit=20)
        asked_live = len(live.calls)
    with batch_api.serve() as api:
        counts, rows = answer(api)
    assert len(rows) == ALL
    assert asked_live == 28
    in_batches = ALL - asked_live
    assert counts.info.cost_usd == pytest.approx((2 * asked_live + in_batches) * ROW_USD)


def test_the_live_view_tells_how_far_each_batch_is(answer):
    said = []
    with batch_api.serve(Plan(slow_s=0.5)) as api:
        answer(api, said=said)
    views = [figures.get("batches") for figures in said if isinstance(figures, dict)]
    told = list(dict.fromkeys(filter(None, views)))
    assert f"batch_1 validating 0 of {ALL}" in told
    assert f"batch_1 in_progress 0 of {ALL}" in told


@both
def test_the_command_batches_shows_what_is_under_way_and_cancels_it(answer, kind, tmp_path):
    plan = Plan(fate=lambda held, prompt: CANCELLED if held.is_cancelled else OK)
    run = str(tmp_path / "runs/fake")
    with batch_api.serve(plan) as api:
        stop_after_making(answer, api, plan, kind, tmp_path)
        plan.slow_s = 30
        shown = CliRunner().invoke(cli.main, ["batches", run])
        assert shown.exit_code == 0, shown.output
        assert f"in_progress 0 of {ALL}" in shown.output
        assert not api.batches[0].is_cancelled
        shown = CliRunner().invoke(cli.main, ["batches", run, "--cancel"])
        assert f"{ALL} of {ALL}" in shown.output
        assert api.batches[0].is_cancelled
        plan.slow_s = 0
        with pytest.raises(StageError, match="batch_cance"):
            answer(api, kind)
        answer(api, kind)
        assert once(api)
        shown = CliRunner().invoke(cli.main, ["batches", run])
        assert shown.output == "no batch is under way\n"


@pytest.mark.parametrize(("number", "block"), [(3, "curate"), (5, "evaluate")])
def test_the_command_batches_knows_every_judge(job_file, tmp_path, number, block):
    judge = {"name": "judge", "kind": "openai", "model": "m", "api_key_env": "K", "batch": True}
    judged = {block: {"judge": {"teacher": judge, "rubric": "rubric.txt"}}}
    run = tmp_path / "runs/fake"
    run.mkdir(parents=True)
    job_file(COUNT, **judged).rename(run / "job.yaml")
    folder = run / f"{number}-{block}-00000000/judge"
    BatchLedger(folder, 0, "judge").begin("noted", [(1, 0)], [0.0])
    shown = CliRunner().invoke(cli.main, ["batches", str(run)])
    assert "not confirmed" in shown.output


def test_a_damaged_note_of_a_batch_stops_before_anything_is_paid(answer, tmp_path):
    plan = Plan()
    with batch_api.serve(plan) as api:
        file = stop_after_making(answer, api, plan, "openai", tmp_path)
        file.write_text("{")
        with pytest.raises(StageError, match=r"names a batch that was paid for"):
            answer(api)
        assert len(api.batches) == 1


def test_nothing_is_printed_of_keys_or_prompts(answer, caplog):
    plan = Plan(fate=for_some("400", batches=3), words=f"bad key {KEY}")
    with batch_api.serve(plan) as api:
        _, rows = answer(api, max_failed_fraction=1.0)
    errors = [row.error for row in rows if row.error]
    assert errors
    assert KEY not in "".join(errors) + caplog.text
