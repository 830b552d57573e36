"""One request on its way through a front: which replica has it, how often it was sent, and what
becomes of it when its replica or its client leaves."""

from __future__ import annotations

import asyncio
import errno
import time
from http import HTTPStatus

from engine.serving import replies
from engine.serving.client_connection import ClientConnection
from engine.serving.link import Asked
from engine.serving.metrics import FrontMetrics
from engine.serving.pool import Pool, Replica
from engine.serving.replica_connection import ReplicaConnection

NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)  # then the fault is ours, not the replica's
MAX_SENDS = 2  # a request of which the client has seen nothing is tried once more, elsewhere
# What a replica's status means. What one server does not do, no other does. 503 is vLLM's word for
# full, of its own limits, and of nothing else. Any other fault may be a dying engine's, which gives
# 500 to the requests that it has before their connections break: another replica mends that. What
# fails twice is the request's own fault; to come again mends nothing, so the client hears 500.
NOT_DONE = HTTPStatus.NOT_IMPLEMENTED
FULL = HTTPStatus.SERVICE_UNAVAILABLE


class Exchange:
    """Sends `asked` to a replica of `pool` and its answer to `client`.

    It ends in one of four ways: answered; refused (nobody could answer); cut (a replica left in the
    middle); gone (the client did).
    """

    def __init__(
        self,
        pool: Pool,
        client: ClientConnection,
        asked: Asked,
        blocks: list[bytes],
        *,
        wait_s: float,
        metrics: FrontMetrics,
        extra_head: bytes = b"",
    ) -> None:
        self.client = client
        self._pool = pool
        self._asked = asked
        self._blocks = blocks
        self._wait_s = wait_s
        self._metrics = metrics
        self._extra_head = extra_head  # header lines that the reply gets
        self._replica: Replica | None = None
        self._upstream: ReplicaConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends = 0
        self._number = 0  # of the request, on its replica's connection
        self._status = 0
        self._is_stream = False
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
        if upstream := replica.connection:
            self._send(upstream)
            return
        self._connecting = asyncio.ensure_future(self._connect(replica))

    def resume(self) -> None:
        """There is a replica again."""
        if self._timer:
            self._timer.cancel()
        self._dispatch(None)

    async def _connect(self, replica: Replica) -> None:
        try:
            upstream = await replica.connect()
        except OSError as error:  # TimeoutError is one; it has seen nothing, so this is no try
            if error.errno not in NO_MORE_FILES:
                self._pool.forget(replica)
            if self._over:
                return
            self._release()
            self._dispatch(replica)
            return
        if not self._over:
            self._send(upstream)

    def _send(self, upstream: ReplicaConnection) -> None:
        self._sends += 1
        self._upstream = upstream
        self._number = upstream.send(self, self._asked)
        if self.client.is_choked:
            upstream.pause(self._number)

    def head(self, status: int, data: bytes) -> bool:
        """The answer begins. False for one that the client does not get to see: nothing of it is
        passed on."""
        if status == FULL:
            self._turned_away()
            return False
        if status >= 500 and status != NOT_DONE:
            self._metrics.faults.labels(self._pool.name).inc()
            # In our words: the server's own may hold internals.
            self._try_again(500, "the model's server failed at this request")
            return False
        self._status = status
        self._is_stream = b"\r\ncontent-type: text/event-stream" in data
        self._first_byte = time.perf_counter()
        if self._extra_head:
            line, _, rest = data.partition(b"\r\n")
            data = b"%s\r\n%s%s" % (line, self._extra_head, rest)
        self.client.write(data)
        return True

    def answered(self) -> None:
        """The whole answer has been passed on."""
        self._end("answered")
        self.client.done()

    def broken(self) -> None:
        """The replica left, or gave up, before the answer was whole; what came of it were whole
        events, so that a stream can still end with an error."""
        if not self._status:
            self._try_again(503, "the model's replicas failed to answer; try again")
            return
        self._end("cut")
        if self._is_stream:
            self.client.write(replies.error_event("the replica left before the answer was whole"))
            self.client.done(close=True)
        else:
            self.client.abort()

    def gone(self) -> None:
        """The client left: the replica's server sees its connection close, and vLLM aborts."""
        if self._over:
            return
        if self._upstream:
            self._upstream.abandon(self._number)
        elif self._replica is None:
            self._pool.waiting.remove(self)
        self._end("gone")

    def choke(self, choked: bool) -> None:
        """The client reads slower than the replica answers, or faster again."""
        if self._upstream:
            turn = self._upstream.pause if choked else self._upstream.resume
            turn(self._number)

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
