"""What the front says by itself: HTTP replies with errors in OpenAI's shape, without a word of
internals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

JSON = "application/json"
# status -> OpenAI's (type, code)
_KINDS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "overloaded"),
    431: ("invalid_request_error", "headers_too_large"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    505: ("invalid_request_error", "http_version"),
}
RETRY_AFTER_S = 1


class Refusal(Exception):
    """A request that is answered with an error: HTTP status, and what the client should know."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def refusal(
    status: int,
    message: str,
    code: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    close: bool = False,
) -> bytes:
    """A whole HTTP reply with an error; 429 and 503 say when to come again, 401 by which scheme."""
    headers = dict(headers or {})
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return reply(status, error_body(status, message, code), headers=headers, close=close)


def error_body(status: int, message: str, code: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    kind, usual = _KINDS[status]
    error = {"message": message, "type": kind, "param": None, "code": code or usual}
    return json.dumps({"error": error}).encode()


def error_event(message: str) -> bytes:
    """One chunk of a stream that ends badly: an error event, which clients raise, and the end."""
    event = b"data: " + error_body(500, message, "stream_cut") + b"\n\n"
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)


def reply(
    status: int,
    body: bytes = b"",
    *,
    kind: str = JSON,
    headers: Mapping[str, str] | None = None,
    close: bool = False,
) -> bytes:
    """A whole HTTP reply."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if status != 204:
        lines += [f"content-type: {kind}", f"content-length: {len(body)}"]
    if close:
        lines.append("connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
