"""One request on its way through a front: which replica has it, how often it was sent, and what
becomes of it when its replica or its client leaves."""

from __future__ import annotations

import asyncio
import errno
import time
from http import HTTPStatus

from engine.serving import replies
from engine.serving.client_connection import ClientConnection
from engine.serving.metrics import FrontMetrics
from engine.serving.pool import Pool, Replica
from engine.serving.replica_connection import ReplicaConnection

CONNECT_TIMEOUT_S = 5.0  # within a cluster; a node that vanished does not even refuse
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)  # then the fault is ours, not the replica's
MAX_SENDS = 2  # a request of which the client has seen nothing is tried once more, elsewhere
# What a replica's status means. What one server does not do, no other does. 503 is vLLM's word for
# full, of its own limits, and of nothing else. Any other fault may be a dying engine's, which gives
# 500 to the requests that it has before their connections break: another replica mends that. What
# fails twice is the request's own fault; to come again mends nothing, so the client hears 500.
NOT_DONE = HTTPStatus.NOT_IMPLEMENTED
FULL = HTTPStatus.SERVICE_UNAVAILABLE


class Exchange:
    """Sends `request` (a whole HTTP request) to a replica of `pool` and its answer to `client`.

    It ends in one of four ways: answered; refused (nobody could answer); cut (a replica left in the
    middle); gone (the client did).
    """

    def __init__(
        self,
        pool: Pool,
        client: ClientConnection,
        request: bytes,
        blocks: list[bytes],
        *,
        wait_s: float,
        metrics: FrontMetrics,
        extra_head: bytes = b"",
    ) -> None:
        self.client = client
        self._pool = pool
        self._request = request
        self._blocks = blocks
        self._wait_s = wait_s
        self._metrics = metrics
        self._extra_head = extra_head  # header lines that the reply gets
        self._replica: Replica | None = None
        self._upstream: ReplicaConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends = 0
        self._status = 0
        self._started = time.perf_counter()
        self._first_byte = 0.0
        self._over = False

    def start(self) -> None:
        """Ask a replica, or wait for one."""
        self._pool.open += 1
        self._dispatch(None)

    def _dispatch(self, avoid: Replica | None) -> None:
        replica = self._pool.choose(self._blocks, avoid)
        if replica is None:
            self._pool.waiting.append(self)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._wait_s, self._give_up)
            self._pool.on_empty(self._pool.name)
            return
        self._replica = replica
        replica.open += 1
        while replica.idle:
            upstream = replica.idle.pop()
            if not upstream.closing:
                self._send(upstream)
                return
        self._connecting = asyncio.ensure_future(self._connect(replica))

    def resume(self) -> None:
        """There is a replica again."""
        if self._timer:
            self._timer.cancel()
        self._dispatch(None)

    async def _connect(self, replica: Replica) -> None:
        address = replica.address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, upstream = await loop.create_connection(
                    ReplicaConnection, address.host, address.port
                )
        except OSError as error:  # TimeoutError is one; it has seen nothing, so this is no try
            if error.errno not in NO_MORE_FILES:
                self._pool.forget(replica)
            if self._over:
                return
            self._release()
            self._dispatch(replica)
            return
        if self._over:
            upstream.close()
            return
        self._send(upstream)

    def _send(self, upstream: ReplicaConnection) -> None:
        self._sends += 1
        self._upstream = upstream
        upstream.send(self, self._request)
        if self.client.is_choked:
            upstream.pause()

    def head(self, status: int, data: bytes) -> bool:
        """The answer begins. False for one that the client does not get to see: it passes on
        nothing, and its connection is closed."""
        if status == FULL:
            self._turned_away()
            return False
        if status >= 500 and status != NOT_DONE:
            self._metrics.faults.labels(self._pool.name).inc()
            # In our words: the server's own may hold internals.
            self._try_again(500, "the model's server failed at this request")
            return False
        self._status = status
        self._first_byte = time.perf_counter()
        if self._extra_head:
            line, _, rest = data.partition(b"\r\n")
            data = b"%s\r\n%s%s" % (line, self._extra_head, rest)
        self.client.write(data)
        return True

    def answered(self, *, reusable: bool) -> None:
        """The whole answer has been passed on."""
        upstream, replica = self._upstream, self._replica
        assert upstream
        assert replica
        if reusable and self._pool.replicas.get(replica.address.id) is replica:
            upstream.resume()  # this client may have been too slow, the next one is not
            replica.idle.append(upstream)
        else:
            upstream.close()
        self._end("answered")
        self.client.done()

    def broken(self, *, between_events: bool) -> None:
        """The replica's connection is lost; `between_events`: a stream that an error event may
        still end."""
        if not self._status:
            self._try_again(503, "the model's replicas failed to answer; try again")
            return
        self._end("cut")
        if between_events:
            self.client.write(replies.error_event("the replica left before the answer was whole"))
            self.client.done(close=True)
        else:
            self.client.abort()

    def gone(self) -> None:
        """The client left: the replica's server sees its connection close, and vLLM aborts."""
        if self._over:
            return
        if self._upstream:
            self._upstream.abandon()
        elif self._replica is None:
            self._pool.waiting.remove(self)
        self._end("gone")

    def choke(self, choked: bool) -> None:
        """The client reads slower than the replica answers, or faster again."""
        if self._upstream:
            (self._upstream.pause if choked else self._upstream.resume)()

    def _turned_away(self) -> None:
        """The replica is full: another one may have room, and who is full is not waited for."""
        status, message = 429, f"{self._pool.name} has as many requests as it can hold; try again"
        if self._pool.choose([], self._replica):
            self._try_again(status, message)
        else:
            self._refuse(status, message)

    def _try_again(self, status: int, message: str) -> None:
        """Once more, elsewhere; the client hears the refusal if that was tried already."""
        failed = self._replica
        self._release()
        if self._sends >= MAX_SENDS:
            self._refuse(status, message)
            return
        self._metrics.retries.labels(self._pool.name).inc()
        self._dispatch(failed)

    def _give_up(self) -> None:
        self._pool.waiting.remove(self)
        self._refuse(503, f"no replica of {self._pool.name} is ready; try again")

    def _refuse(self, status: int, message: str) -> None:
        self._status = status
        self._end("refused")
        self.client.write(replies.refusal(status, message))
        self.client.done()

    def _release(self) -> None:
        if self._replica:
            self._replica.open -= 1
        self._replica = self._upstream = None

    def _end(self, how: str) -> None:
        self._over = True
        if self._timer:
            self._timer.cancel()
        self._release()
        self._pool.open -= 1
        now = time.perf_counter()
        self._metrics.ended(
            self._pool.name,
            how,
            self._status,
            e2e_s=now - self._started,
            ttft_s=self._first_byte - self._started if self._first_byte else None,
        )
        self.client.log(self._pool.name, how, self._status, now - self._started)
