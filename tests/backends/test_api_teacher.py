"""Both vendors' clients behind the gate, against a local API that misbehaves and keeps a history,
and against a real vLLM server."""

import asyncio
import base64
import html
import logging
import math
import re
import time
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from doubles import misbehaving_api
from doubles.misbehaving_api import KEY, Faults

from engine.asking.engine import PromptTooLong, Sampling
from engine.backends.api_gate import retry_after_s
from engine.backends.api_teacher import AnthropicTeacher, OpenAITeacher
from engine.backends.api_tools import anthropic_messages
from engine.backends.api_words import ApiError
from engine.errors import StageError
from engine.job.spec import AnthropicTeacherSpec, CaptureSpec, OpenAITeacherSpec
from engine.rows.tools import Conversation

REPOSITORY = Path(__file__).parents[2]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 3?"},
]
SPECS = {"openai": OpenAITeacherSpec, "anthropic": AnthropicTeacherSpec}
KINDS = {"openai": OpenAITeacher, "anthropic": AnthropicTeacher}
ONCE = Sampling(0.7, 32, seed=5)
both_protocols = pytest.mark.parametrize("kind", list(KINDS))


@pytest.fixture
def teacher(monkeypatch):
    """Build an API teacher for a server's address."""
    monkeypatch.setenv("DISTILL_TEST_API_KEY", KEY)

    def build(kind, url, *, top_k=0, timeout_s=20.0, attempts=5, **fields):
        base_url = f"{url}/v1" if kind == "openai" and "api_version" not in fields else url
        settings = {
            "name": "api",
            "kind": kind,
            "model": "m",
            "base_url": base_url,
            "api_key_env": "DISTILL_TEST_API_KEY",
        } | fields
        spec = SPECS[kind](**settings)
        return KINDS[kind](
            spec, CaptureSpec(top_k=top_k), device="cpu", timeout_s=timeout_s, attempts=attempts
        )

    return build


def ask(engine, prompt=CONVERSATION, sampling=ONCE, tools=()):
    async def run():
        async with engine._client:
            asked = Conversation(prompt, list(tools))
            return await engine.generate(engine.encode([asked])[0], sampling)

    return asyncio.run(run())


def ask_all(engine, count, prompt=None, samplings=None):
    """Answers of `count` prompts asked at once, exceptions in their place."""
    prompts = [
        prompt or [{"role": "user", "content": f"prompt {number}"}] for number in range(count)
    ]

    async def run():
        async with engine._client:
            asked = map(Conversation, prompts)
            requests = zip(asked, samplings or [ONCE] * count, strict=True)
            return await asyncio.gather(
                *(engine.generate(*request) for request in requests), return_exceptions=True
            )

    return asyncio.run(run())


def replying(status, content):
    return lambda path, body: (status, content)


def openai_reply(message=None, **choice):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "5"} | (message or {}),
            }
            | choice
        ],
    }


# What is asked, and what comes back


def test_the_openai_protocol_gives_text_and_usage(teacher):
    with misbehaving_api.serve() as api:
        answer = ask(teacher("openai", api.url))
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.tokens) == (
        "echo: What is 2 + 3?",
        "stop",
        9,
        4,
    )
    (call,) = api.calls
    assert (call.path, call.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert call.body == {
        "model": "m",
        "messages": CONVERSATION,
        "seed": 5,
        "max_completion_tokens": 32,
        "temperature": 0.7,
        "top_p": 1.0,
    }


def test_the_anthropic_protocol_gets_the_system_message_apart(teacher):
    with misbehaving_api.serve() as api:
        answer = ask(teacher("anthropic", api.url))
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.tokens) == (
        "echo: What is 2 + 3?",
        "stop",
        9,
        4,
    )
    (call,) = api.calls
    assert call.path == "/v1/messages"
    assert call.body == {
        "model": "m",
        "system": "Be brief.",
        "messages": CONVERSATION[1:],
        "max_tokens": 32,
        "temperature": 0.7,
    }


def test_azure_is_asked_by_deployment_and_version(teacher):
    with misbehaving_api.serve() as api:
        engine = teacher("openai", api.url, api_version="2026-01-01")

        async def run():
            await engine.open()
            return await engine.generate(Conversation(CONVERSATION), ONCE)

        assert asyncio.run(run()).text == "echo: What is 2 + 3?"
    assert api.calls[0].path == "/openai/deployments/m/chat/completions"
    assert api.calls[0].headers["api-key"] == KEY


def test_extra_body_wins_and_a_null_takes_a_field_out(teacher):
    with misbehaving_api.serve() as api:
        ask(
            teacher(
                "openai",
                api.url,
                extra_body={
                    "max_completion_tokens": None,
                    "max_tokens": 7,
                    "return_token_ids": True,
                },
            )
        )
        ask(
            teacher(
                "anthropic",
                api.url,
                extra_body={"temperature": None, "thinking": {"type": "adaptive"}},
            )
        )
    first, second = (call.body for call in api.calls)
    assert "max_completion_tokens" not in first
    assert (first["max_tokens"], first["return_token_ids"]) == (7, True)
    assert "temperature" not in second
    assert second["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_apart(teacher, name):
    with misbehaving_api.serve(answer=replying(200, openai_reply({name: "2 and 3 are 5"}))) as api:
        answer = ask(teacher("openai", api.url))
    assert (answer.text, answer.reasoning) == ("5", "2 and 3 are 5")


def test_thinking_blocks_are_reasoning(teacher):
    _, reply = misbehaving_api.answer("/messages", {"model": "m", "messages": CONVERSATION})
    reply["content"] = [
        {"type": "thinking", "thinking": "2 and 3 are 5", "signature": "s"},
        {"type": "text", "text": "5"},
    ]
    with misbehaving_api.serve(answer=replying(200, reply | {"stop_reason": "max_tokens"})) as api:
        answer = ask(teacher("anthropic", api.url))
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("5", "2 and 3 are 5", "length")


def test_a_refusal_is_a_filtered_answer_whoever_says_it(teacher):
    with misbehaving_api.serve(
        answer=replying(200, openai_reply({"content": None, "refusal": "no"}))
    ) as api:
        assert (
            ask(teacher("openai", api.url)).finish_reason,
            ask(teacher("openai", api.url)).text,
        ) == ("content_filter", "")
    with misbehaving_api.serve(
        answer=replying(400, {"error": {"message": "filtered", "code": "content_filter"}})
    ) as api:
        assert (
            ask(teacher("openai", api.url, api_version="2026-01-01")).finish_reason
            == "content_filter"
        )


def position(token, logprob, *top):
    return {
        "token": token,
        "logprob": logprob,
        "bytes": None,
        "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in top],
    }


def test_top_logprobs_with_ids_become_the_arrays_of_a_local_engine(teacher):
    half, quarter, little = math.log(0.5), math.log(0.25), math.log(0.01)
    content = [
        position(
            "token_id:7",
            half,
            ("token_id:7", half),
            ("token_id:3", quarter),
            ("token_id:4", little),
        ),
        position(
            "token_id:9",
            little,
            ("token_id:9", little),
            ("token_id:1", half),
            ("token_id:2", quarter),
        ),  # the sampled one first
    ]
    with misbehaving_api.serve(
        answer=replying(200, openai_reply(logprobs={"content": content}))
    ) as api:
        answer = ask(teacher("openai", api.url, top_k=2))
    assert (api.calls[0].body["logprobs"], api.calls[0].body["top_logprobs"]) == (True, 3)
    assert answer.token_ids.tolist() == [7, 9]
    assert answer.token_logprobs == pytest.approx([half, little])
    assert answer.topk_ids.tolist() == [7, 3, 1, 2]
    assert answer.topk_logprobs == pytest.approx([half, quarter, half, quarter])
    assert answer.tail == pytest.approx([0.25, 0.25])
    assert answer.topk_tokens == []


def test_top_logprobs_without_ids_are_texts_filled_up_to_k(teacher):
    half, quarter = math.log(0.5), math.log(0.25)
    content = [position("5", half, ("5", half), ("6", quarter)), position("!", half, ("!", half))]
    with misbehaving_api.serve(
        answer=replying(200, openai_reply(logprobs={"content": content}))
    ) as api:
        answer = ask(teacher("openai", api.url, top_k=2))
    assert answer.topk_tokens == ["5", "6", "!", ""]
    assert answer.topk_logprobs == pytest.approx([half, quarter, half, -math.inf])
    assert answer.tail == pytest.approx([0.25, 0.5])
    assert len(answer.token_ids) == len(answer.topk_ids) == 0


def test_fewer_ids_than_k_are_refused(teacher):
    content = [position("token_id:7", -1.0, ("token_id:7", -1.0))]
    with (
        misbehaving_api.serve(
            answer=replying(200, openai_reply(logprobs={"content": content}))
        ) as api,
        pytest.raises(
            ApiError, match=r"gives 1 log-probabilities at a position; capture\.top_k wants 2"
        ),
    ):
        ask(teacher("openai", api.url, top_k=2))


# Faults that pass


@both_protocols
def test_every_prompt_is_answered_by_an_api_that_misbehaves_in_a_third_of_its_calls(teacher, kind):
    prompts, faults = (
        120,
        Faults(busy=0.30, error=0.05, hang=0.01, cut=0.005, retry_after="0.02", seed=5),
    )
    with misbehaving_api.serve(faults) as api:
        engine = teacher(kind, api.url, timeout_s=2.0, concurrency=16)
        answers = ask_all(engine, prompts)
    assert [getattr(answer, "text", answer) for answer in answers] == [
        f"echo: prompt {number}" for number in range(prompts)
    ]
    assert len(api.statuses(200)) == prompts
    assert len(api.calls) <= 1.6 * prompts
    assert {call.status for call in api.calls} == {200, 429, 500, -1, -2}  # each fault was met
    assert engine.figures()["refused"] == len(api.statuses(429))
    assert engine.figures()["requests"] == len(api.calls)


@both_protocols
def test_nobody_calls_before_retry_after_has_passed(teacher, kind):
    with misbehaving_api.serve(Faults(busy=0.3, retry_after="0.3", seed=1)) as api:
        answers = ask_all(teacher(kind, api.url, concurrency=8), 12)
    assert all(answer.finish_reason == "stop" for answer in answers)
    assert len(api.statuses(429)) >= 3
    assert api.early_calls(grace_s=0.15) == []


def test_refusals_are_not_tries(teacher):
    with misbehaving_api.serve(Faults(busy=0.8, retry_after="0.01", seed=1)) as api:
        answers = ask_all(teacher("openai", api.url, attempts=1, concurrency=4), 6)
    assert all(answer.finish_reason == "stop" for answer in answers)
    assert len(api.calls) > 12


@both_protocols
def test_a_long_retry_after_is_waited_for_by_everybody_and_not_given_up(teacher, kind):
    with misbehaving_api.serve(Faults(busy=1.0, retry_after="300")) as api:
        engine = teacher(kind, api.url, concurrency=2)

        async def run():
            asking = [
                asyncio.create_task(engine.generate(Conversation(CONVERSATION), ONCE))
                for _ in range(3)
            ]
            _, waiting = await asyncio.wait(asking, timeout=0.8)
            for task in asking:
                task.cancel()
            return len(waiting)

        assert asyncio.run(run()) == 3
    assert len(api.calls) <= 2
    assert 290 < engine.figures()["pause_s"] <= 300


@both_protocols
def test_a_failure_is_tried_as_often_as_the_job_says(teacher, kind):
    with (
        misbehaving_api.serve(Faults(error=1.0)) as api,
        pytest.raises(ApiError, match="InternalServerError 500"),
    ):
        ask(teacher(kind, api.url, attempts=2))
    assert len(api.calls) == 2


@both_protocols
def test_silence_ends_at_the_deadline_of_each_try(teacher, kind):
    started = time.monotonic()
    with (
        misbehaving_api.serve(Faults(hang=1.0)) as api,
        pytest.raises(ApiError, match=r"504: no answer within 0.3 s"),
    ):
        ask(teacher(kind, api.url, attempts=2, timeout_s=0.3))
    assert len(api.calls) == 2
    assert time.monotonic() - started < 5


@both_protocols
def test_an_error_with_status_200_is_no_answer(teacher, kind):
    reply = replying(200, {"error": {"message": "no capacity", "code": 502}})
    with (
        misbehaving_api.serve(answer=reply) as api,
        pytest.raises(ApiError, match="502: an error in place of an answer"),
    ):
        ask(teacher(kind, api.url, attempts=1))
    assert len(api.calls) == 1


def test_as_many_requests_are_open_as_the_job_allows(teacher):
    with misbehaving_api.serve(Faults(latency_s=0.2)) as api:
        ask_all(teacher("openai", api.url, concurrency=8), 16)
    assert api.most_open == 8


def test_open_requests_settle_near_what_a_busy_api_can_take(teacher):
    with misbehaving_api.serve(Faults(capacity=4, latency_s=0.02, retry_after="0.02")) as api:
        engine = teacher("openai", api.url, concurrency=16)
        answers = ask_all(engine, 100)
    assert all(answer.finish_reason == "stop" for answer in answers)
    refused = [call.status == 429 for call in api.calls]
    assert (
        sum(refused[:16]) >= 8
    )  # it starts with what the job allows, and then asks as the API can answer
    assert sum(refused[40:]) <= 0.25 * len(refused[40:])
    assert 1 <= engine.figures()["concurrency"] <= 8


def test_open_requests_grow_again_when_the_api_is_no_longer_busy(teacher):
    refusals = iter(range(8))

    def recover(path, body):
        return (
            misbehaving_api.answer(path, body)
            if next(refusals, None) is None
            else (429, {"error": {"message": "later"}})
        )

    with misbehaving_api.serve(answer=recover) as api:
        engine = teacher("openai", api.url, concurrency=8)
        ask_all(engine, 60)
    assert len(api.statuses(429)) == engine.figures()["refused"] == 8
    assert engine.figures()["concurrency"] == 8


# Budgets


def test_requests_stay_within_the_budget(teacher):
    with misbehaving_api.serve() as api:
        ask_all(teacher("openai", api.url, requests_per_minute=1200), 40)
    times = [call.arrived for call in api.calls]
    assert len(times) == 40
    for first in range(40):
        for last in range(first, 40):
            assert (
                last - first + 1 <= 20 * (times[last] - times[first] + 1.1) + 2
            )  # 20 a second, a burst of one second


@pytest.mark.parametrize(
    ("prompt_bytes", "tokens", "least_s", "most_s"),
    [
        (20, 500, 1.4, 4.0),
        (8000, 13, 0.0, 3.0),
    ],  # 1,000 tokens a second, a burst of one second; nothing else takes more than a second
    ids=[
        "more than it looked like: 3,000 tokens",
        "less than it looked like: 78 tokens and not 12,000",
    ],
)
def test_the_token_budget_is_charged_with_what_the_api_counted(
    teacher, prompt_bytes, tokens, least_s, most_s
):
    def count(path, body):
        status, reply = misbehaving_api.answer(path, body)
        return status, reply | {
            "usage": {"prompt_tokens": 3, "completion_tokens": tokens - 3, "total_tokens": tokens}
        }

    started = time.monotonic()
    with misbehaving_api.serve(answer=count) as api:
        engine = teacher("openai", api.url, tokens_per_minute=60_000, concurrency=1)
        ask_all(engine, 6, [{"role": "user", "content": "x" * prompt_bytes}])
    assert len(api.calls) == 6
    assert least_s <= time.monotonic() - started <= most_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "inf"}, 0),
    ],
    ids=str,
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after_s(httpx2.Headers(headers)) == pytest.approx(seconds)
    assert retry_after_s(
        httpx2.Headers({"retry-after": formatdate(time.time() + 60)})
    ) == pytest.approx(60, abs=2)


# Faults that do not pass


@both_protocols
def test_a_missing_key_is_named(teacher, kind, monkeypatch):
    monkeypatch.delenv("DISTILL_TEST_API_KEY")
    with pytest.raises(StageError, match=r"teacher 'api'.* DISTILL_TEST_API_KEY"):
        teacher(kind, "http://127.0.0.1:9")


@both_protocols
def test_a_wrong_key_fails_before_the_first_paid_call(teacher, kind, monkeypatch):
    with misbehaving_api.serve() as api:
        monkeypatch.setattr(misbehaving_api, "KEY", "another")
        with pytest.raises(StageError, match=r"teacher 'api'.*401.*DISTILL_TEST_API_KEY") as caught:
            asyncio.run(teacher(kind, api.url).open())
        with pytest.raises(StageError, match="401"):
            ask(teacher(kind, api.url))
    assert len(api.calls) == 1
    assert KEY not in str(caught.value)


@both_protocols
@pytest.mark.parametrize("status", [200, 404, 405])
def test_a_server_without_the_free_route_is_fine(teacher, kind, status):
    with misbehaving_api.serve(Faults(models_status=status)) as api:
        asyncio.run(teacher(kind, api.url).open())
    assert api.calls == []


@both_protocols
def test_an_address_where_nobody_answers_is_named_before_the_first_paid_call(teacher, kind):
    with pytest.raises(StageError, match=r"ConnectError.* base_url http://127.0.0.1:9"):
        asyncio.run(teacher(kind, "http://127.0.0.1:9", attempts=1).open())


@pytest.mark.parametrize(
    ("status", "error", "exception"),
    [
        (400, {"message": "bad field"}, ApiError),
        (422, {"message": "bad field"}, ApiError),
        (400, {"message": "This model's maximum context length is 1024 tokens."}, PromptTooLong),
        (400, {"message": "too many", "code": "context_length_exceeded"}, PromptTooLong),
        (400, {"message": "prompt is too long: 205000 tokens > 200000 maximum"}, PromptTooLong),
        (413, {"message": "request too large"}, PromptTooLong),
        (402, {"message": "Insufficient Balance"}, StageError),
        (403, {"message": "not for you"}, StageError),
        (404, {"message": "no such model"}, StageError),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, StageError),
    ],
    ids=lambda value: str(value)[:40],
)
@both_protocols
def test_what_trying_again_does_not_change_is_said_once(teacher, kind, status, error, exception):
    with (
        misbehaving_api.serve(answer=replying(status, {"type": "error", "error": error})) as api,
        pytest.raises(exception, match=f"{status}: {error['message']}"),
    ):
        ask(teacher(kind, api.url))
    assert len(api.calls) == 1


@both_protocols
def test_once_something_was_answered_a_403_is_about_its_prompt(teacher, kind):
    def moderated(path, body):
        if "forbidden" in body["messages"][-1]["content"]:
            return 403, {"type": "error", "error": {"message": "moderation"}}
        return misbehaving_api.answer(path, body)

    with misbehaving_api.serve(answer=moderated) as api:
        engine = teacher(kind, api.url)

        async def run():
            first = await engine.generate(Conversation(CONVERSATION), ONCE)
            with pytest.raises(ApiError, match="403: moderation"):
                await engine.generate(
                    Conversation([{"role": "user", "content": "forbidden"}]), ONCE
                )
            return first, await engine.generate(Conversation(CONVERSATION), ONCE)

        first, last = asyncio.run(run())
    assert first.text == last.text == "echo: What is 2 + 3?"


def test_half_a_character_is_replaced(teacher):
    with misbehaving_api.serve(
        answer=replying(200, openai_reply({"content": "a\ud83db", "reasoning": "\ud83d"}))
    ) as api:
        answer = ask(teacher("openai", api.url))
    assert (answer.text, answer.reasoning) == ("a?b", "?")


@both_protocols
def test_tries_that_may_have_been_charged_are_counted(teacher, kind):
    with misbehaving_api.serve(Faults(cut=0.3, error=0.1)) as api:
        answers = ask_all(teacher(kind, api.url, attempts=50), 12)
    assert sum(answer.lost_tries for answer in answers) == len(api.statuses(-2)) > 1


def fails(engine, prompt):
    with pytest.raises(ApiError) as caught:
        ask(engine, prompt)
    return caught.value


@both_protocols
def test_neither_key_nor_prompt_is_in_an_error_or_a_log(teacher, kind, caplog):
    canary = "the canary sings at midnight"
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Please say: {canary}"},
    ]
    caplog.set_level(logging.DEBUG)

    def echo(path, body):
        return 400, {
            "error": {"message": f"bad input {body['messages'][-1]['content']} from key {KEY}"}
        }

    with misbehaving_api.serve(Faults(error=0.5), answer=echo) as api:
        caught = [fails(teacher(kind, api.url, attempts=1), prompt) for _ in range(6)]
    assert {call.status for call in api.calls} == {400, 500}
    said = "(the message repeats the prompt)"
    assert {str(error) for error in caught} == {
        f"BadRequestError 400: {said}",
        f"InternalServerError 500: {said}",
    }
    assert all(error.__suppress_context__ for error in caught)
    for text in (canary, KEY):
        assert text not in caplog.text


def test_the_key_is_masked_where_a_server_repeats_it(teacher):
    with misbehaving_api.serve(
        answer=replying(400, {"error": {"message": f"key {KEY} may not do this"}})
    ) as api:
        assert (
            str(fails(teacher("openai", api.url), CONVERSATION))
            == "BadRequestError 400: key *** may not do this"
        )


@pytest.mark.parametrize(
    "spell",
    [
        str.upper,
        lambda key: quote(key, safe=""),
        lambda key: key.replace("/", "\\/"),
        html.escape,
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: key[:14] + "...",
        lambda key: key.replace("/", "\\u002f"),
    ],
    ids=["upper", "percent", "json", "html", "base64", "begun", "unicode"],
)
def test_the_key_is_masked_however_it_is_spelled(teacher, monkeypatch, spell):
    key = "sk-canary/of+the=key&more"
    monkeypatch.setattr(misbehaving_api, "KEY", key)
    monkeypatch.setenv("DISTILL_TEST_API_KEY", key)
    with misbehaving_api.serve(
        answer=replying(400, {"error": f"key {spell(key)} may not do this"})
    ) as api:
        said = str(fails(teacher("openai", api.url), CONVERSATION))
    assert "may not do this" in said
    assert "***" in said
    assert not re.search(r"canary|c2stY2FuYX", said, re.IGNORECASE)


@pytest.mark.parametrize("status", [403, 429, 500, 503, 504])
def test_a_list_of_models_that_fails_is_asked_once_and_says_nothing_of_the_pace(
    teacher, status, caplog
):
    with misbehaving_api.serve(Faults(models_status=status)) as api:
        engine = teacher("openai", api.url)
        asyncio.run(asyncio.wait_for(engine.open(), 10))
        assert engine.figures()["concurrency"] == engine._teacher.concurrency
    assert "its models cannot be listed" in caplog.text


# Tools


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLED = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Ely"}},
}
TOOL_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Ely?"},
    {"role": "assistant", "content": "", "tool_calls": [CALLED]},
    {"role": "tool", "content": "20", "tool_call_id": "call00001", "name": "weather"},
    {"role": "user", "content": "And Cambridge?"},
]
WANTED = [{"name": "weather", "arguments": {"city": "Cambridge"}}]


def openai_calls(arguments, **choice):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return openai_reply(
        {"content": None, "tool_calls": [call]}, finish_reason="tool_calls", **choice
    )


THOUGHT = [
    {"type": "thinking", "thinking": "2 and 3 are 5", "signature": "s"},
    {"type": "text", "text": "5"},
    {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Ely"}},
]
SURE = position("token_id:7", -0.5, ("token_id:7", -0.5), ("token_id:3", -1.5))


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("openai", openai_reply({"reasoning_content": "2 and 3 are 5"})),
        ("openai", openai_calls('{"city": "Cambridge"}')),
        ("openai", openai_reply({"content": None, "refusal": "no"})),
        ("openai", openai_reply(logprobs={"content": [SURE]})),
        ("openai", openai_reply() | {"usage": None}),
        ("openai", {"choices": [], "usage": {}, "detail": "the model went away"}),
        ("anthropic", {"content": THOUGHT, "stop_reason": "max_tokens", "usage": {}}),
        ("anthropic", {"content": [], "usage": {"input_tokens": 9, "output_tokens": 4}}),
    ],
)
def test_a_reply_out_of_a_batch_is_read_as_the_one_that_comes_by_itself(teacher, kind, reply):
    """Text, reasoning, calls, signal and counts; what cannot be read, in the same words."""
    settings = {"top_k": 2 if "logprobs" in str(reply) else 0, "attempts": 1}
    prompt = Conversation(CONVERSATION)
    with misbehaving_api.serve(answer=replying(200, reply)) as api:
        engine = teacher(kind, api.url, **settings)
        try:
            live = ask(engine)
        except ApiError as error:
            with pytest.raises(ApiError, match=re.escape(str(error))):
                engine.answer_in(reply, prompt)
            return
    batched = engine.answer_in(reply, prompt)
    for name in ("text", "reasoning", "finish_reason", "calls", "prompt_tokens", "tokens"):
        assert getattr(batched, name) == getattr(live, name)
    for name in ("token_ids", "token_logprobs", "topk_ids", "topk_logprobs", "tail"):
        assert getattr(batched, name).tolist() == getattr(live, name).tolist()


def test_the_openai_protocol_is_told_of_tools_and_says_what_it_calls(teacher):
    reply = openai_calls('{"city": "Cambridge"}')
    with misbehaving_api.serve(answer=replying(200, reply)) as api:
        answer = ask(teacher("openai", api.url), TOOL_TURNS, tools=[WEATHER])
    assert (answer.text, answer.finish_reason, answer.calls) == ("", "tool_calls", WANTED)
    assert (answer.prompt_tokens, answer.tokens) == (9, 4)
    (call,) = api.calls
    assert call.body["tools"] == [WEATHER]
    *_, asked, result, _ = call.body["messages"]
    assert asked["tool_calls"] == [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Ely"}'},
        }
    ]
    assert result == {"role": "tool", "content": "20", "tool_call_id": "call00001"}


def test_the_anthropic_protocol_is_told_of_tools_in_its_own_blocks(teacher):
    reply = {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "content": [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Cambridge"}},
        ],
        "usage": {"input_tokens": 9, "output_tokens": 4},
    }
    with misbehaving_api.serve(answer=replying(200, reply)) as api:
        answer = ask(teacher("anthropic", api.url), TOOL_TURNS, tools=[WEATHER])
    assert (answer.text, answer.finish_reason, answer.calls) == (
        "Let me see.",
        "tool_calls",
        WANTED,
    )
    (call,) = api.calls
    assert call.body["tools"] == [
        {
            "name": "weather",
            "description": "Says the weather.",
            "input_schema": WEATHER["function"]["parameters"],
        }
    ]
    use = {"type": "tool_use", "id": "call00001", "name": "weather", "input": {"city": "Ely"}}
    assert call.body["messages"] == [
        {"role": "user", "content": "Ely?"},
        {"role": "assistant", "content": [use]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call00001", "content": "20"},
                {"type": "text", "text": "And Cambridge?"},
            ],
        },
    ]


def test_answers_of_several_tools_are_one_message_of_the_anthropic_protocol():
    two = [{**CALLED, "id": f"call{n:05d}"} for n in (1, 2)]
    results = [{"role": "tool", "content": "x", "tool_call_id": one["id"]} for one in two]
    turns = [{"role": "assistant", "content": "Both.", "tool_calls": two}, *results]
    said, answered = anthropic_messages(Conversation(turns))
    assert [block["type"] for block in said["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["tool_use_id"] for block in answered["content"]] == ["call00001", "call00002"]


@both_protocols
def test_without_tools_a_request_says_nothing_of_them(teacher, kind):
    with misbehaving_api.serve() as api:
        ask(teacher(kind, api.url))
    assert "tools" not in api.calls[0].body


@pytest.mark.parametrize("arguments", ['{"city": ', "Cambridge", "[1]"])
def test_arguments_that_are_no_json_are_kept_as_they_came(teacher, arguments):
    with misbehaving_api.serve(answer=replying(200, openai_calls(arguments))) as api:
        answer = ask(teacher("openai", api.url), tools=[WEATHER])
    assert answer.calls == [{"name": "weather", "arguments": arguments}]


def test_the_older_form_of_a_call_is_read(teacher):
    older = {"content": None, "function_call": {"name": "weather", "arguments": ""}}
    reply = openai_reply(older, finish_reason="function_call")
    with misbehaving_api.serve(answer=replying(200, reply)) as api:
        answer = ask(teacher("openai", api.url), tools=[WEATHER])
    assert (answer.finish_reason, answer.calls) == (
        "tool_calls",
        [{"name": "weather", "arguments": {}}],
    )


# A real server of both protocols

SUM = [
    {"role": "user", "content": "Tom has 12 apples and buys 7 more. How many apples has Tom now?"}
]
GREEDY = Sampling(0.0, 48)


@pytest.fixture
def quickstart(teacher, vllm_server):
    """Build a teacher for the real server."""
    return lambda kind, **settings: teacher(
        kind, vllm_server, model="quickstart", timeout_s=120.0, **settings
    )


@pytest.mark.slow
def test_a_real_server_answers_alike_in_both_protocols(quickstart):
    first, second = (
        ask(quickstart("openai"), SUM, GREEDY),
        ask(quickstart("anthropic"), SUM, GREEDY),
    )
    assert first.text.strip()
    assert (first.text, first.finish_reason, first.prompt_tokens, first.tokens) == (
        second.text,
        second.finish_reason,
        second.prompt_tokens,
        second.tokens,
    )
    assert ask(quickstart("anthropic"), SUM, Sampling(0.0, 3)).finish_reason == "length"


@pytest.mark.slow
def test_a_real_servers_top_logprobs_are_those_of_a_transformers_forward(quickstart):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    k, folder = 2, REPOSITORY / "jobs/quickstart/teacher"
    engine = quickstart("openai", top_k=k, extra_body={"return_tokens_as_token_ids": True})
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )
    prompt = tokenizer.apply_chat_template(SUM, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    answers = ask_all(engine, 6, SUM, [Sampling(2.0, 48, seed=seed) for seed in range(6)])
    outside = 0
    for answer in answers:
        ids = answer.token_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == answer.text
        assert (len(ids), len(prompt)) == (answer.completion_tokens, answer.prompt_tokens)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids.tolist()]])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, dim=-1)
        best = expected.topk(k)
        sampled = expected[torch.arange(len(ids)), torch.tensor(ids).long()]
        assert answer.token_logprobs == pytest.approx(sampled.numpy(), abs=1e-3, rel=1e-3)
        assert answer.topk_logprobs == pytest.approx(
            best.values.flatten().numpy(), abs=1e-3, rel=1e-3
        )
        at_ids = expected.gather(1, torch.tensor(answer.topk_ids).long().reshape(-1, k))
        assert answer.topk_logprobs == pytest.approx(at_ids.flatten().numpy(), abs=1e-3, rel=1e-3)
        assert answer.tail == pytest.approx(1 - best.values.exp().sum(1).numpy(), abs=2e-3)
        outside += int((sampled < best.values[:, -1]).sum())
    assert outside > 0  # the server then lists the sampled token in place of the k-th


@pytest.mark.slow
def test_a_real_server_gives_texts_where_ids_are_not_asked_for(quickstart):
    answer = ask(quickstart("openai", top_k=4), SUM, GREEDY)
    assert (
        len(answer.topk_tokens)
        == len(answer.topk_logprobs)
        == 4 * len(answer.tail)
        == 4 * len(answer.token_logprobs)
    )
    assert answer.text.startswith(answer.topk_tokens[0])
    assert len(answer.token_ids) == 0


@pytest.mark.slow
def test_a_real_server_draws_the_same_from_the_same_seed(quickstart):
    texts = [
        ask(quickstart("openai"), SUM, Sampling(1.5, 48, seed=seed)).text for seed in (1, 1, 2, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@pytest.mark.slow
@both_protocols
def test_a_real_servers_errors_are_understood(quickstart, teacher, vllm_server, kind):
    asyncio.run(quickstart(kind).open())
    with pytest.raises(PromptTooLong, match="maximum context length"):
        ask(quickstart(kind), [{"role": "user", "content": "1 + " * 3000}], GREEDY)
    with pytest.raises(StageError, match=r"404.*model 'no-such-model'"):
        ask(teacher(kind, vllm_server, model="no-such-model"), SUM, GREEDY)
    with pytest.raises(ApiError, match="400"):
        ask(quickstart(kind, extra_body={"temperature": -3}), SUM, GREEDY)
