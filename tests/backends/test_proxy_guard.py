"""What Serve's own proxies let through: a look at their health, and nothing else."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from engine.backends import proxy_guard

ANY = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]


async def inside(request):
    return PlainTextResponse("success")


async def talk(socket):
    await socket.accept()
    await socket.close()


@pytest.fixture
def proxy():
    routes = [
        Route("/{path:path}", inside, methods=ANY),
        WebSocketRoute("/{path:path}", talk),
    ]
    return TestClient(Starlette(routes=routes, middleware=proxy_guard.proxy_middlewares()))


def test_health_is_told_without_a_key(proxy):
    reply = proxy.get("/-/healthz")
    assert (reply.status_code, reply.text) == (200, "success")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/-/healthz"),
        ("HEAD", "/-/healthz"),
        ("OPTIONS", "/-/healthz"),
        ("GET", "/-/healthz/"),
        ("GET", "//-/healthz"),
        ("GET", "/-/routes"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
    ],
)
def test_everything_else_is_not_here(proxy, method, path):
    reply = proxy.request(method, f"http://testserver{path}")
    assert reply.status_code == 404
    assert "success" not in reply.text


@pytest.mark.parametrize("path", ["/-/healthz", "/v1/realtime"])
def test_a_websocket_is_refused(proxy, path):
    with pytest.raises(WebSocketDisconnect), proxy.websocket_connect(path):
        pass
