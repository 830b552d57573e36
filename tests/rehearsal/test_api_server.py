"""The local server in place of APIs, asked by our own teachers."""

import asyncio
import re

import numpy as np
import pytest

from engine.asking.engine import Sampling
from engine.backends.api_teacher import AnthropicTeacher, OpenAITeacher
from engine.errors import StageError
from engine.job.spec import AnthropicTeacherSpec, CaptureSpec, OpenAITeacherSpec
from engine.rehearsal import api_server
from engine.rows.judging import questions
from engine.rows.judging.choices import read_choice
from engine.rows.judging.grades import read_grade
from engine.rows.tools import Conversation

QUESTION = [{"role": "user", "content": "How many boats are there?"}]
KINDS = {
    "openai": (OpenAITeacherSpec, OpenAITeacher),
    "anthropic": (AnthropicTeacherSpec, AnthropicTeacher),
}


@pytest.fixture(scope="module")
def url():
    with api_server.answering() as address:
        yield address


@pytest.fixture
def ask(url, monkeypatch):
    """Ask the server as a teacher of a job does."""

    def ask(kind, messages=QUESTION, *, key=api_server.KEY, top_k=0, **fields):
        monkeypatch.setenv("DISTILL_TEST_API_KEY", key)
        block, teacher = KINDS[kind]
        fields["base_url"] = f"{url}/v1" if kind == "openai" else url
        spec = block(name="t", model="m", api_key_env="DISTILL_TEST_API_KEY", **fields)
        capture = CaptureSpec(top_k=top_k)
        engine = teacher(spec, capture, device="cpu", timeout_s=20.0, attempts=2)

        async def run():
            async with engine._client:
                await engine.open()
                prompt = engine.encode([Conversation(messages)])[0]
                return await engine.generate(prompt, Sampling(0.0, 16))

        return asyncio.run(run())

    return ask


@pytest.mark.parametrize("kind", KINDS)
def test_both_protocols_answer_with_usage(ask, kind):
    answer = ask(kind)
    assert answer.text == "You say: How many boats are there?"
    assert answer.finish_reason == "stop"
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 7)


def test_signal_comes_where_it_is_captured(ask):
    answer = ask("openai", top_k=3)
    assert answer.topk_tokens[:2] == ["You", "You1"]
    probabilities = np.exp(answer.topk_logprobs.reshape(-1, 3))
    assert probabilities == pytest.approx(np.tile([0.5, 0.25, 0.125], (7, 1)), abs=1e-4)
    assert answer.tail == pytest.approx(np.full(7, 0.125), abs=1e-4)
    ids = ask("openai", top_k=3, extra_body={"return_tokens_as_token_ids": True})
    assert ids.topk_ids.reshape(-1, 3).tolist() == [[0, 1, 2]] * 7
    assert ask("openai").topk_tokens == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_of_a_real_api_is_not_taken(ask, kind):
    with pytest.raises(StageError, match=re.escape("takes its own key")):
        ask(kind, key="sk-of-somebody")


@pytest.mark.parametrize("kind", KINDS)
def test_a_judge_finds_a_verdict(ask, kind):
    compared = questions.compare("Be kind.", QUESTION, "two", "three")
    assert read_choice(ask(kind, compared.messages).text) == "tie"
    graded = questions.grade("Be kind.", QUESTION, "two", [2, 5])
    assert read_grade(ask(kind, graded.messages).text, [2, 5]) == 2
