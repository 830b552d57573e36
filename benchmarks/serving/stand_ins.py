"""What stands around the product's front where no model is needed, each in a process of its own:

    python -m benchmarks.serving.stand_ins noop [--step-ms 5]     a server that only streams
    python -m benchmarks.serving.stand_ins fake [--batch 4 …]     a fake engine behind its server
    python -m benchmarks.serving.stand_ins front --replica PORT:BATCH … [--max-queued N]

Each prints its port on 127.0.0.1 as soon as it listens. The front is the product's own; Ray Serve,
which would place it and tell it of its replicas, takes no part in a request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop

from engine.loadgen import noop_server

REPOSITORY = Path(__file__).parents[2]
HOST = "127.0.0.1"
MODEL = "m"
SECRET = "only-fronts-know"


def free_port() -> int:
    """A port that nobody gets by chance until it is used: below those that the system gives away,
    above those of Ray's workers."""
    while True:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


@contextmanager
def stand_in(*arguments: str, log: Path) -> Generator[tuple[subprocess.Popen[str], int]]:
    """One of them for the length of the block: its process and its port. RuntimeError, with its
    last words, if it does not come."""
    command = [sys.executable, "-m", "benchmarks.serving.stand_ins", *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"{arguments} did not start:\n{log.read_text()[-2000:]}")
        yield process, int(said)
    finally:
        process.terminate()
        process.wait(30)


async def _noop(options: argparse.Namespace) -> None:
    await noop_server.serve(options.step_ms)


async def _fake(options: argparse.Namespace) -> None:
    from engine.backends.fake_server import FakeServer
    from engine.job.spec import EngineSpec, Model
    from engine.serving.replica import Listener, ServedModel

    spec = EngineSpec(max_num_seqs=options.batch, engine_args={"step_s": options.step_ms / 1000})
    server = FakeServer(ServedModel(Model(MODEL, "fake", None, spec), "cpu", kind="fake"))
    await server.start()
    listener = Listener(server.app, HOST, SECRET)
    listener.start()
    print(listener.port, flush=True)
    await asyncio.Event().wait()


async def _front(options: argparse.Namespace) -> None:
    from engine.serving.front import Front, FrontSettings
    from engine.serving.pool import Address

    settings = FrontSettings(HOST, free_port(), secret=SECRET, max_queued=options.max_queued)
    front = Front(settings, (MODEL,))
    replicas = {}
    for replica in options.replica:
        port, _, batch = replica.partition(":")
        replicas[port] = Address(port, HOST, int(port), int(batch))
    front.update(MODEL, replicas)
    await front.start()
    print(settings.port, flush=True)
    await asyncio.Event().wait()


KINDS = {"noop": _noop, "fake": _fake, "front": _front}


def main() -> None:
    """Run one of them until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--step-ms", type=float, default=5.0, help="noop, fake: between two tokens")
    parser.add_argument("--batch", type=int, default=4, help="fake: answers at a time")
    parser.add_argument("--replica", action="append", default=[], help="front: PORT:BATCH")
    parser.add_argument("--max-queued", type=int, default=512, help="front: beyond the batches")
    options = parser.parse_args()
    uvloop.run(KINDS[options.kind](options))


if __name__ == "__main__":
    main()
