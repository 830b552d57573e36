"""Short prompts become tokens where they are, long ones in vLLM's thread, and all become the tokens
that vLLM's own renderer makes of them."""

import asyncio

import pytest
from conftest import REPOSITORY

from engine.backends.vllm_prompts import SHORT, render_at_once

pytestmark = pytest.mark.slow
TEACHER = str(REPOSITORY / "jobs/quickstart/teacher")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
AT_ONCE, ONE_IN_THREAD, BOTH_IN_THREAD = 0, 1, 2  # of the template and the tokenizer


class Rendered:
    """vLLM's renderer of the quickstart's teacher, and how often it hands work to its thread."""

    def __init__(self, config):
        from vllm.renderers import renderer_from_config

        self.renderer = renderer_from_config(config)
        self.handed_over = 0
        self._submit = self.renderer._executor.submit
        self.renderer._executor.submit = self._count

    def _count(self, *work, **options):
        self.handed_over += 1
        return self._submit(*work, **options)

    def tokens(self, messages, **template):
        """Those of a conversation, and how many hand-overs it took."""
        from vllm.renderers import ChatParams, TokenizeParams

        before = self.handed_over
        chat = ChatParams(
            chat_template=None,
            chat_template_content_format="auto",
            chat_template_kwargs={"add_generation_prompt": True, "tokenize": False} | template,
        )
        params = TokenizeParams(max_total_tokens=100_000)

        async def render():
            _, prompt = await self.renderer.render_messages_async(messages, chat)
            return await self.renderer.tokenize_prompt_async(prompt, params)

        found = asyncio.run(render())["prompt_token_ids"]
        return found, self.handed_over - before


@pytest.fixture(scope="module")
def config():
    from vllm import AsyncEngineArgs

    return AsyncEngineArgs(model=TEACHER, dtype="float32").create_engine_config()


@pytest.fixture
def own(config):
    return Rendered(config)


@pytest.fixture
def ours(config):
    made = Rendered(config)
    render_at_once(made.renderer)
    return made


def say(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("messages", "template", "handed_over"),
    [
        (say("What is 12 + 30?"), {}, AT_ONCE),
        ([*say("2 + 2?"), {"role": "assistant", "content": "4"}, *say("wörld 🎉")], {}, AT_ONCE),
        (say("1 + " * (SHORT // 4)), {}, ONE_IN_THREAD),
        (say("1 + " * SHORT), {}, BOTH_IN_THREAD),
        (say("short"), {"tools": [TOOL]}, ONE_IN_THREAD),
    ],
    ids=["short", "several turns", "longer by its template", "long", "tools"],
)
def test_tokens_are_those_of_vllm(own, ours, messages, template, handed_over):
    expected, before = own.tokens(messages, **template)
    assert before == BOTH_IN_THREAD
    assert ours.tokens(messages, **template) == (expected, handed_over)


def test_a_conversation_that_the_template_refuses_is_refused_alike(own, ours):
    from vllm.exceptions import VLLMValidationError

    refused = []
    for each in (own, ours):
        with pytest.raises(VLLMValidationError, match="no") as raised:
            each.tokens(say("hi"), chat_template="{{ raise_exception('no') }}")
        refused.append(str(raised.value))
    assert refused[0] == refused[1]
