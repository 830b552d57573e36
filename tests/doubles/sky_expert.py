"""An expert behind OpenAI's protocol who greets, asks a tool for the sky over a city and says it;
and a chat template in which a tiny student can learn that."""

from __future__ import annotations

import json
from typing import Any

from doubles.misbehaving_api import completion

CITIES = ("Ely", "Bath", "York", "Hull", "Leeds", "Derby", "Truro", "Ripon")
NAMES = ("Ann", "Ben", "Cy", "Di", "Ed", "Flo")
WEATHER = {
    "type": "function",
    "function": {
        "name": "sky",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# Hermes' way of writing calls, in the words of the quickstart's template.
TEMPLATE = """\
{%- if tools -%}
{{- '<|im_start|>system' -}}
{%- for tool in tools -%}{{- '\\n' + tool.function.name -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def expert(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """An API that answers as the dialogues do."""
    asked = body["messages"][-1]["content"]
    message: dict[str, Any] = {"role": "assistant", "content": None}
    city = next(
        (city for city in CITIES for turn in body["messages"][-3:] if city in str(turn["content"])),
        None,
    )
    if body["messages"][-1]["role"] == "tool":
        message["content"] = f"It is {asked} in {city}."
    elif city:
        arguments = json.dumps({"city": city})
        call = {"id": "c", "type": "function", "function": {"name": "sky", "arguments": arguments}}
        message["tool_calls"] = [call]
    else:
        name = next(name for name in NAMES if name in asked)
        message["content"] = f"Hello, {name}."
    return 200, completion(body["model"], message)
