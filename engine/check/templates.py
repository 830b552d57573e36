"""Chat templates of local folders, rendered as transformers does it, which takes too long to import
here.

Only what `check` asks of them: whether they show tools. Jinja takes its time too, so only a job
with tools comes here.
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.check.models import chat_templates
from engine.rows.tools import Conversation

# A tag of transformers that marks the assistant's turns and writes nothing.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


class _Refused(TemplateError):
    """The template's own word that it does not take a conversation."""


def ignores_tools(folder: Path, conversation: Conversation) -> str | None:
    """What the folder's template does in place of showing what tools add to a conversation, as the
    end of a sentence; None where it shows it, or only transformers can tell."""
    if not folder.is_dir():
        return None
    templates = chat_templates(folder)
    template = templates.get("tool_use") or templates.get("default")
    if template is None:
        return "has no chat template"
    plain = [{"role": m["role"], "content": m["content"]} for m in conversation.messages]
    try:
        shown = _rendered(template, conversation.messages, conversation.tools or None)
    except _Refused as error:
        roles = ", ".join(message["role"] for message in plain)
        return f"has a chat template that refuses a conversation of {roles} ({error})"
    except (TemplateError, TypeError):
        return None
    try:
        is_same = shown == _rendered(template, plain, None)
    except (TemplateError, TypeError):  # a turn of a tool that answers nothing
        return None
    if is_same:
        return "has a chat template that leaves them out: with and without them it writes the same"
    return None


def _rendered(template: str, messages: list[Any], tools: list[Any] | None) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    own: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.update(own)
    compiled = environment.from_string(_GENERATION.sub("", template))
    return compiled.render(
        messages=messages, tools=tools, add_generation_prompt=True, bos_token="", eos_token=""
    )


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
