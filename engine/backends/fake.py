"""A deterministic teacher with fault knobs and a stream without Ray: for fault tests and for the
speed of the tests.

Nothing here stands behind a claim about the real path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.asking.engine import Generation, Sampling
from engine.job.spec import CaptureSpec, TeacherSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.records import Messages

VOCABULARY = 256


class FakeTeacher:
    """Answers with the prompt's own words; one token per byte, EOS is id 0.

    Knobs (`teacher.fake`): `latency_s`, `error_fraction`, `hang_fraction`, `die_at` (exit the
    process at the n-th request), `poison` (exit when a prompt holds this text), `stuck` (take no
    step when a prompt holds this text), `slow` (wait `slow_s` when a prompt holds this text),
    `cannot_start` (raise) and `dies_at_start` (exit), `calls` (a file that gets one fsynced line
    `time pid sha256-of-the-prompt seed start|end` at both ends of each request), `crash_point`
    (`before_part|mid_part|before_record|after_record:n`: SIGKILL there at the n-th part;
    `crash_once`: a file that makes it happen once, and gets the pid), `max_model_len`.
    """

    def __init__(
        self,
        teacher: TeacherSpec,
        capture: CaptureSpec,
        *,
        device: str,
        timeout_s: float = 600,
        attempts: int = 1,
    ) -> None:
        self._knobs, self._top_k, self._count = teacher.fake, capture.top_k, 0
        self._steps: Counter[str] = Counter()
        self._stuck_since: float | None = None
        if self._knobs.get("cannot_start"):
            raise RuntimeError("the fake teacher was told not to start")
        if self._knobs.get("dies_at_start"):
            os._exit(1)
        self.max_model_len = int(self._knobs.get("max_model_len", teacher.max_model_len or 4096))
        vocabulary = {chr(code): code for code in range(VOCABULARY)}
        self.metadata = {
            "vocab_size": VOCABULARY,
            "tokenizer_fingerprint": tokenizer_fingerprint(vocabulary),
        }

    async def open(self) -> None:
        """Always open."""

    def encode(self, conversations: list[Messages]) -> list[list[int]]:
        """One id per byte of the last message."""
        return [list(messages[-1]["content"].encode()) for messages in conversations]

    def decode(self, token_ids: list[Any]) -> list[tuple[str, str | None]]:
        """Bytes back to text, EOS left out."""
        return [
            (np.asarray(ids, np.uint8).tobytes().replace(b"\0", b"").decode(errors="replace"), None)
            for ids in token_ids
        ]

    def silent_s(self) -> float:
        """Seconds since a prompt made the engine stick."""
        return time.monotonic() - self._stuck_since if self._stuck_since else 0.0

    async def generate(self, prompt: list[int], sampling: Sampling) -> Generation:
        """The prompt's words, shuffled by the request's seed, then EOS."""
        self._count += 1
        self._note_call(prompt, sampling, "start")
        text = bytes(prompt).decode(errors="replace")
        if self._count == self._knobs.get("die_at") or self._knobs.get("poison", "\0") in text:
            os._exit(1)
        if self._stuck_since or self._knobs.get("stuck", "\0") in text:
            self._stuck_since = self._stuck_since or time.monotonic()
            await asyncio.Event().wait()
        draw = random.Random(hashlib.sha256(bytes(prompt)).digest())
        await asyncio.sleep(
            self._knobs.get("latency_s", 0.0)
            if self._knobs.get("slow", "\0") not in text
            else self._knobs["slow_s"]
        )
        if draw.random() < self._knobs.get("error_fraction", 0.0):
            raise RuntimeError("the fake teacher failed this request")
        if draw.random() < self._knobs.get("hang_fraction", 0.0):
            await asyncio.Event().wait()
        words = text.split()
        if sampling.temperature:
            random.Random(sampling.seed).shuffle(words)
        ids = [*" ".join(words).encode(), 0][: sampling.max_tokens]
        self._note_call(prompt, sampling, "end")
        return Generation(
            "stop" if ids and ids[-1] == 0 else "length",
            np.asarray(ids, np.int32),
            *self._signal(ids),
        )

    def _note_call(self, prompt: list[int], sampling: Sampling, event: str) -> None:
        if path := self._knobs.get("calls"):
            line = (
                f"{time.time():.6f} {os.getpid()} {hashlib.sha256(bytes(prompt)).hexdigest()}"
                f" {sampling.seed} {event}\n"
            )
            with open(path, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())

    def on_step(self, step: str, path: Path, data: bytes) -> None:
        """The writer's place in a commit: the named crash point kills this process there."""
        name, _, count = self._knobs.get("crash_point", "").partition(":")
        self._steps[step] += 1
        if step != name or self._steps[step] < int(count or 1):
            return
        if once := self._knobs.get("crash_once"):
            try:
                with open(once, "x") as marker:
                    marker.write(str(os.getpid()))
            except FileExistsError:
                return
        if step == "mid_part":
            path.write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def _signal(self, ids: list[int]) -> Sequence[np.ndarray]:
        """Half of the mass on the sampled token, halving from there: (T,), (T*k,), (T*k,), (T,)."""
        k, tokens = self._top_k, len(ids)
        if not k:
            return ()
        topk_ids = (np.asarray(ids)[:, None] + np.arange(k)) % VOCABULARY
        logprobs = np.tile(np.log(0.5) * np.arange(1, k + 1), (tokens, 1))
        return (
            np.full(tokens, np.log(0.5), np.float32),
            topk_ids.astype(np.int32).reshape(-1),
            logprobs.astype(np.float32).reshape(-1),
            np.full(tokens, 0.5**k, np.float32),
        )


def stream(
    shards: Sequence[dict[str, Any]], build: Callable[[], Any], **_: Any
) -> Iterator[dict[str, Any]]:
    """`ray_data.stream` in this process: one replica, one shard at a time."""
    if not shards:
        return
    loop = asyncio.new_event_loop()
    try:
        worker = loop.run_until_complete(_built(build))
        for shard in shards:
            yield loop.run_until_complete(worker(shard))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()


async def _built(build: Callable[[], Any]) -> Any:
    return build()
