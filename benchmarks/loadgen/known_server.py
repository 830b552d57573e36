"""A server of which everything is known: it answers after times drawn from a seeded law, unequal
and in bursts, and writes down when it did what.

    python -m benchmarks.loadgen.known_server --log FILE [--seed 0] [--stall-at 3 --stall-s 5]

It prints its port on 127.0.0.1. A line of the log is one answer: the prompt, and in Unix time when
it was read, when the first text, the last text and the end were written. With a stall the whole
process sleeps, so many seconds after its first request: nothing is read or written meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np
import uvloop

from engine.loadgen.noop_server import BACKLOG, HEAD, HOST, LAST, TOKEN, body_of, tail

REPOSITORY = Path(__file__).parents[2]
MODEL = "known"
FIRST_S, FIRST_SPREAD = 0.25, 0.5  # lognormal: median, and deviation of the logarithm
GAP_S = 0.012
SLOWDOWN = 3.0  # within bursts
BURST_EVERY_S, BURST_S = 4.0, 1.0
TOKENS = (8, 40)


@dataclass(frozen=True)
class Done:
    """One answer as the server gave it; Unix time."""

    prompt: str
    read_s: float
    first_s: float
    last_s: float
    end_s: float
    tokens: int


class Clockwork:
    """What all connections share: the law, the log, and when it stalls."""

    def __init__(self, seed: int, log: TextIO, stall_at_s: float | None, stall_s: float) -> None:
        self._seed = seed
        self._log = log
        self._stall_at_s = stall_at_s
        self._stall_s = stall_s
        self._began_s: float | None = None

    def draw(self, prompt: str) -> tuple[float, list[float]]:
        """Seconds until the first text and to each further token, for this prompt; slower in a
        burst."""
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s = now_s
            self._will_stall()
        rng = np.random.default_rng([self._seed, zlib.crc32(prompt.encode())])
        slower = 1.0
        if (now_s - self._began_s) % BURST_EVERY_S < BURST_S:
            slower = SLOWDOWN
        first_s = slower * FIRST_S * float(np.exp(FIRST_SPREAD * rng.standard_normal()))
        gaps_s = slower * GAP_S * rng.gamma(2.0, 0.5, int(rng.integers(*TOKENS)) - 1)
        return first_s, gaps_s.tolist()

    def _will_stall(self) -> None:
        if self._stall_at_s is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self._stall_at_s, time.sleep, self._stall_s)

    def note(self, done: Done) -> None:
        """Into the log."""
        self._log.write(json.dumps(asdict(done)) + "\n")


class Stream(asyncio.Protocol):
    """One client's connection."""

    _transport: asyncio.Transport

    def __init__(self, clockwork: Clockwork) -> None:
        self._clockwork = clockwork
        self._buffer = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of a request."""
        self._buffer += data
        body = body_of(self._buffer)
        if body is None:
            return
        self._buffer = b""
        prompt = json.loads(body)["messages"][-1]["content"]
        self._answering = asyncio.create_task(self._answer(prompt, time.time()))

    async def _answer(self, prompt: str, read_s: float) -> None:
        """Each token in a write of its own, at an absolute time."""
        loop = asyncio.get_running_loop()
        wait_s, gaps_s = self._clockwork.draw(prompt)
        self._transport.write(HEAD)
        due_s = loop.time()
        written_s = []
        for number, gap_s in enumerate([wait_s, *gaps_s]):
            due_s += gap_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            is_last = number == len(gaps_s)
            self._transport.write(LAST if is_last else TOKEN)
            written_s.append(time.time())
        self._transport.write(tail(len(written_s)))
        ended_s = time.time()
        first_s, last_s = written_s[0], written_s[-1]
        self._clockwork.note(Done(prompt, read_s, first_s, last_s, ended_s, len(written_s)))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it left."""
        if self._answering is not None:
            self._answering.cancel()


async def serve(clockwork: Clockwork) -> None:
    """Answer until it is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(clockwork), HOST, 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def known_server(log: Path, *arguments: str) -> Generator[str]:
    """Its base URL, for the length of the block; the log is complete once its last answer is.
    RuntimeError if it does not come."""
    command = [sys.executable, "-m", "benchmarks.loadgen.known_server", "--log", str(log)]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"the known server ended with status {process.wait()}")
        yield f"http://{HOST}:{int(said)}/v1"
    finally:
        process.terminate()
        process.wait(30)


def load_log(log: Path) -> list[Done]:
    """The answers that it gave."""
    return [Done(**json.loads(line)) for line in log.read_text().splitlines()]


def main() -> None:
    """Answer until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stall-at", type=float, help="seconds after the first request")
    parser.add_argument("--stall-s", type=float, default=5.0)
    options = parser.parse_args()
    with options.log.open("w", buffering=1) as log:
        uvloop.run(serve(Clockwork(options.seed, log, options.stall_at, options.stall_s)))


if __name__ == "__main__":
    main()
