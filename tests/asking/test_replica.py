"""One replica's work, in this process: statuses, what is held and asked at a time, suspects, and
what is kept when it fails."""

import asyncio
import itertools
import json
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import statuses

from engine.asking import replica as replica_module
from engine.asking.engine import AnswerEngine, Generation, PromptTooLong, Said
from engine.asking.replica import Answerer, AnswerJob
from engine.asking.respondents import respondent_of
from engine.asking.shards import Shard
from engine.backends.fake import FakeTeacher
from engine.errors import StageError
from engine.job.spec import GenerateSpec
from engine.rows.records import PROMPT, STATUSES, Completion, Prompt
from engine.rows.tables import read_tables, to_rows, to_table, write_parquet
from engine.rows.tools import tools_column
from engine.run import parts

QUICK = {"part_seconds": 0.1}


class Says(AnswerEngine):
    """An engine whose answers a test gives by prompt; it keeps what it was asked, and which prompts
    were open together."""

    metadata = {"vocab_size": 256}  # noqa: RUF012

    def __init__(self, answer, max_model_len=1000):
        self._answer, self.max_model_len = answer, max_model_len
        self.asked, self.open_now, self.groups = [], set(), []

    def encode(self, conversations):
        return [
            list("\n".join(f"{m['role']}: {m['content']}" for m in one.messages).encode())
            for one in conversations
        ]

    def decode(self, token_ids, tools):
        return [Said(bytes(np.asarray(ids, np.uint8)).decode().strip("\0")) for ids in token_ids]

    async def generate(self, prompt, sampling):
        text = bytes(prompt).decode().split("user: ")[1]
        self.asked.append((bytes(prompt).decode(), sampling))
        self.open_now.add(text)
        self.groups.append(frozenset(self.open_now))
        try:
            return await self._answer(text)
        finally:
            self.open_now.discard(text)


async def plainly(text):
    """A short answer, after others had the chance to be asked too."""
    await asyncio.sleep(0.01)
    return Generation("stop", np.asarray([65, 0], np.int32))


@pytest.fixture
def replica(tmp_path):
    """An Answerer of prompts 0, 1, … with these texts, and its folder. Called again, it is the next
    one of the same epoch."""

    def build(
        texts, engine=None, *, teacher=None, validation=(), epoch=None, tools=None, **generate
    ):
        file = tmp_path / "prompts.parquet"
        prompts = [
            Prompt(
                n,
                f"{n:064x}",
                f"a:{n}",
                [{"role": "user", "content": text}],
                "math",
                "a",
                "validation" if n in validation else "train",
            )
            for n, text in enumerate(texts)
        ]
        if tools:
            prompts = [replace(prompt, tools=tools) for prompt in prompts]
        write_parquet(to_table(prompts, PROMPT), file)
        spec = GenerateSpec(
            teachers=[{"name": "t", "kind": "fake", "model": "m", **(teacher or {})}],
            **QUICK | generate,
        )
        folder = tmp_path / "out"
        epoch = epoch or parts.open_epoch(folder)
        engine = engine or FakeTeacher(spec.teachers[0], spec.capture, device="cpu")
        (one,) = spec.teachers
        respondent = respondent_of(one, spec.sampling_of(one))
        prices = {"t": respondent.prices} if respondent.prices else {}
        job = AnswerJob(respondent, spec, (file,), folder, epoch, 0, "cpu", prices)
        return Answerer(engine, job), folder

    return build


def shards(count, size):
    """`count` rows of the first file in shards of `size`."""
    starts = range(0, count, size)
    return [
        Shard(f"s{at}", 0, min(size, count - at), ((at, min(at + size, count), 0),))
        for at in starts
    ]


def answer(replica, *wanted):
    """Receipts of shards that the replica works on together."""

    async def work():
        return await asyncio.gather(*(replica(shard) for shard in wanted))

    return asyncio.run(work())


def rows_of(folder):
    settled = parts.final_files(folder)
    found = [
        row
        for table in read_tables([folder / name for name in settled.files])
        for row in to_rows(table, Completion)
    ]
    return sorted(found, key=lambda row: row.prompt_id)


async def every_ending(text):
    if text in ("stop", "length", "content_filter", "repetition", "unheard of"):
        return Generation(text, np.asarray([*b"so it is", 0], np.int32))
    if text == "end mark":
        return Generation("stop", np.asarray([0], np.int32))
    if text == "server says too long":
        raise PromptTooLong("9000 tokens, 8192 allowed")
    if text == "breaks":
        raise ValueError("broken")
    await asyncio.Event().wait()


ENDINGS = {
    "stop": ("ok", None),
    "length": ("truncated", None),
    "content_filter": ("refused", None),
    "repetition": ("loop", None),
    "end mark": ("empty", None),
    "long " * 200: ("too_long", "1006 prompt tokens in a context of 1000"),
    "server says too long": ("too_long", "9000 tokens, 8192 allowed"),
    "unheard of": ("error", "unknown finish reason unheard of"),
    "breaks": ("error", "ValueError: broken"),
    "hangs": ("error", "no answer within 0.3 s"),
}


def test_every_request_ends_in_one_of_all_statuses_with_its_reason(replica):
    worker, folder = replica(list(ENDINGS), Says(every_ending), request_timeout_s=0.3)
    (receipt,) = answer(worker, *shards(10, 10))
    found = rows_of(folder)
    assert [(row.status, row.error) for row in found] == list(ENDINGS.values())
    assert {row.status for row in found} == set(STATUSES)
    assert receipt.rows == 10
    figures = worker.figures()
    assert figures.statuses == Counter(row.status for row in found)
    assert (figures.rows, figures.committed, figures.open) == (10, 10, 0)
    assert figures.tokens_in == sum(row.prompt_tokens for row in found)
    assert figures.tokens_out == sum(row.completion_tokens for row in found) == receipt.tokens


def test_prompts_that_changed_at_the_same_path_are_read_again(replica):
    for text in ("first", "other"):
        engine = Says(plainly)
        worker, _ = replica([text], engine)
        answer(worker, *shards(1, 1))
        assert [asked for asked, _ in engine.asked] == [f"user: {text}"]


def test_training_prompts_are_sampled_and_validation_prompts_answered_greedily(replica):
    engine = Says(plainly)
    worker, _ = replica(
        ["a", "b"],
        engine,
        validation={1},
        sampling={"temperature": 0.8, "top_p": 0.9, "max_tokens": 7},
    )
    answer(worker, *shards(2, 2))
    of_a, of_b = (sampling for _, sampling in engine.asked)
    assert (of_a.temperature, of_a.top_p, of_a.max_tokens, of_a.stop_loops) == (0.8, 0.9, 7, True)
    assert of_a.seed is not None
    assert (of_b.temperature, of_b.top_p, of_b.seed) == (0.0, 1.0, None)


def test_an_answer_gets_no_more_room_than_the_context_leaves(replica):
    engine = Says(plainly, max_model_len=20)
    worker, _ = replica(["x" * 9], engine)  # "user: " and nine
    answer(worker, *shards(1, 1))
    assert engine.asked[0][1].max_tokens == 5


def test_a_teachers_own_sampling_and_system_message_reach_the_engine(replica):
    engine = Says(plainly)
    teacher = {"system": "Be brief.", "sampling": {"temperature": 0.1, "max_tokens": 3}}
    worker, folder = replica(["a"], engine, teacher=teacher, sampling={"temperature": 0.9})
    answer(worker, *shards(1, 1))
    ((text, sampling),) = engine.asked
    assert text == "system: Be brief.\nuser: a"
    assert (sampling.temperature, sampling.max_tokens) == (0.1, 3)
    assert rows_of(folder)[0].prompt_tokens == len(text)


def test_one_long_answer_delays_nothing_else(replica):
    texts = [f"prompt {n}" for n in range(64)]
    texts[3] = "endless"
    teacher = {"concurrency": 4, "fake": {"slow": "endless", "slow_s": 3600.0, "latency_s": 0.01}}
    worker, folder = replica(texts, teacher=teacher, rows_in_flight=16)

    async def work():
        running = [asyncio.ensure_future(worker(shard)) for shard in shards(64, 4)]
        async with asyncio.timeout(30):
            while sum(task.done() for task in running) < 15 or len(statuses(folder)) < 63:
                await asyncio.sleep(0.05)
        return [task.done() for task in running]

    assert asyncio.run(work()) == [False] + [True] * 15, (
        "every other shard is done, and the slow one's other rows are on disk"
    )


@pytest.mark.parametrize("shard_rows", [8, 100])
def test_rows_held_and_requests_open_keep_their_bounds(replica, shard_rows):
    most = Counter()

    async def look(text):
        async with asyncio.timeout(30):
            while most["held"] < 32:  # the first answers wait until all are there
                most["held"] = max(most["held"], worker.figures().open)
                await asyncio.sleep(0)
        most["held"] = max(most["held"], worker.figures().open)
        most["open"] = max(most["open"], len(engine.open_now))
        return await plainly(text)

    engine = Says(look)
    worker, folder = replica(
        [f"p{n}" for n in range(200)], engine, teacher={"concurrency": 10}, rows_in_flight=32
    )
    receipts = answer(worker, *shards(200, shard_rows))
    assert sum(receipt.rows for receipt in receipts) == len(statuses(folder)) == 200
    assert most == {"held": 32, "open": 10}


@pytest.mark.parametrize(
    ("batch", "ranks", "given", "bounds"),
    [
        (4, 1, None, (64, 8)),
        (48, 1, None, (96, 96)),
        (None, 1, None, (192, 192)),
        (None, 1, 40, (80, 80)),
        (None, 2, 20, (80, 80)),
    ],
)
def test_a_local_engine_is_kept_full_by_twice_the_batch_that_it_has(
    replica, batch, ranks, given, bounds
):
    """What the job says is a guess until the engine says what vLLM gave it."""
    most = Counter()

    async def look(text):
        most["held"] = max(most["held"], worker.figures().open)
        most["open"] = max(most["open"], len(engine.open_now))
        async with asyncio.timeout(20):
            while (
                most["held"],
                most["open"],
            ) < bounds:  # nothing is answered before so many are asked
                await asyncio.sleep(0.01)
                most["held"] = max(most["held"], worker.figures().open)
        return await plainly(text)

    engine = Says(look)
    if batch:
        engine.max_num_seqs = batch
    teacher = {"kind": "vllm", "max_num_seqs": given, "data_parallel": ranks}
    worker, _ = replica([f"p{n}" for n in range(192)], engine, teacher=teacher)
    answer(worker, *shards(192, 8))
    assert (most["held"], most["open"]) == bounds


def test_the_first_rows_are_asked_while_later_shards_wait_to_be_tokenised(replica):
    class Slow(Says):
        tokenised, at_first = 0, None

        def encode(self, conversations):
            time.sleep(0.02)
            self.tokenised += 1
            return super().encode(conversations)

    async def note(text):
        engine.at_first = engine.at_first or engine.tokenised
        return await plainly(text)

    engine = Slow(note)
    worker, _ = replica([f"p{n}" for n in range(120)], engine)
    answer(worker, *shards(120, 4))
    assert engine.tokenised == 30
    assert engine.at_first < 10


def test_a_shard_larger_than_the_room_keeps_it_full_and_the_shards_after_the_next_untokenised(
    replica,
):
    class Counted(Says):
        tokenised = 0

        def encode(self, conversations):
            self.tokenised += len(conversations)
            return super().encode(conversations)

    async def look(text):
        ahead.append(engine.tokenised - len(engine.asked))
        return await plainly(text)

    ahead, engine = [], Counted(look)
    worker, folder = replica([f"p{n}" for n in range(400)], engine, rows_in_flight=16)
    answer(worker, *shards(400, 40))
    assert len(statuses(folder)) == 400
    assert max(ahead) <= 2 * 40 + 16, "more than two shards stood ready beside the rows in the room"


def die_with(folder, epoch, shard, rows, times=1):
    """What a replica leaves that died with these rows in its engine, and what the next one makes of
    it."""
    for _ in range(times):
        parts.begin_attempt(folder, epoch, shard, [(row, 0) for row in rows])
        parts.resume_shard(folder, epoch, shard, "t", list(rows))


def test_suspects_run_in_quarters_with_nothing_beside_them(replica):
    engine = Says(plainly)
    texts = [f"p{n}" for n in range(40)]
    worker, folder = replica(texts, engine, rows_in_flight=64)
    parts.begin_attempt(
        folder, 1, "s0", [(n, 0) for n in range(24)]
    )  # open when the replica before this one died
    first, second = answer(worker, *shards(40, 30))
    assert (first.rows, second.rows) == (30, 10)
    suspects = {f"p{n}" for n in range(24)}
    together = [group for group in engine.groups if group & suspects]
    assert all(group <= suspects for group in together), "a suspect was asked beside others"
    largest = [group for group in together if len(group) == 6]
    assert max(map(len, together)) == 6
    assert set().union(*largest) == suspects
    assert len(largest) == 4
    assert {row.prompt_id: row.attempt for row in rows_of(folder)} == {
        n: 2 if n < 24 else 1 for n in range(40)
    }


def test_rows_with_two_deaths_run_alone_and_with_three_end_in_error_unasked(replica):
    engine = Says(plainly)
    worker, folder = replica([f"p{n}" for n in range(9)], engine)
    die_with(folder, 1, "s0", range(6), times=2)
    die_with(folder, 1, "s0", [2], times=1)
    (receipt,) = answer(worker, *shards(9, 9))
    asked = [text.removeprefix("user: ") for text, _ in engine.asked]
    assert sorted(asked) == ["p0", "p1", "p3", "p4", "p5", "p6", "p7", "p8"]
    assert all(len(group) == 1 for group in engine.groups if group & {"p0", "p1", "p3", "p4", "p5"})
    found = {row.prompt_id: row for row in rows_of(folder)}
    assert (found[2].status, found[2].error) == (
        "error",
        "its engine died 3 times while it was asked, the last time alone",
    )
    assert Counter(row.status for row in found.values()) == {"ok": 8, "error": 1}
    assert receipt.rows == 9


def test_a_poison_prompt_is_found_in_three_deaths_and_the_others_answer(replica):
    """Replicas die by hand: the engine hangs at the poison, its loop is torn down, and a new
    replica gets the same shard."""
    entered = []

    async def poisoned(text):
        if text == "p11":
            entered.append(frozenset(engine.open_now))
            poison.set()
            await asyncio.Event().wait()
        return await plainly(text)

    async def until_it_dies(worker):
        finished, died = (
            asyncio.ensure_future(worker(shards(25, 25)[0])),
            asyncio.ensure_future(poison.wait()),
        )
        await asyncio.wait({finished, died}, return_when=asyncio.FIRST_COMPLETED)
        return finished.result() if finished.done() else None

    epoch = None
    for _ in range(8):
        engine, poison = Says(poisoned), asyncio.Event()
        worker, folder = replica([f"p{n}" for n in range(25)], engine, epoch=epoch)
        epoch = 1
        if receipt := asyncio.run(until_it_dies(worker)):
            break
    assert receipt.rows == 25
    assert len(entered) == 3
    assert entered[-1] == {"p11"}
    assert {row.prompt_id for row in rows_of(folder) if row.status == "error"} == {11}
    assert Counter(row.status for row in rows_of(folder)) == {"ok": 24, "error": 1}


def test_rows_that_were_committed_before_a_death_are_not_asked_again_nor_suspected(replica):
    async def half(text):
        if int(text[1:]) >= 5:
            await asyncio.Event().wait()
        return await plainly(text)

    worker, folder = replica([f"p{n}" for n in range(10)], Says(half))

    async def dies():
        task = asyncio.ensure_future(worker(shards(10, 10)[0]))
        while len(statuses(folder)) < 5:
            await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(dies())
    engine = Says(plainly)
    following, _ = replica([f"p{n}" for n in range(10)], engine, epoch=1)
    (receipt,) = answer(following, *shards(10, 10))
    assert sorted(text for text, _ in engine.asked) == [f"user: p{n}" for n in range(5, 10)]
    assert receipt.rows == 10
    assert {row.prompt_id: row.attempt for row in rows_of(folder)} == {
        n: 2 if n >= 5 else 1 for n in range(10)
    }


def test_what_a_killed_driver_left_open_makes_no_suspects(replica):
    engine = Says(plainly)
    _, folder = replica(["p0", "p1"])
    parts.begin_attempt(folder, 1, "s0", [(0, 0), (1, 0)])
    worker, _ = replica(["p0", "p1"], engine)
    answer(worker, *shards(2, 2))
    assert {row.attempt for row in rows_of(folder)} == {1}
    assert max(map(len, engine.groups)) == 2


def test_an_error_that_ends_the_stage_keeps_what_was_answered(replica):
    async def refuse_late(text):
        if text == "p7":
            await asyncio.sleep(0.3)
            raise StageError("the key was withdrawn")
        return await plainly(text)

    worker, folder = replica([f"p{n}" for n in range(8)], Says(refuse_late), part_seconds=60)
    with pytest.raises(StageError, match="the key was withdrawn"):
        answer(worker, *shards(8, 8))
    assert set(statuses(folder)) == {("t", n, 0) for n in range(7)}


PRICED = {"prices": {"input": 1e6, "output": 1e6}}  # a dollar a token


def test_requests_that_the_budget_does_not_hold_become_no_rows(replica):
    worker, folder = replica(
        ["word"] * 10, teacher=PRICED, sampling={"max_tokens": 5}, max_cost_usd=48.0
    )
    receipts = answer(worker, *shards(10, 5))
    cost = worker.figures().cost_usd
    assert 9 * len(statuses(folder)) == cost == 45
    assert sum(receipt.rows for receipt in receipts) == 5
    assert receipts[-1].over_budget


def test_what_a_dead_replica_spent_counts_against_the_budget_of_the_next(replica):
    options = {"teacher": PRICED, "sampling": {"max_tokens": 5}, "max_cost_usd": 48.0}
    worker, folder = replica(["word"] * 10, **options)
    answer(worker, *shards(10, 4)[:1])
    following, _ = replica(["word"] * 10, epoch=1, **options)
    receipts = answer(following, *shards(10, 4)[1:])
    assert len(statuses(folder)) == 5
    assert sum(receipt.rows for receipt in receipts) == 1


def test_a_sample_is_a_request_of_its_own(replica):
    worker, folder = replica(
        ["one two three four five"], sampling={"temperature": 0.7, "samples": 3}
    )
    shard = Shard("s", 0, 3, tuple((0, 1, sample) for sample in range(3)))
    (receipt,) = answer(worker, shard)
    found = rows_of(folder)
    assert receipt.rows == 3
    assert {row.sample_index for row in found} == {0, 1, 2}
    assert len({row.seed for row in found}) == 3
    assert any(a.text != b.text for a, b in itertools.combinations(found, 2))


def test_a_conversation_that_the_template_refuses_is_one_rows_error(replica):
    class Picky(Says):
        def encode(self, conversations):
            if any(one.messages[0]["content"] == "p3" for one in conversations):
                raise ValueError("roles must alternate")
            return super().encode(conversations)

    engine = Picky(plainly)
    worker, folder = replica([f"p{n}" for n in range(6)], engine)
    answer(worker, *shards(6, 6))
    found = rows_of(folder)
    assert [row.status for row in found] == ["ok"] * 3 + ["error"] + ["ok"] * 2
    assert (
        found[3].error == "a conversation of user cannot be asked: ValueError: roles must alternate"
    )
    assert sorted(text for text, _ in engine.asked) == [f"user: p{n}" for n in (0, 1, 2, 4, 5)]


WEATHER = tools_column([{"type": "function", "function": {"name": "weather"}}], {})


@pytest.mark.parametrize(
    ("says", "calls", "status"),
    [
        ('call weather {"city": "Ely"}', [{"name": "weather", "arguments": {"city": "Ely"}}], "ok"),
        ('call weather {"city"', [{"name": "weather", "arguments": '{"city"'}], "ok"),
        ("fine", None, "ok"),
    ],
)
def test_what_an_answer_calls_is_stored_beside_its_text(replica, says, calls, status):
    worker, folder = replica([says], validation=[0], tools=WEATHER)
    answer(worker, *shards(1, 1))
    (row,) = rows_of(folder)
    assert row.status == status
    if calls is None:
        assert (row.text, row.tool_calls) == (says, None)
    else:
        assert (row.text, json.loads(row.tool_calls)) == ("", calls)


def test_where_no_tools_are_offered_nothing_is_a_call(replica):
    worker, folder = replica(["call weather {}"], validation=[0])
    answer(worker, *shards(1, 1))
    (row,) = rows_of(folder)
    assert (row.text, row.tool_calls) == ("call weather {}", None)


def test_prompts_from_before_there_were_tools_are_asked(replica, tmp_path):
    worker, folder = replica(["hello"])
    file = tmp_path / "prompts.parquet"
    (table,) = read_tables([file])
    write_parquet(table.drop_columns(["tools", "reference_calls"]), file)
    answer(worker, *shards(1, 1))
    assert [row.status for row in rows_of(folder)] == ["ok"]


@pytest.mark.parametrize("codec", ["plain", "packed"])
def test_an_answer_that_cannot_be_stored_is_one_rows_error(replica, codec):
    async def odd(text):
        await asyncio.sleep(0.01)
        values = np.full(4, -1.0, np.float32)
        if text == "p3":
            values[1] = np.nan
        return Generation(
            "stop",
            np.asarray([65, 0], np.int32),
            values[:2],
            np.arange(4, dtype=np.int32),
            values,
            np.zeros(2, np.float32),
        )

    worker, folder = replica(
        [f"p{n}" for n in range(9)], Says(odd), capture={"top_k": 2, "codec": codec}
    )
    answer(worker, *shards(9, 9))
    found = rows_of(folder)
    assert [row.prompt_id for row in found if row.status != "ok"] == [3]
    assert (found[3].status, found[3].error.rpartition(": ")[0]) == (
        "error",
        "the answer cannot be stored",
    )
    assert found[3].completion_tokens == 2, "it was paid for"
    assert len(found) == 9


def test_what_is_open_when_a_teacher_cannot_be_asked_any_more_is_kept(replica):
    async def refused(text):
        if text == "p3":
            raise StageError("no credit")
        return await plainly(text)

    engine = Says(refused)
    worker, folder = replica([f"p{n}" for n in range(40)], engine, teacher={"concurrency": 8})
    with pytest.raises(StageError, match="no credit"):
        answer(worker, *shards(40, 20))
    asked = {text for text, _ in engine.asked} - {"user: p3"}
    assert len(asked) < 39, "nothing is asked after that"
    assert {f"user: p{prompt_id}" for _, prompt_id, _ in statuses(folder)} == asked


def test_a_driver_that_another_one_shut_out_asks_nothing_more(replica, monkeypatch):
    monkeypatch.setattr("engine.asking.replica.FENCE_S", 0.05)

    async def slowly(text):
        if len(engine.asked) == 4:
            parts.open_epoch(folder)
        await asyncio.sleep(0.2)
        return await plainly(text)

    engine = Says(slowly)
    worker, folder = replica([f"p{n}" for n in range(80)], engine, teacher={"concurrency": 4})
    with pytest.raises(StageError, match=r"another driver has opened .* \(epoch 2\) and goes on"):
        answer(worker, *shards(80, 20))
    assert len(engine.asked) <= 16


def test_a_local_engine_that_never_opens_is_left(replica, monkeypatch):
    class Hangs(Says):
        async def open(self):
            await asyncio.Event().wait()

    def leave(why):
        raise SystemExit(why)

    monkeypatch.setattr(replica_module, "end_process", leave)
    worker, _ = replica(["p0"], Hangs(plainly), request_timeout_s=0.2)
    with pytest.raises(SystemExit, match=r"first token did not come within 0\.2 s"):
        answer(worker, *shards(1, 1))


def test_an_engine_that_took_no_step_for_half_a_deadline_is_left(replica, monkeypatch):
    def leave(why):
        raise SystemExit(why)

    monkeypatch.setattr("engine.asking.asker.end_process", leave)
    teacher = {"fake": {"stuck": "the sticky one"}}
    worker, _ = replica(["the sticky one"], teacher=teacher, request_timeout_s=0.2)
    with pytest.raises(SystemExit, match="the engine took no step"):
        answer(worker, *shards(1, 1))


def test_one_long_answer_does_not_let_suspects_stop_the_others(replica):
    texts = [f"prompt {n}" for n in range(64)]
    texts[3] = "endless"
    teacher = {"concurrency": 4, "fake": {"slow": "endless", "slow_s": 3600.0, "latency_s": 0.01}}
    worker, folder = replica(texts, teacher=teacher, rows_in_flight=16)
    parts.begin_attempt(
        folder, 1, "s8", [(8, 0), (9, 0)]
    )  # open when the replica before this one died

    async def work():
        running = [asyncio.ensure_future(worker(shard)) for shard in shards(64, 4)]
        async with asyncio.timeout(30):
            while len(statuses(folder)) < 61:
                await asyncio.sleep(0.05)
            while (
                sum(not task.done() for task in running) > 2
            ):  # a row is visible a moment before its shard hears of it
                await asyncio.sleep(0.05)
        return [task.done() for task in running]

    assert asyncio.run(work()).count(False) == 2, (
        "the long answer's shard, and that of the suspects, which come last"
    )
