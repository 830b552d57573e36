import asyncio

import pytest
from doubles import misbehaving_api

from engine.backends.lm_eval_asking import ApiAsking
from engine.errors import StageError
from engine.job.spec import AnthropicTeacherSpec, OpenAITeacherSpec, SamplingSpec

PRICES = {"input": 1000.0, "output": 2000.0}
ANSWER_USD = (9 * 1000 + 4 * 2000) / 1e6
MESSAGES = [{"role": "user", "content": "What is 2 plus 1?"}]


@pytest.fixture(params=[OpenAITeacherSpec, AnthropicTeacherSpec])
def ask(request, monkeypatch):
    """Ask an API of either protocol once: what came of it, the call, and what it cost."""
    monkeypatch.setenv("DISTILL_TEST_API_KEY", misbehaving_api.KEY)

    def asked(limit_usd=None):
        with misbehaving_api.serve() as api:
            version = "/v1" if request.param is OpenAITeacherSpec else ""
            teacher = request.param(
                name="api",
                model="m",
                base_url=f"{api.url}{version}",
                api_key_env="DISTILL_TEST_API_KEY",
                system="Be brief.",
                prices=PRICES,
            )

            async def once():
                asking = await ApiAsking.opened(teacher, limit_usd, 0.0)
                sampling = SamplingSpec(temperature=0.0, max_tokens=40)
                finished = await asking.ask(0, 7, MESSAGES, sampling)
                asking.require_all()
                return finished, asking.budget.spent_usd

            finished, spent_usd = asyncio.run(once())
            (call,) = api.calls
            return finished, call, spent_usd

    return asked


def test_a_conversation_is_answered_and_paid_for(ask):
    finished, call, spent_usd = ask()
    assert finished.generation.text == "echo: What is 2 plus 1?"
    assert "Be brief." in str(call.body)
    assert spent_usd == pytest.approx(ANSWER_USD)


def test_what_an_answer_may_cost_is_set_aside_before_it_is_asked_for(ask):
    """The answer itself would fit; forty tokens and the conversation do not."""
    with pytest.raises(StageError, match="max_cost_usd is used up"):
        ask(limit_usd=ANSWER_USD * 2)
