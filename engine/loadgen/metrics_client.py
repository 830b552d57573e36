"""Fetches a server's metrics page over one connection, and says once why there is none."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from engine.loadgen.target import PATH, Target

MAX_PAGE_BYTES = 64 << 20
_KEY_REFUSED = (401, 403)
_NOT_NOW = range(500, 600)  # may be better at the next look


class NoMetricsError(Exception):
    """The server has none to show; the message is a sentence for people."""


class MetricsClient:
    """One server's page. It lies beside the path of the API, or at the server's root."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._address = target.address()
        self._tls = target.tls()
        self._headers = target.all_headers() | {"accept": "text/plain"}
        del self._headers["content-type"]
        self._paths = metrics_paths(target)
        self._connection: http.client.HTTPConnection | None = None

    @property
    def url(self) -> str:
        """Where the page lies, or is looked for first."""
        scheme = "https" if self._address.is_tls else "http"
        return f"{scheme}://{self._address.name}{self._paths[0]}"

    def fetch(self) -> bytes:
        """The page. NoMetricsError where there is none to be had; OSError where there may be one
        next time."""
        said = ""
        for path in list(self._paths):
            status, kind, body = self._get(path)
            if status in _NOT_NOW:
                raise OSError(f"HTTP {status}")
            if status == 200 and "html" not in kind and "json" not in kind:
                self._paths = [path]
                return body
            said = said or _refusal(status, kind)
        raise NoMetricsError(f"{self.url} {said}: where the server's time goes is not known")

    def _get(self, path: str) -> tuple[int, str, bytes]:
        """(status, content type, body)."""
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.request("GET", path, headers=self._headers)
            answer = self._connection.getresponse()
            body = answer.read(MAX_PAGE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if isinstance(error, OSError):
                raise
            raise OSError(f"{type(error).__name__}: {error}") from error
        if not answer.isclosed():
            self.close()  # the rest of a page that is too long
        return answer.status, answer.getheader("content-type", ""), body

    def _connect(self) -> http.client.HTTPConnection:
        host = self._address.host
        port = self._address.port
        limit_s = self._timeout_s
        if self._tls:
            return http.client.HTTPSConnection(host, port, timeout=limit_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=limit_s)

    def close(self) -> None:
        """Leave; the next fetch connects anew."""
        if self._connection:
            self._connection.close()
        self._connection = None


def metrics_paths(target: Target) -> list[str]:
    """Where a page may lie, the likeliest first."""
    api = urlsplit(target.address().path).path.removesuffix(PATH)
    beside = api.removesuffix("/v1") + "/metrics"
    return list(dict.fromkeys([beside, "/metrics"]))


def _refusal(status: int, kind: str) -> str:
    if status in _KEY_REFUSED:
        return f"is refused to the load's own key (HTTP {status})"
    if status == 200:
        return f"is no metrics page ({kind})"
    return f"is not there (HTTP {status})"
