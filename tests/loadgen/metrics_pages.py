"""Pages as vLLM and our front show them, and a server that shows what it is given."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

KEY = "a-key-for-tests"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class VllmMetrics:
    """One engine's metrics, by vLLM's names and with its labels."""

    def __init__(self, model: str = "tiny") -> None:
        self._registry = registry = CollectorRegistry()
        names = ("model_name", "engine")
        values = (model, "0")

        def histogram(name: str) -> Histogram:
            metric = Histogram(name, name, names, buckets=(0.01, 0.1, 1), registry=registry)
            return metric.labels(*values)

        def counter(name: str) -> Counter:
            return Counter(name, name, names, registry=registry).labels(*values)

        def gauge(name: str) -> Gauge:
            return Gauge(name, name, names, registry=registry).labels(*values)

        self.first_token = histogram("vllm:time_to_first_token_seconds")
        self.request = histogram("vllm:e2e_request_latency_seconds")
        self.queue = histogram("vllm:request_queue_time_seconds")
        self.prefill = histogram("vllm:request_prefill_time_seconds")
        self.decode = histogram("vllm:request_decode_time_seconds")
        self.prompt_tokens = counter("vllm:prompt_tokens")
        self.output_tokens = counter("vllm:generation_tokens")
        self.hits = counter("vllm:prefix_cache_hits")
        self.queries = counter("vllm:prefix_cache_queries")
        self.running = gauge("vllm:num_requests_running")
        self.waiting = gauge("vllm:num_requests_waiting")
        self.kv_usage = gauge("vllm:kv_cache_usage_perc")

    def answer(
        self, queue_s: float, prefill_s: float, decode_s: float, handling_s: float = 0.0
    ) -> None:
        """One request is done."""
        self.queue.observe(queue_s)
        self.prefill.observe(prefill_s)
        self.decode.observe(decode_s)
        self.first_token.observe(handling_s + queue_s + prefill_s)
        self.request.observe(handling_s + queue_s + prefill_s + decode_s)

    def page(self) -> str:
        """As it is scraped."""
        return generate_latest(self._registry).decode()


class Shown:
    """What a server at `url` answers on which path: (status, type, text); and who asked."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, str, str]] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, Authorization
        self.url = ""

    def wait_for(self, looks: int) -> None:
        """Until it was asked so often. TimeoutError after 20 s."""
        deadline = time.monotonic() + 20
        while len(self.asked) < looks:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.asked)} of {looks} looks came")
            time.sleep(0.005)


@contextmanager
def showing(tls: ssl.SSLContext | None = None) -> Iterator[Shown]:
    """A server of its own port and threads."""
    shown = Shown()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            shown.asked.append((self.path, self.headers.get("Authorization")))
            status, kind, text = shown.pages.get(self.path, (404, "application/json", "{}"))
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    shown.url = f"{scheme}://127.0.0.1:{server.server_port}"
    try:
        yield shown
    finally:
        server.shutdown()
        server.server_close()
