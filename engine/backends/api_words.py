"""What servers say in words, whatever shape they say it in: text, reasoning and ending of an
answer, the sentence of an error, and what of that may stand in a log.

Nothing here knows a vendor's client; numbers of an answer are read in api_signal.py.
"""

from __future__ import annotations

import base64
import html
import json
import re
from typing import Any
from urllib.parse import quote, quote_plus

from engine.rows.tools import Conversation

ECHO = 20  # characters in a row, of the prompt, that make a server's message unfit for a log
KEY_START = 8  # characters of a key that give it away
_SAYING = (
    "error",
    "message",
    "msg",
    "detail",
    "details",
    "errors",
    "error_message",
    "error_description",
    "error_msg",
    "title",
    "reason",
    "metadata",
    "raw",
    "base_resp",
    "status_msg",
)
_PAGE = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)
_UNSEEN = re.compile(r"<(style|script)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
# What servers of either protocol say of an ending, in small letters -> OpenAI's word for it.
_REASONS = {
    **dict.fromkeys(
        (
            "stop",
            "eos",
            "eos_token",
            "stop_sequence",
            "end_turn",
            "end_of_turn",
            "complete",
            "completed",
            "finish",
        ),
        "stop",
    ),
    **dict.fromkeys(
        (
            "length",
            "max_tokens",
            "max_length",
            "model_length",
            "max_output_tokens",
            "max_new_tokens",
            "token_limit",
            "model_context_window_exceeded",
        ),
        "length",
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(
        (
            "content_filter",
            "refusal",
            "safety",
            "content-filter",
            "prohibited_content",
            "blocklist",
        ),
        "content_filter",
    ),
}


class ApiError(Exception):
    """A request without an answer: type, status and the server's words, as far as they do not
    repeat the prompt."""

    lost_tries: int = 0
    lost_tokens: tuple[int, int] = (0, 0)
    """What the request was charged: the caller may count it, whatever the request came to."""


# An answer


def reason_of(ending: Any) -> str:
    """OpenAI's word for how an answer ended; a word that nobody knows stays as it is."""
    if isinstance(ending, dict):
        words = [ending.get("type"), ending.get("reason")]
        ending = next((word for word in words if isinstance(word, str)), ending)
    return _REASONS.get(str(ending).lower(), str(ending))


def parts_of(content: Any) -> tuple[str, str | None, bool]:
    """Text and reasoning of a message's content, and whether it refuses: a string, or parts, of
    which some are the model's thinking."""
    said: dict[bool, list[str]] = {False: [], True: []}
    refusals = []

    def read(part: Any, thinks: bool) -> None:
        if isinstance(part, str):
            said[thinks].append(part)
        elif isinstance(part, list):
            for one in part:
                read(one, thinks)
        elif isinstance(part, dict):
            thinks = thinks or part.get("type") in ("thinking", "reasoning")
            for name in ("thinking", "reasoning", "summary"):
                read(part.get(name), True)
            for name in ("text", "content", "value"):
                read(part.get(name), thinks)
            refusals.append(part.get("refusal"))
        elif part is not None:
            raise ApiError(f"the answer's content holds a part of type {type(part).__name__}")

    read(content, False)
    return "".join(said[False]), "".join(said[True]) or None, any(refusals)


def text_of(content: Any) -> str | None:
    """All text of a content, thinking or not."""
    text, thought, _ = parts_of(content)
    return (thought or "") + text or None


def storable(text: str | None) -> str | None:
    """Half of a surrogate pair, which JSON may hold and Parquet may not, becomes a question
    mark."""
    return text and text.encode(errors="replace").decode()


# An error


def words_of(body: Any) -> str:
    """The sentence in a server's error, whatever its shape: OpenAI's, a list of errors, FastAPI's
    `detail`, a string, plain text."""
    if isinstance(body, str):
        return _words_of_text(body)
    if isinstance(body, list):
        return "; ".join(filter(None, map(words_of, body)))
    if isinstance(body, dict):
        return _words_of_fields(body)
    return ""


def _words_of_text(body: str) -> str:
    try:
        return words_of(json.loads(body))
    except ValueError:
        return _text_of_page(body) if is_page(body) else body.strip()


def _words_of_fields(body: dict[str, Any]) -> str:
    sentences = [words_of(body.get(name)) for name in _SAYING]
    told = []
    for words in dict.fromkeys(filter(None, sentences)):
        # A sentence that another one repeats, or a mere code beside one, is left out.
        if not any(words != other and words in other for other in sentences):
            told.append(words)
    if not told:
        return json.dumps(body) if body else ""
    where = body.get("loc")
    place = ".".join(map(str, where)) + ": " if isinstance(where, list) else ""
    return place + "; ".join(told)


def is_page(text: str) -> bool:
    """Whether it is HTML: a proxy's page where an answer should be."""
    return bool(_PAGE.search(text))


def _text_of_page(page: str) -> str:
    """What a person would read of an HTML page."""
    text = re.sub(r"<[^>]*>", " ", _UNSEEN.sub(" ", page))
    return " ".join(html.unescape(text).split())


# What may be shown


def without_key(message: str, key: str) -> str:
    """The message without the key, however it is spelled there, whole or begun."""
    for spelled in sorted(_spellings(key), key=len, reverse=True):
        pattern = re.escape(spelled)
        if len(spelled) > KEY_START:
            pattern = re.escape(spelled[:KEY_START]) + r"[^\s\"'<>,;]*"
        message = re.sub(pattern, "***", message, flags=re.IGNORECASE)
    return message


def _spellings(key: str) -> set[str]:
    in_json = json.dumps(key)[1:-1]
    in_base64 = base64.b64encode(key.encode()).decode().rstrip("=")
    in_url = quote(key, safe="")
    in_html = html.escape(key)
    with_slashes = key.replace("/", "\\/")
    spellings = {key, in_url, quote_plus(key), in_html, in_json, in_base64, with_slashes}
    for form in ("\\u{:04x}", "&#{};", "&#x{:x};"):
        spellings.add(_with_marks_as(form, key))
    return spellings


def _with_marks_as(form: str, key: str) -> str:
    """The key with all but its letters and digits in the form of an escape."""
    written = ""
    for character in key:
        written += character if character.isalnum() else form.format(ord(character))
    return written


def echoes(message: str, prompt: Conversation) -> bool:
    """Whether a server's message repeats what it was asked: a run of it, or a short turn in
    quotes."""
    runs = [message[start : start + ECHO] for start in range(len(message) - ECHO + 1)]
    for turn in prompt.messages:
        text = str(turn["content"]).strip()
        if len(text) >= ECHO:
            if any(run in text for run in runs):
                return True
        elif text and re.search(rf"[\"'`]{re.escape(text)}[\"'`]", message):
            return True
    return False
