"""How the models of each known family are spoken to: their marks, and which template lays a
conversation out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Chat:
    """How the models of one tokenizer are spoken to. `opens` stands before every text, where the
    tokenizer puts it there itself; pieces fall back to bytes, as SentencePiece's do."""

    template: str
    ends: str
    pads: str
    marks: tuple[str, ...]
    begins: str | None = None
    opens: bool = False
    kind: Literal["bytes", "pieces"] = "bytes"


_CHATML = Chat("chatml", "<|im_end|>", "<|endoftext|>", ("<|im_start|>",))
_PHI_MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>", "<|/tool|>")
_PHI_3 = Chat("phi-3", "<|endoftext|>", "<|endoftext|>", _PHI_MARKS, "<s>", kind="pieces")
_MISTRAL_MARKS = (
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
_MISTRAL = Chat("mistral", "</s>", "</s>", _MISTRAL_MARKS, "<s>", opens=True, kind="pieces")
_LLAMA_MARKS = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|python_tag|>")
_DEEPSEEK_MARKS = (
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
)
_GPT_OSS_MARKS = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>", "<|constrain|>")

# By the name of a row of engine/machines/tiny_models.py.
CHATS: dict[str, Chat] = {
    "DeepSeek-V3": Chat(
        "deepseek-v3",
        "<｜end▁of▁sentence｜>",
        "<｜▁pad▁｜>",
        _DEEPSEEK_MARKS,
        "<｜begin▁of▁sentence｜>",
        opens=True,
    ),
    "Llama-3.1": Chat(
        "llama-3",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
        _LLAMA_MARKS,
        "<|begin_of_text|>",
        opens=True,
    ),
    "Phi-3-mini-4k": _PHI_3,
    "Phi-3.5-mini": _PHI_3,
    "Phi-4-mini": Chat("phi-4-mini", "<|endoftext|>", "<|endoftext|>", _PHI_MARKS),
    "Qwen3 MoE": _CHATML,
    "Qwen3": _CHATML,
    "Gemma 3": Chat(
        "gemma-3",
        "<end_of_turn>",
        "<pad>",
        ("<start_of_turn>", "<eos>"),
        "<bos>",
        opens=True,
        kind="pieces",
    ),
    "Mistral-7B-v0.1": _MISTRAL,
    "Mistral-7B-v0.3": _MISTRAL,
    "gpt-oss": Chat("gpt-oss", "<|return|>", "<|endoftext|>", _GPT_OSS_MARKS),
    "OLMo-2": Chat("olmo-2", "<|endoftext|>", "<|pad|>", _PHI_MARKS[:3], "<|endoftext|>"),
    "OLMo-3": Chat("chatml", "<|im_end|>", "<|pad|>", ("<|im_start|>", "<|endoftext|>")),
}
