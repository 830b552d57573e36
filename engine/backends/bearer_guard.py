"""A bearer key on every route of an endpoint: an ASGI layer for our ingress, and around Serve's
HTTP proxy as well.

The proxy's own `/-/` routes never reach an ingress. Only the key's sha256 leaves the driver's
process. The module stays
light: Serve gives a proxy seconds to import it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

KEY_VARIABLE = "DISTILL_KEY_SHA256"
PROXY_HOOK = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "engine.backends.bearer_guard.proxy_middlewares"
}


class BearerGuard:
    """ASGI layer: 401 unless `Authorization: Bearer` carries the key whose sha256 (hex) it was
    given."""

    def __init__(self, app: ASGIApp, key_sha256: str) -> None:
        self._app = app
        self._key_sha256 = key_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._admits(dict(scope["headers"])):
            await self._app(scope, receive, send)
            return
        error = {
            "message": "missing or wrong API key",
            "type": "invalid_request_error",
            "code": "invalid_api_key",
        }
        refusal = JSONResponse({"error": error}, 401, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)

    def _admits(self, headers: Mapping[bytes, bytes]) -> bool:
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = hashlib.sha256(key.strip()).hexdigest()
        return kind.lower() == b"bearer" and hmac.compare_digest(given, self._key_sha256)


def proxy_middlewares() -> list[Middleware]:
    """Serve calls this in each HTTP proxy (see PROXY_HOOK)."""
    key_sha256 = os.environ.get(KEY_VARIABLE)
    if not key_sha256:
        return []
    return [Middleware(BearerGuard, key_sha256=key_sha256)]


def key_environment(key: str | None) -> dict[str, str]:
    """Environment that Ray's processes need so that every route is guarded; empty without a key."""
    if not key:
        return {}
    return PROXY_HOOK | {KEY_VARIABLE: hashlib.sha256(key.encode()).hexdigest()}
