"""Serve's own HTTP proxies say whether they are well, and nothing else.

Tokens do not pass them, so a local cluster starts none. KubeRay asks each pod for
`GET :8000/-/healthz`, which only a proxy answers; where one runs, this is its layer (see HOOK and
clusters/kuberay-rayservice.yaml). The module stays light: Serve gives a proxy seconds to import it.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOOK = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "engine.backends.proxy_guard.proxy_middlewares"
}
HEALTH = "/-/healthz"


class HealthOnly:
    """ASGI layer: 404 for everything but GET of HEALTH."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks_health = scope["type"] == "http" and scope["path"] == HEALTH
        if scope["type"] == "lifespan" or (asks_health and scope["method"] == "GET"):
            await self._app(scope, receive, send)
            return
        error = {"message": "not here", "type": "invalid_request_error", "code": "not_found"}
        await JSONResponse({"error": error}, 404)(scope, receive, send)


def proxy_middlewares() -> list[Middleware]:
    """Serve calls this in each HTTP proxy."""
    return [Middleware(HealthOnly)]
