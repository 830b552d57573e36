"""A deterministic teacher with fault knobs and a stream without Ray: for fault tests and for the speed of the tests.

Nothing here stands behind a claim about the real path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.backends.answering import Generation, Sampling
from engine.records import Messages, tokenizer_fingerprint
from engine.spec import CaptureSpec, TeacherSpec

VOCABULARY = 256


class FakeTeacher:
    """Answers with the prompt's own words; one token per byte, EOS is id 0.

    Knobs (`teacher.fake`): `latency_s`, `error_fraction`, `hang_fraction`, `die_at` (exit the process at the n-th
    request), `cannot_start`, `calls` (a file that gets one fsynced line per request), `max_model_len`.
    """

    def __init__(self, teacher: TeacherSpec, capture: CaptureSpec, *, device: str, attempts: int) -> None:
        self._knobs, self._top_k, self._count = teacher.fake, capture.top_k, 0
        if self._knobs.get("cannot_start"):
            raise RuntimeError("the fake teacher was told not to start")
        self.max_model_len = int(self._knobs.get("max_model_len", teacher.max_model_len or 4096))
        vocabulary = {chr(code): code for code in range(VOCABULARY)}
        self.metadata = {"vocab_size": VOCABULARY, "tokenizer_fingerprint": tokenizer_fingerprint(vocabulary)}

    def encode(self, conversations: list[Messages]) -> list[list[int]]:
        """One id per byte of the last message."""
        return [list(messages[-1]["content"].encode()) for messages in conversations]

    def decode(self, token_ids: list[Any]) -> list[str]:
        """Bytes back to text, EOS left out."""
        return [bytes(int(i) for i in ids if i).decode(errors="replace") for ids in token_ids]

    async def generate(self, prompt: list[int], sampling: Sampling) -> Generation:
        """The prompt's words, shuffled by the request's seed, then EOS."""
        self._count += 1
        self._note_call(prompt)
        if self._count == self._knobs.get("die_at"):
            os._exit(1)
        draw = random.Random(hashlib.sha256(bytes(prompt)).digest())
        await asyncio.sleep(self._knobs.get("latency_s", 0.0))
        if draw.random() < self._knobs.get("error_fraction", 0.0):
            raise RuntimeError("the fake teacher failed this request")
        if draw.random() < self._knobs.get("hang_fraction", 0.0):
            await asyncio.Event().wait()
        words = bytes(prompt).decode(errors="replace").split()
        if sampling.temperature:
            random.Random(sampling.seed).shuffle(words)
        ids = [*" ".join(words).encode(), 0][: sampling.max_tokens]
        return Generation("stop" if ids and ids[-1] == 0 else "length", np.asarray(ids, np.int32), *self._signal(ids))

    def _note_call(self, prompt: list[int]) -> None:
        if path := self._knobs.get("calls"):
            with open(path, "ab") as file:
                file.write(hashlib.sha256(bytes(prompt)).hexdigest().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def _signal(self, ids: list[int]) -> Sequence[np.ndarray]:
        """Half of the mass on the sampled token, halving from there: (T,), (T*k,), (T*k,), (T,)."""
        k, tokens = self._top_k, len(ids)
        if not k:
            return ()
        topk_ids = (np.asarray(ids)[:, None] + np.arange(k)) % VOCABULARY
        logprobs = np.tile(np.log(0.5) * np.arange(1, k + 1), (tokens, 1))
        return (
            np.full(tokens, np.log(0.5), np.float32), topk_ids.astype(np.int32).reshape(-1),
            logprobs.astype(np.float32).reshape(-1), np.full(tokens, 0.5**k, np.float32),
        )


def stream(shards: Sequence[dict[str, Any]], build: Callable[[], Any], **_: Any) -> Iterator[dict[str, Any]]:
    """`ray_data.stream` in this process: one replica, one shard at a time."""
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
