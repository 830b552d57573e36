"""A deterministic teacher with fault knobs and a stream without Ray: for fault tests and for the
speed of the tests.

Nothing here stands behind a claim about the real path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.asking.engine import AnswerEngine, Generation, Said, Sampling
from engine.asking.shards import Receipt, Shard
from engine.job.spec import CaptureSpec, FakeTeacherSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.tools import Conversation, Tool, as_call
from engine.store.paths import Folder

VOCABULARY = 256


class FakeTeacher(AnswerEngine):
    """Answers with the prompt's own words; one token per byte, EOS is id 0. Words of the form
    `call NAME {"json": 1}` call a tool, where any is offered.

    Knobs (`teacher.fake`): `replies` (patterns, and what is said where the first of them is found
    in the prompt, in place of its words), `latency_s`, `error_fraction`, `hang_fraction`, `die_at`
    (exit the process at the n-th request), `poison` (exit when a prompt holds this text), `stuck`
    (take no step when a prompt holds this text), `slow` (wait `slow_s` when a prompt holds this
    text), `cannot_start` (raise) and `dies_at_start` (exit), `calls` (a file that gets one fsynced
    line `time pid sha256-of-the-prompt seed start|end` at both ends of each request), `crash_point`
    (`before_part|mid_part|before_record|after_record:n`: SIGKILL there at the n-th part;
    `crash_once`: a file that makes it happen once, and gets the pid), `max_model_len`.
    """

    def __init__(
        self,
        teacher: FakeTeacherSpec,
        capture: CaptureSpec,
        *,
        device: str,
        timeout_s: float = 600,
        attempts: int = 1,
    ) -> None:
        self._knobs = teacher.fake
        self._top_k = capture.top_k
        self._count = 0
        self._steps: Counter[str] = Counter()
        self._stuck_since: float | None = None
        if self._knobs.get("cannot_start"):
            raise RuntimeError("the fake teacher was told not to start")
        if self._knobs.get("dies_at_start"):
            os._exit(1)
        length = teacher.max_model_len or 4096
        self.max_model_len = int(self._knobs.get("max_model_len", length))
        vocabulary = {}
        for code in range(VOCABULARY):
            vocabulary[chr(code)] = code
        self.metadata = {
            "vocab_size": VOCABULARY,
            "tokenizer_fingerprint": tokenizer_fingerprint(vocabulary),
        }

    def encode(self, conversations: list[Conversation]) -> list[list[int]]:
        """One id per byte of the last message."""
        prompts = []
        for conversation in conversations:
            text = conversation.messages[-1]["content"]
            prompts.append(list(text.encode()))
        return prompts

    def decode(self, token_ids: list[Any], tools: Sequence[Sequence[Tool]]) -> list[Said]:
        """Bytes back to text, EOS left out. `call NAME ARGUMENTS` is a call where tools are
        offered."""
        return list(map(_said, token_ids, tools))

    def silent_s(self) -> float:
        """Seconds since a prompt made the engine stick."""
        if not self._stuck_since:
            return 0.0
        return time.monotonic() - self._stuck_since

    async def generate(self, prompt: list[int], sampling: Sampling) -> Generation:
        """The prompt's words, shuffled by the request's seed, then EOS."""
        self._count += 1
        self._note_call(prompt, sampling, "start")
        text = bytes(prompt).decode(errors="replace")
        is_poisoned = self._knobs.get("poison", "\0") in text
        if is_poisoned or self._count == self._knobs.get("die_at"):
            os._exit(1)
        is_sticky = self._knobs.get("stuck", "\0") in text
        if is_sticky or self._stuck_since:
            self._stuck_since = self._stuck_since or time.monotonic()
            await asyncio.Event().wait()
        digest = hashlib.sha256(bytes(prompt)).digest()
        draw = random.Random(digest)
        latency_s = self._knobs.get("latency_s", 0.0)
        if self._knobs.get("slow", "\0") in text:
            latency_s = self._knobs["slow_s"]
        await asyncio.sleep(latency_s)
        error_fraction = self._knobs.get("error_fraction", 0.0)
        if draw.random() < error_fraction:
            raise RuntimeError("the fake teacher failed this request")
        hang_fraction = self._knobs.get("hang_fraction", 0.0)
        if draw.random() < hang_fraction:
            await asyncio.Event().wait()
        said = self._said(text, sampling).encode()
        ids = [*said, 0][: sampling.max_tokens]
        self._note_call(prompt, sampling, "end")
        reason = "stop" if ids and ids[-1] == 0 else "length"
        token_ids = np.asarray(ids, np.int32)
        return Generation(reason, token_ids, **self._signal(ids))

    def _said(self, text: str, sampling: Sampling) -> str:
        for pattern, reply in self._knobs.get("replies", {}).items():
            if re.search(pattern, text, re.DOTALL):
                return reply
        words = text.split()
        if sampling.temperature:
            order = random.Random(sampling.seed)
            order.shuffle(words)
        return " ".join(words)

    def _note_call(self, prompt: list[int], sampling: Sampling, event: str) -> None:
        if path := self._knobs.get("calls"):
            digest = hashlib.sha256(bytes(prompt)).hexdigest()
            now = f"{time.time():.6f}"
            line = f"{now} {os.getpid()} {digest} {sampling.seed} {event}\n"
            with open(path, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())

    def on_step(self, step: str, path: Folder, data: pa.Buffer) -> None:
        """The writer's place in a commit: the named crash point kills this process there."""
        name, _, count = self._knobs.get("crash_point", "").partition(":")
        self._steps[step] += 1
        wanted = int(count or 1)
        if step != name or self._steps[step] < wanted:
            return
        if once := self._knobs.get("crash_once"):
            try:
                with open(once, "x") as marker:
                    marker.write(str(os.getpid()))
            except FileExistsError:
                return
        if step == "mid_part":
            half = data.slice(0, data.size // 2)
            path.write_bytes(half.to_pybytes())
        os.kill(os.getpid(), signal.SIGKILL)

    def _signal(self, ids: list[int]) -> dict[str, Any]:
        """Half of the mass on the sampled token, halving from there."""
        k = self._top_k
        if not k:
            return {}
        tokens = len(ids)
        sampled = np.asarray(ids)
        successors = sampled[:, None] + np.arange(k)
        topk_ids = (successors % VOCABULARY).astype(np.int32)
        half = np.log(0.5)
        falling = half * np.arange(1, k + 1)
        logprobs = np.tile(falling, (tokens, 1)).astype(np.float32)
        return {
            "token_logprobs": np.full(tokens, half, np.float32),
            "topk_ids": topk_ids.reshape(-1),
            "topk_logprobs": logprobs.reshape(-1),
            "tail": np.full(tokens, 0.5**k, np.float32),
        }


def _said(ids: Any, tools: Sequence[Tool]) -> Said:
    text = _text_of(ids)
    if not tools or not text.startswith("call "):
        return Said(text)
    _, name, arguments = f"{text} ".split(" ", 2)
    return Said("", calls=[as_call(name, arguments.strip())])


def _text_of(ids: Any) -> str:
    said = np.asarray(ids, np.uint8).tobytes()
    without_eos = said.replace(b"\0", b"")
    return without_eos.decode(errors="replace")


def stream(
    shards: Sequence[Shard],
    build: Callable[[], Any],
    **_: Any,
) -> Generator[Receipt]:
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
        ended = asyncio.gather(*left, return_exceptions=True)
        loop.run_until_complete(ended)
        loop.close()


async def _built(build: Callable[[], Any]) -> Any:
    return build()
