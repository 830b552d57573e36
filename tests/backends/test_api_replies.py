"""What vendors say, in the shapes that they say it: endings, contents, errors, and what a reply
cost."""

import asyncio
import logging
import os
import re
import signal

import numpy as np
import pytest
from doubles import misbehaving_api
from doubles.misbehaving_api import KEY, Faults

from engine.asking.engine import PromptTooLong, Sampling
from engine.asking.replica import spent_usd
from engine.backends import fake
from engine.backends.api_gate import usage_of
from engine.backends.api_teacher import AnthropicTeacher, OpenAITeacher
from engine.backends.api_words import ApiError, words_of
from engine.errors import StageError, Stopped
from engine.job.spec import AnthropicTeacherSpec, CaptureSpec, JobSpec, OpenAITeacherSpec
from engine.rows.records import Completion
from engine.rows.tables import read_tables, to_rows
from engine.rows.tools import Conversation
from engine.run import parts
from engine.run.context import Context
from engine.run.manifests import finished, publish
from engine.stages import curate, generate, prompts

SPECS = {"openai": OpenAITeacherSpec, "anthropic": AnthropicTeacherSpec}
KINDS = {"openai": OpenAITeacher, "anthropic": AnthropicTeacher}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}


def reply(content="#### 5", *, usage=USAGE, reason="stop", **more):
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    body["choices"] = [
        {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content}}
    ]
    return {name: value for name, value in (body | more).items() if value != "absent"}


@pytest.fixture
def teacher(monkeypatch):
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)

    def build(url, kind="openai", attempts=3):
        base_url = f"{url}/v1" if kind == "openai" else url
        spec = SPECS[kind](
            name="api", model="m", base_url=base_url, api_key_env="DISTILL_TEST_API_KEY"
        )
        return KINDS[kind](spec, CaptureSpec(), device="cpu", timeout_s=20.0, attempts=attempts)

    return build


def ask(engine, words="What is 2 + 3?"):
    async def run():
        async with engine._client:
            return await engine.generate(
                Conversation([{"role": "user", "content": words}]), Sampling(0.7, 32)
            )

    return asyncio.run(run())


def answered(teacher, body):
    with misbehaving_api.serve(answer=lambda path, asked: (200, body)) as api:
        return ask(teacher(api.url))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("safety", "content_filter"),
        ("fin du texte", "fin du texte"),
        ("LENGTH", "length"),
        ("max_output_tokens", "length"),
        ("max_new_tokens", "length"),
        ("Stop", "stop"),
        ({"type": "stop"}, "stop"),
        ({"reason": "MAX_TOKENS"}, "length"),
    ],
)
def test_a_vendors_word_for_an_ending_is_understood_or_kept(teacher, word, reason):
    assert answered(teacher, reply(reason=word)).finish_reason == reason


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "#### "}, {"type": "text", "text": "5"}], "#### 5", None),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 3"}]},
                {"type": "text", "text": "5"},
            ],
            "5",
            "2 and 3",
        ),
        ([{"type": "reasoning", "text": "2 and 3"}, "5"], "5", "2 and 3"),
        (None, "", None),
        ([], "", None),
        ([None, {"type": "text", "text": "5"}], "5", None),
        (
            [
                {"type": "thinking", "thinking": "2 and 3", "text": None},
                {"type": "text", "text": "5"},
            ],
            "5",
            "2 and 3",
        ),
        ([{"type": "text", "text": {"value": "5", "annotations": []}}], "5", None),
        ([{"type": "text", "content": "5"}], "5", None),
        ({"type": "text", "text": "5"}, "5", None),
    ],
)
def test_content_in_parts_is_joined_and_thinking_is_reasoning(teacher, content, text, reasoning):
    found = answered(teacher, reply(content))
    assert (found.text, found.reasoning) == (text, reasoning)


@pytest.mark.parametrize(
    "usage",
    [
        "absent",
        None,
        {},
        {"total_tokens": 13},
        {"prompt_tokens": 9},
        {"prompt_tokens": "9", "completion_tokens": "4"},
        {"prompt_tokens": 9, "completion_tokens": -1},
        {"prompt_tokens": True, "completion_tokens": 4},
        "none",
        [9, 4],
    ],
)
def test_a_count_that_is_missing_or_none_is_unknown_and_not_zero(teacher, usage):
    found = answered(teacher, reply(usage=usage))
    assert found.text == "#### 5"
    assert (found.prompt_tokens, found.tokens) == (None, None)
    assert usage_of({"usage": usage}) is None


UNREADABLE = {
    "no choices": reply(choices=[]),
    "choices null": reply(choices=None),
    "choices missing": reply(choices="absent"),
    "a choice without message": reply(choices=[{"index": 0, "finish_reason": "stop"}]),
    "choices of text": reply(choices="5"),
    "content is a number": reply(5),
    "a part is a number": reply([5]),
    "message null": reply(choices=[{"index": 0, "message": None}]),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_a_reply_that_cannot_be_read_was_billed_is_known(teacher, body):
    with pytest.raises(ApiError) as caught:
        answered(teacher, body)
    assert (caught.value.lost_tries, caught.value.lost_tokens) == (0, (1000, 500))
    with pytest.raises(ApiError) as caught:
        answered(teacher, {name: value for name, value in body.items() if name != "usage"})
    assert (caught.value.lost_tries, caught.value.lost_tokens) == (1, (0, 0))


def test_an_error_in_place_of_an_answer_counts_what_it_says_of_itself(teacher):
    with pytest.raises(ApiError, match="overloaded today") as caught:
        answered(teacher, {"error": {"message": "overloaded today"}, "usage": USAGE})
    assert (caught.value.lost_tries, caught.value.lost_tokens) == (0, (3000, 1500))  # three tries


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 403, 500])
def test_models_that_cannot_be_listed_are_a_warning(teacher, kind, status, caplog):
    with (
        misbehaving_api.serve(Faults(models_status=status)) as api,
        caplog.at_level(logging.WARNING),
    ):
        engine = teacher(api.url, kind, attempts=1)

        async def run():
            await engine.open()
            return await engine.generate(
                Conversation([{"role": "user", "content": "What is 2 + 3?"}]), Sampling(0.7, 32)
            )

        assert asyncio.run(run()).text.startswith("echo")
    assert "its models cannot be listed" in caplog.text


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}], "seed"),
        (
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "max_completion_tokens"],
                        "msg": "Extra inputs are not permitted",
                    }
                ]
            },
            r"body\.max_completion_tokens: Extra inputs",
        ),
        ({"error": "seed is not supported"}, "seed is not supported"),
        ({"detail": "no seeds here"}, "no seeds here"),
        ({"message": "seed?"}, r"seed\?"),
        ("seed is not supported by this model", "seed is not supported"),
        ({"code": 17, "what": "seed"}, "seed"),
    ],
)
def test_the_servers_own_sentence_reaches_the_user(teacher, body, word):
    with (
        misbehaving_api.serve(answer=lambda path, asked: (422, body)) as api,
        pytest.raises(ApiError, match=word),
    ):
        ask(teacher(api.url, attempts=1))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (
            {"error": "Bad Request", "message": "max_tokens must not be above 4096"},
            "Bad Request; max_tokens must not be above 4096",
        ),
        ({"error": "invalid_request", "error_description": "the seed is odd"}, "the seed is odd"),
        ({"error": {"code": "E1"}, "detail": "seed is unknown"}, "seed is unknown"),
        ({"error": True, "message": "no seeds"}, "no seeds"),
        (
            {
                "error": {
                    "message": "Provider returned error",
                    "metadata": {"raw": "seed too large"},
                }
            },
            "seed too large",
        ),
        (
            "<html><head><style>"
            + "a { color: red }" * 40
            + "</style><title>502</title></head><body>upstream &amp; down</body></html>",
            "502 upstream & down",
        ),
    ],
)
def test_the_servers_sentence_is_found_beside_other_words(teacher, body, word):
    with (
        misbehaving_api.serve(answer=lambda path, asked: (422, body)) as api,
        pytest.raises(ApiError, match=re.escape(word)),
    ):
        ask(teacher(api.url, attempts=1))


@pytest.mark.parametrize(
    "body",
    [
        {"code": 17, "message": "the seed is odd"},
        {"detail": "the seed is odd"},
        {"error_msg": "the seed is odd"},
        {"base_resp": {"status_code": 2013, "status_msg": "the seed is odd"}},
        {"choices": [], "message": "the seed is odd"},
    ],
)
def test_a_reply_without_an_answer_shows_what_it_says_instead(teacher, body):
    with pytest.raises(ApiError, match="the answer holds no choices: the seed is odd"):
        answered(teacher, body)


@pytest.mark.parametrize("short", ["5", "no", "name"])
def test_a_short_question_hides_a_servers_sentence_only_where_it_is_quoted(teacher, short):
    said = "Unknown name in 5 fields, none of them known"
    with (
        misbehaving_api.serve(answer=lambda path, asked: (422, {"message": said})) as api,
        pytest.raises(ApiError, match=said),
    ):
        ask(teacher(api.url, attempts=1), short)
    quoting = {"message": f"what is '{short}'?"}
    with (
        misbehaving_api.serve(answer=lambda path, asked: (422, quoting)) as api,
        pytest.raises(ApiError, match="repeats the prompt"),
    ):
        ask(teacher(api.url, attempts=1), short)


@pytest.mark.parametrize(
    "said",
    [
        "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
        "Input is too long for requested model.",
        "`inputs` tokens + `max_new_tokens` must be <= 4096",
        "the request exceeds the available context size",
        "This model's maximum prompt length is 131072",
        "too many tokens: size limit exceeded by 12",
        "exceeded model token limit: 8192",
        "Range of input length should be [1, 30720]",
        "Please reduce the length of the messages.",
        "Prompt has too many tokens",
        "Invalid 'messages[0].content': string too long",
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_too_long_is_understood_in_many_words_and_asked_once(teacher, said, status):
    with (
        misbehaving_api.serve(
            answer=lambda path, asked: (status, {"error": {"message": said}})
        ) as api,
        pytest.raises(PromptTooLong),
    ):
        ask(teacher(api.url, attempts=3))
    assert len(api.calls) == 1


def test_a_parameter_out_of_range_is_not_too_long(teacher):
    said = {"error": {"message": "max_tokens must not be above 4096"}}
    with (
        misbehaving_api.serve(answer=lambda path, asked: (400, said)) as api,
        pytest.raises(ApiError),
    ):
        ask(teacher(api.url))


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 314}, (10, 304)),
        (
            {
                "input_tokens": 9,
                "cache_creation_input_tokens": 5000,
                "cache_read_input_tokens": 700,
                "output_tokens": 4,
            },
            (5709, 4),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": None}, (10, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 12}, (10, 4)),
    ],
)
def test_tokens_that_stand_elsewhere_are_charged_too(usage, counted):
    assert usage_of({"usage": usage}) == counted


def test_no_tokens_for_a_text_is_no_count(teacher):
    found = answered(
        teacher, reply(usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    )
    assert (found.prompt_tokens, found.tokens) == (None, None)


def test_words_are_found_in_nothing_too():
    assert words_of(None) == words_of({}) == words_of([]) == ""
    assert words_of("<html>busy</html>") == "busy"


def test_a_request_that_no_waiting_lets_in_is_too_long_and_slows_nobody(teacher):
    words = (
        "Request too large for m on tokens per min (TPM): Limit 30000, Requested 34238. The input"
        " must be reduced."
    )

    def answer(path, asked):
        if len(asked["messages"][0]["content"]) > 500:
            return 429, {"error": {"message": words, "code": "rate_limit_exceeded"}}
        return misbehaving_api.answer(path, asked)

    with misbehaving_api.serve(answer=answer) as api:
        engine = teacher(api.url)
        before = engine.figures()["concurrency"]
        with pytest.raises(PromptTooLong, match="Request too large"):
            ask(engine, "x" * 1000)
        assert (len(api.calls), engine.figures()["concurrency"], engine.figures()["pause_s"]) == (
            1,
            before,
            0,
        )


# The stage: rows, and the bill


@pytest.fixture
def job(monkeypatch, tmp_path):
    """A job of so many math prompts for an API at `url`."""
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)

    def build(url, count, **fields):
        source = tmp_path / "train.jsonl"
        source.write_text(
            "".join(f'{{"prompt": "What is {n} + 3?", "reference": "5"}}\n' for n in range(count))
        )
        api = {
            "name": "api",
            "kind": "openai",
            "model": "m",
            "base_url": f"{url}/v1",
            "api_key_env": "DISTILL_TEST_API_KEY",
            "concurrency": 8,
            "prices": {"input": 10.0, "output": 100.0},
        }
        settings = {
            "teachers": [api],
            "request_timeout_s": 5.0,
            "max_attempts": 2,
            "max_failed_fraction": 1.0,
        } | fields
        return JobSpec.model_validate(
            {
                "name": "bill",
                "task": "math",
                "device": "cpu",
                "prompts": {"train": str(source), "validation_fraction": 0.0},
                "generate": settings,
                "train": {"student": "none"},
                "loadtest": {"models": []},
            }
        )

    return build


def run_stage(spec, tmp_path):
    done, context = {}, Context("bill", "math", 0)
    for name in ("prompts", "generate", "curate"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if name == "prompts":
            counts = prompts.run(spec.prompts, {}, folder, context)
        elif name == "generate":
            counts = generate.run(spec.generate, done, folder, context, stream=fake.stream)
            found = counts
        else:
            counts = curate.run(spec.curate, done, folder, context)
        publish(folder, name, {}, counts, 0.0)
        done[name] = finished(folder)
    rows = [
        row for table in read_tables(done["generate"].files()) for row in to_rows(table, Completion)
    ]
    return found, rows, counts


def test_rows_without_counts_are_kept_and_said(job, tmp_path):
    with misbehaving_api.serve(
        answer=lambda path, asked: (200, reply(usage=None, reason="fin"))
    ) as api:
        found, rows, curated = run_stage(job(api.url, 6), tmp_path)
    assert {row.completion_tokens for row in rows} == {None}
    assert found.info.rows_without_token_counts == 6
    assert found.info.unknown_finish_reasons == {"fin": 6}
    assert found.info.cost_usd > 0
    assert {row.status for row in rows} == {"ok"}
    assert curated.rows_out == 6


def in_suite(count, of):
    """That many seeds; the others in `make proof`."""
    rest = [pytest.param(seed, marks=pytest.mark.proof) for seed in range(count, of)]
    return [*range(count), *rest]


def odd_reply(rng):
    """(body, what the server bills for it, whether it says so)."""
    tokens = {
        "prompt_tokens": int(rng.integers(5, 20)),
        "completion_tokens": int(rng.integers(1, 60)),
    }
    bill = (tokens["prompt_tokens"] * 10 + tokens["completion_tokens"] * 100) / 1e6
    if rng.random() > 0.3:
        return reply(usage=tokens), bill, True
    kind = rng.integers(6)
    bodies = [
        reply(usage="absent"),
        reply(usage=tokens, choices=[]),
        reply([{"type": "text", "text": "5"}], usage=tokens),
        reply(5, usage=None),
        reply(usage={"prompt_tokens": "9"}),
        reply(usage=tokens, choices=None),
    ]
    return bodies[kind], bill, kind in (1, 2, 5)


@pytest.mark.parametrize("seed", in_suite(5, of=20))
def test_the_ledger_is_never_below_the_bill_and_the_bill_never_beyond_the_limit(
    job, tmp_path, seed
):
    """Three in ten replies are odd, and Ctrl-C comes once on the way; the server keeps the true
    bill."""
    rng, billed, untold = np.random.default_rng(seed), [], []
    interrupted_at = int(rng.integers(2, 18))

    def answer(path, asked):
        body, bill, said = odd_reply(rng)
        billed.append(bill)
        untold.append(not said)
        if len(billed) == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
        return 200, body

    limit = 0.25
    with misbehaving_api.serve(Faults(latency_s=0.1), answer=answer) as api:
        spec = job(api.url, 80, max_cost_usd=limit, sampling={"temperature": 0.7, "max_tokens": 64})
        with pytest.raises(Stopped):
            run_stage(spec, tmp_path)
        assert sum(billed) <= spent_usd(spec.generate.prices(), tmp_path / "generate"), (
            "what was open at Ctrl-C is in the ledger"
        )
        assert len(billed) >= interrupted_at
        with pytest.raises(StageError, match=r"max_cost_usd=0\.25 is used up"):
            run_stage(spec, tmp_path)
    ledger, bill = spent_usd(spec.generate.prices(), tmp_path / "generate"), sum(billed)
    most = (64 * 100 + (len("What is 79 + 3?") + 16) * 10) / 1e6  # of one request
    assert bill <= ledger <= limit
    assert ledger <= bill + most * sum(untold) + 1e-9
    assert len(billed) > 20
    assert sum(untold)
    rows = parts.final_rows(parts.accepted_records(tmp_path / "generate"))
    assert 20 < len(rows.prompt_id) <= len(billed), (
        "what could not be read before Ctrl-C is asked once more after it"
    )


@pytest.mark.parametrize("odd", ["an error with its usage", "cut"])
@pytest.mark.parametrize("seed", in_suite(1, of=3))
def test_tries_that_are_charged_and_come_to_nothing_never_pass_the_limit(job, tmp_path, odd, seed):
    """Three in four, each of which the client tries again."""
    rng, tries, limit = np.random.default_rng(seed), [], 0.05
    usage = {"prompt_tokens": 10, "completion_tokens": 64}

    def answer(path, asked):
        tries.append(0.0065)
        is_odd = odd != "cut" and rng.random() < 0.75
        return 200, {"error": {"message": "overloaded"}, "usage": usage} if is_odd else reply(
            usage=usage
        )

    with misbehaving_api.serve(Faults(cut=0.75 * (odd == "cut"), seed=seed), answer=answer) as api:
        spec = job(
            api.url,
            40,
            max_cost_usd=limit,
            max_attempts=5,
            sampling={"temperature": 0.7, "max_tokens": 64},
        )
        with pytest.raises(StageError, match=r"max_cost_usd=0\.05 is used up"):
            run_stage(spec, tmp_path)
    assert (
        sum(tries)
        <= spent_usd(spec.generate.prices(), tmp_path / "generate") + 1e-9
        <= limit + 2e-9
    )
    assert len(tries) >= 4
