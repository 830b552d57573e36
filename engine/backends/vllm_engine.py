"""vLLM behind two calls: tokenise a conversation, answer token ids. Used by generate, evaluate and
serve.

Speed comes from what is left out: no detokenisation inside the engine, log-probabilities that stay
the arrays in which the engine made them, and one output per request. Shapes: T generated tokens, k
captured log-probabilities.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from engine.asking.engine import AnswerEngine, Generation, Said, Sampling, end_process
from engine.backends.vllm_answers import AnswerReader
from engine.backends.vllm_settings import engine_arguments, engine_environment
from engine.errors import StageError
from engine.job.spec import CaptureSpec, Model
from engine.machines.layout import SPANNING
from engine.rows.ids import bare_prompt, tokenizer_fingerprint
from engine.rows.tools import Conversation, Tool

Piece = tuple[np.ndarray, np.ndarray]  # ids and logprobs, each (t, k + 1)
Answered = tuple[asyncio.Future[Any], Any]  # a caller's future, and what it becomes
_TELLING = re.compile(r"(Error|Exception|error):")


class VllmEngine(AnswerEngine):
    """One vLLM engine in this process and its children; costly to build, kept until the process
    ends."""

    def __init__(
        self,
        model: Model,
        capture: CaptureSpec,
        *,
        device: str,
        timeout_s: float = 600,
        attempts: int = 1,
    ) -> None:
        os.environ.update(engine_environment(model.engine.devices, device))
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs

        self._top_k = capture.top_k
        self._parameters_of = _request_parameters(capture.top_k)
        tokenizer = AutoTokenizer.from_pretrained(
            model.model,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
        )
        assert tokenizer is not None, model.model  # transformers raises where there is none
        self.tokenizer = tokenizer
        self._takes_tools: bool | None = None  # whether the template does; None: not asked yet
        # Before the engine, which takes minutes: a parser that vLLM does not have ends it here.
        ends: set[int] = set()
        if model.tool_parser is not None:  # nothing else reads texts with their ends
            ends = _ends_of(tokenizer, model)
        self._reader = AnswerReader(tokenizer, model.reasoning_parser, model.tool_parser, ends)
        settings = engine_arguments(
            model,
            device,
            capture.top_k,
            spanning=SPANNING in os.environ,
        )
        arguments = AsyncEngineArgs(**settings)
        kind = _AsyncEngine if model.engine.data_parallel > 1 else _SteppedEngine
        with last_words("the engine did not start"):
            self._engine = kind(arguments)
        _keep_arrays(self._engine.output_processor)
        config = self._engine.config
        self.max_model_len = config.model_config.max_model_len
        # Each rank has its own batch.
        self.max_num_seqs = config.scheduler_config.max_num_seqs * model.engine.data_parallel
        self.metadata = {
            "vocab_size": config.model_config.get_vocab_size(),
            "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer.get_vocab()),
        }

    async def open(self) -> None:
        """Answer one token: what vLLM compiles at its first request (log-probabilities: a second
        and more) is start-up."""
        await self.generate([0], Sampling(temperature=0.0, max_tokens=1))

    def encode(self, conversations: list[Conversation]) -> list[list[int]]:
        """Token ids of each conversation with the chat template's opening of the assistant's turn.
        ValueError where tools are offered that the template would leave out."""
        offered = next((one.tools for one in conversations if one.tools), None)
        if offered is not None:
            self._require_tools(offered)
        if self.tokenizer.chat_template is None:
            prompts = [bare_prompt(one.messages) for one in conversations]
            return self.tokenizer(prompts)["input_ids"]
        if offered is None:
            texts = self._spelled([one.messages for one in conversations], None)
        else:
            texts = [self._spelled(one.messages, one.tools or None) for one in conversations]
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _spelled(self, messages: list[Any], tools: list[Any] | None) -> Any:
        """The text of one conversation, or of a list of them."""
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False
        )

    def _require_tools(self, offered: list[Tool]) -> None:
        if self._takes_tools is None:
            self._takes_tools = self.tokenizer.chat_template is not None
            question = [{"role": "user", "content": "?"}]
            if self._takes_tools:
                plain = self._spelled(question, None)
                self._takes_tools = self._spelled(question, offered) != plain
        if not self._takes_tools:
            raise ValueError(
                "the model's chat template leaves tools out, so it could call none; take a model"
                " whose template knows them, or set prompts.fields.tools: null"
            )

    def decode(self, token_ids: list[Any], tools: Sequence[Sequence[Tool]]) -> list[Said]:
        """What finished answers say, special tokens left out, with reasoning and calls told apart
        where the job names parsers."""
        return self._reader.read(token_ids, tools)

    def silent_s(self) -> float:
        """Seconds since the engine last took a step, while it has something to do."""
        return self._engine.silent_s()

    async def generate(self, prompt: list[int], sampling: Sampling) -> Generation:
        """Answer one prompt (token ids). The process ends when the engine is gone."""
        request = await self._engine.generate(
            {"prompt_token_ids": prompt}, self._parameters_of(sampling)
        )
        answer = request.outputs[0]  # FINAL_ONLY: there is exactly one
        reason = str(answer.finish_reason)
        token_ids = np.asarray(answer.token_ids, np.int32)
        if not self._top_k or not len(token_ids):
            return Generation(reason, token_ids)
        signal = split_logprobs(answer.logprobs, len(token_ids), self._top_k)
        return Generation(reason, token_ids, *signal)


def _ends_of(tokenizer: Any, model: Model) -> set[int]:
    """Ids that end an answer, by the tokenizer and the model's generation settings."""
    from transformers import GenerationConfig

    ends: Any = None
    with suppress(OSError):  # a model without such settings
        revision = model.revision or "main"
        settings = GenerationConfig.from_pretrained(model.model, revision=revision)
        ends = settings.eos_token_id
    if not isinstance(ends, list):
        ends = [ends]
    return {end for end in (tokenizer.eos_token_id, *ends) if end is not None}


def _request_parameters(top_k: int) -> Callable[[Sampling], Any]:
    """What makes vLLM's parameters of a Sampling. Imports here, because an import statement per
    request takes a tenth of what a request costs beside the engine."""
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

    loops = RepetitionDetectionParams(max_pattern_size=32, min_pattern_size=4, min_count=8)

    def parameters_of(sampling: Sampling) -> SamplingParams:
        detection = loops if sampling.stop_loops else None
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            repetition_detection=detection,
            logprobs=top_k or None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    return parameters_of


def _keep_arrays(processor: Any) -> None:
    """Make vLLM's output processor keep log-probabilities as the engine's arrays, k + 1 wide, in
    place of a Python number each.

    At k = 64 those numbers cost a fifth of the engine's time. `answer.logprobs` becomes a list of
    (ids, logprobs) of shape (t, k + 1), merged every 256 steps, since each is a view that keeps the
    arrays of the whole batch.
    """
    process = processor.process_outputs

    def keeping(outputs: Any, *arguments: Any, **more: Any) -> Any:
        for output in outputs:
            if output.new_logprobs is None:
                continue
            state = processor.request_states.get(output.request_id)
            if state:
                kept = state.logprobs_processor.logprobs
                kept.append(output.new_logprobs[:2])
                output.new_logprobs = None
                if len(kept) == 256:
                    kept[:] = [_merged(kept)]
        return process(outputs, *arguments, **more)

    processor.process_outputs = keeping


def _merged(pieces: list[Piece]) -> Piece:
    ids, logprobs = zip(*pieces, strict=True)
    return np.concatenate(ids), np.concatenate(logprobs)


class _SteppedEngine:
    """vLLM's LLMEngine, stepped in a thread that takes requests between steps: the pace of
    `LLM.generate`, fed without pause."""

    def __init__(self, arguments: Any) -> None:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        self.config = self._engine.vllm_config
        self.output_processor = self._engine.output_processor
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._open: dict[str, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._stepped = time.monotonic()
        # Requests make thousands of objects and hardly a cycle: looking for one at every 700 takes
        # a hundredth of the time at k = 0.
        gc.set_threshold(20_000, 20, 50)
        steps = threading.Thread(target=self._work, name="engine-steps", daemon=True)
        steps.start()
        watch = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
        watch.start()

    async def generate(self, prompt: Any, parameters: Any) -> Any:
        """The finished request; a caller that is cancelled takes it back."""
        name = str(next(self._numbers))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._inbox.put((name, (prompt, parameters, answer)))
        try:
            return await answer
        except asyncio.CancelledError:
            self._inbox.put((name, None))
            raise

    def silent_s(self) -> float:
        return time.monotonic() - self._stepped if self._open else 0.0

    def _work(self) -> None:
        try:
            while True:
                self._take_requests()
                done: dict[asyncio.AbstractEventLoop, list[Answered]] = {}
                for output in self._engine.step():
                    if not output.finished:
                        continue
                    answer = self._open.pop(output.request_id, None)
                    if answer:
                        loop = answer.get_loop()
                        done.setdefault(loop, []).append((answer, output))
                self._stepped = time.monotonic()
                for loop, answers in done.items():
                    loop.call_soon_threadsafe(_settle, answers)
        except BaseException:  # noqa: BLE001 - whatever it was, nothing steps this engine any more
            end_process("the engine died")

    def _watch(self) -> None:
        """vLLM's synchronous client notices that its engine process was killed, and then waits for
        its answer for ever."""
        # None where the engine computes in this process.
        resources = getattr(self._engine.engine_core, "resources", None)
        if resources:
            while not resources.engine_dead:
                time.sleep(0.5)
            end_process("the engine's process died")

    def _take_requests(self) -> None:
        """Everything that waits; with nothing to step, wait for more."""
        while not (self._open and self._inbox.empty()):
            name, request = self._inbox.get()
            if not self._open:
                self._stepped = time.monotonic()
            if request is None:
                if self._open.pop(name, None):
                    self._engine.abort_request([name])
                continue
            prompt, parameters, answer = request
            try:
                self._engine.add_request(name, prompt, parameters)
                self._open[name] = answer
            except (ValueError, TypeError) as error:  # this request alone is wrong
                answer.get_loop().call_soon_threadsafe(_settle, [(answer, error)])


def _settle(answers: list[Answered]) -> None:
    for answer, outcome in answers:
        if answer.done():  # its caller was cancelled
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


class _AsyncEngine:
    """vLLM's AsyncLLM, which alone spreads requests over data-parallel engine cores."""

    def __init__(self, arguments: Any) -> None:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        self.config = self._engine.vllm_config
        self.output_processor = self._engine.output_processor
        self._numbers = itertools.count()
        self._open = 0
        self._heard = time.monotonic()
        process = self.output_processor.process_outputs

        # Each step's outputs pass here, those of unfinished requests too.
        def heard(*arguments: Any, **more: Any) -> Any:
            self._heard = time.monotonic()
            return process(*arguments, **more)

        self.output_processor.process_outputs = heard

    async def generate(self, prompt: Any, parameters: Any) -> Any:
        """The finished request."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if not self._open:
            self._heard = time.monotonic()
        self._open += 1
        try:
            name = str(next(self._numbers))
            async for output in self._engine.generate(prompt, parameters, name):
                last = output
        except EngineDeadError:
            end_process("the engine died")
        finally:
            self._open -= 1
        return last

    def silent_s(self) -> float:
        return time.monotonic() - self._heard if self._open else 0.0


@contextmanager
def last_words(what: str) -> Generator[None]:
    """While the block runs, keep the end of what this process and its children write to stderr; it
    becomes the error's text.

    vLLM's own error says "see above" where a child of it failed.
    """
    kept: deque[str] = deque(maxlen=400)
    saved = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)

    def copy() -> None:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                os.write(saved, line)
                kept.append(line.decode(errors="replace").rstrip())

    # Lives as long as a child holds the pipe.
    copier = threading.Thread(target=copy, daemon=True)
    copier.start()
    try:
        yield
    except Exception as error:
        time.sleep(0.5)  # the last lines are still on their way
        told = [line for line in kept if _TELLING.search(line)]
        problem = f"{what}: {type(error).__name__}: {error}"
        raise StageError("\n".join([*told[-6:], problem])) from error
    finally:
        os.dup2(saved, 2)


def split_logprobs(
    pieces: list[Piece],
    tokens: int,
    k: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(ids, logprobs) pieces of shape (t, k + 1) -> (sampled (T,), ids (T*k,), logprobs (T*k,),
    tail (T,)).

    Each position holds the sampled token first and then the k most likely ones (the sampled one
    again if it is among them), so the first entry is dropped before the mass is summed. ValueError
    if a position has another count.
    """
    ids, logprobs = _merged(pieces)
    if ids.shape != (tokens, k + 1):
        raise ValueError(
            f"log-probabilities of shape {ids.shape} for {tokens} tokens at top_k {k}; expected"
            f" {(tokens, k + 1)}"
        )
    topk_ids = ids[:, 1:].astype(np.int32)
    topk_logprobs = logprobs[:, 1:].astype(np.float32)
    mass = np.exp(topk_logprobs.astype(np.float64)).sum(axis=1)
    tail = np.clip(1.0 - mass, 0.0, 1.0).astype(np.float32)
    sampled = logprobs[:, 0].astype(np.float32)
    return sampled, topk_ids.reshape(-1), topk_logprobs.reshape(-1), tail
