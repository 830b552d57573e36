"""Short prompts become tokens at once.

vLLM hands the template and the tokenizer to a thread, which keeps its event loop free while a long
prompt is read. Of a short one the two hand-overs take longer than the work: on two cores with eight
requests open it is 4.0 ms from a request's arrival to the engine (mean), with them 5.1;
benchmarks/serving has what becomes of the first token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHORT = 4096  # characters: about a millisecond of work


def render_at_once(renderer: Any) -> None:
    """Of a vLLM renderer: short prompts need no thread any more. One that is not transformers' own
    keeps its way from a conversation to a prompt."""
    tokenize_in_thread = renderer._tokenize_prompt_async

    async def tokenize(prompt: Mapping[str, Any], params: Any) -> Any:
        if len(prompt["prompt"]) > SHORT:
            return await tokenize_in_thread(prompt, params)
        return renderer._tokenize_prompt(prompt, params)

    renderer._tokenize_prompt_async = tokenize

    from vllm.renderers import hf

    if not isinstance(renderer, hf.HfRenderer):
        return
    apply_at_once: Any = hf.safe_apply_chat_template
    apply_in_thread = renderer._apply_chat_template_async

    async def apply(
        model_config: Any, tokenizer: Any, conversation: Sequence[Mapping[str, Any]], **options: Any
    ) -> Any:
        if not _is_short(conversation) or options.get("tools"):
            return await apply_in_thread(model_config, tokenizer, conversation, **options)
        return apply_at_once(model_config, tokenizer, conversation, **options)

    renderer._apply_chat_template_async = apply


def _is_short(conversation: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it is text alone, and little of it."""
    size = 0
    for message in conversation:
        if message.keys() != {"role", "content"} or not isinstance(message["content"], str):
            return False
        size += len(message["content"])
    return size <= SHORT
