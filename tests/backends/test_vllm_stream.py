"""Our plain streams are vLLM's own, byte for byte; its generator runs on made-up outputs."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from engine.backends.vllm_stream import make_lean

pytestmark = pytest.mark.slow
TEXTS = ["", "He", 'l"lo\n', "\\ \t\x07", "wörld 🎉", "\u2028</script>", "", " end"]


@pytest.fixture(scope="module")
def serving_chat():
    """vLLM's class with what its generator of events reads, and no engine."""
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

    def make(**changes):
        chat = OpenAIServingChat.__new__(OpenAIServingChat)
        known = {
            "parser_cls": None,
            "enable_log_outputs": False,
            "enable_force_include_usage": False,
            "enable_prompt_tokens_details": False,
            "enable_per_request_metrics": False,
            "_include_reasoning_tokens_details": False,
            "system_fingerprint": "print",
            "request_logger": None,
            "response_role": "assistant",
            "log_error_stack": False,
        }
        for name, value in (known | changes).items():
            setattr(chat, name, value)
        return chat

    return make


def outputs(texts, *, fails=False):
    from vllm.outputs import CompletionOutput, RequestOutput

    async def generate():
        for number, text in enumerate(texts):
            last = number == len(texts) - 1
            output = CompletionOutput(
                index=0,
                text=text,
                token_ids=[number, number + 1] if text else [],
                cumulative_logprob=None,
                logprobs=None,
                finish_reason="stop" if last and not fails else None,
                stop_reason=7 if last else None,
            )
            yield RequestOutput("r", "prompt", [1, 2, 3], None, [output], last)
        if fails:
            raise ValueError("a planted fault")

    return generate()


def events(chat, texts, *, fails=False, **asked):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    messages = [{"role": "user", "content": "hi"}]
    request = ChatCompletionRequest(model="m", messages=messages, stream=True, **asked)
    metadata = SimpleNamespace(final_usage_info=None)

    async def collect():
        made = chat.chat_completion_stream_generator(
            request, outputs(texts, fails=fails), "chatcmpl-1", "m", [], None, metadata
        )
        return [event async for event in made]

    return asyncio.run(collect()), metadata.final_usage_info


@pytest.fixture(autouse=True)
def one_second(monkeypatch):
    """Events hold the second in which their stream began."""
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)


CASES = {
    "plain": {},
    "with usage": {"stream_options": {"include_usage": True}},
    "continuous usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "token ids": {"return_token_ids": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("length", [1, 2, 3, len(TEXTS)])
@pytest.mark.parametrize("fails", [False, True])
def test_the_bytes_are_vllms_own(serving_chat, case, length, fails):
    texts = TEXTS[-length:]
    plain = serving_chat()
    lean = serving_chat()
    make_lean(lean)
    seen = events(lean, texts, fails=fails, **CASES[case])
    assert seen == events(plain, texts, fails=fails, **CASES[case])
    assert len(seen[0]) >= 3
    assert ("planted fault" in "".join(seen[0])) == fails


def test_only_the_ends_of_a_plain_stream_are_made_by_vllm(serving_chat, monkeypatch):
    from vllm.entrypoints.openai.chat_completion import serving

    made = itertools.count()
    own = serving.ChatCompletionStreamResponse

    def counting(**fields):
        next(made)
        return own(**fields)

    monkeypatch.setattr(serving, "ChatCompletionStreamResponse", counting)
    lean = serving_chat()
    make_lean(lean)
    seen, _ = events(lean, ["word"] * 50 + ["end"])
    assert len(seen) == 1 + 51 + 1  # the role, the texts, [DONE]
    assert next(made) == 3  # the role, the first text, the last one
