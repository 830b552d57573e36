"""vLLM behind two calls: tokenise a conversation, answer token ids. Used by generate, evaluate and serve.

Speed comes from what is left out: no detokenisation inside the engine, flat log-probabilities that go to numpy without
a dict per token, and one output per request. Shapes: T generated tokens, k captured log-probabilities.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from engine.backends.answering import Generation, Sampling
from engine.layout import SPANNING
from engine.records import Messages, tokenizer_fingerprint
from engine.spec import CaptureSpec, TeacherSpec

GIB = 1024**3


def engine_arguments(spec: TeacherSpec, device: str, top_k: int = 0, *, spanning: bool = False) -> dict[str, Any]:
    """TeacherSpec -> vLLM's AsyncEngineArgs (also Serve LLM's engine_kwargs), with what a CPU needs.

    `spanning`: the replica lies on several nodes, so Ray starts its workers; `engine_args` of the spec wins over all else.
    """
    arguments: dict[str, Any] = {
        "model": spec.model,
        "revision": spec.revision,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "kv_cache_dtype": spec.kv_cache_dtype,
        "max_model_len": spec.max_model_len,
        "tensor_parallel_size": spec.tensor_parallel,
        "pipeline_parallel_size": spec.pipeline_parallel,
        "data_parallel_size": spec.data_parallel,
        "enable_expert_parallel": spec.expert_parallel,
        "max_num_seqs": spec.max_num_seqs,
        "trust_remote_code": spec.trust_remote_code,
        "max_logprobs": max(20, top_k),
        "logprobs_mode": "raw_logprobs",
        # Said outright: inside a placement group vLLM would choose Ray even where its own processes do.
        "distributed_executor_backend": "ray" if spanning else "mp" if spec.devices > 1 else None,
        "disable_log_stats": True,
    }
    if device == "gpu":
        arguments["gpu_memory_utilization"] = spec.gpu_memory_utilization
        if spec.kv_cache_gib:
            arguments["kv_cache_memory_bytes"] = int(spec.kv_cache_gib * GIB)
    else:
        # On a CPU a seeded request under chunked prefill kills the engine, and without a byte count every replica
        # takes 92 % of the node's memory. Compilation costs minutes and gains nothing at this size.
        arguments |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, spec.max_model_len or context_length(spec.model)),
            "kv_cache_memory_bytes": int((spec.kv_cache_gib or 1.0) * GIB),
        }
    return {key: value for key, value in arguments.items() if value is not None} | spec.engine_args


def engine_environment(devices: int, device: str) -> dict[str, str]:
    """Environment of the process that hosts an engine on `devices` devices; must be set before vLLM is imported."""
    if device == "gpu":
        return {}
    cores = os.cpu_count() or 1
    # Half of the cores compute; the others tokenise, decode and write, or host the next replica.
    threads = {"OMP_NUM_THREADS": str(max(1, cores // (2 * devices)))}
    if devices > 1:
        return threads | {"VLLM_CPU_OMP_THREADS_BIND": "|".join(str(rank % cores) for rank in range(devices))}
    # `nobind`: several replicas on one node must not pin themselves to the same cores. With multiprocessing off, the
    # engine core computes in its own process instead of starting a worker that imports vLLM once more (20 s).
    return threads | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def context_length(model: str) -> int:
    """The model's own limit of prompt plus answer, in tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int(getattr(config, "max_position_embeddings", 8192))


class VllmEngine:
    """One vLLM engine in this process and its children; costly to build, kept until the process ends."""

    def __init__(self, teacher: TeacherSpec, capture: CaptureSpec, *, device: str, attempts: int = 1) -> None:
        os.environ.update(engine_environment(teacher.devices, device))
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._top_k = capture.top_k
        self.tokenizer = AutoTokenizer.from_pretrained(
            teacher.model, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
        arguments = engine_arguments(teacher, device, capture.top_k, spanning=SPANNING in os.environ)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._requests = 0
        self.max_model_len = self._engine.model_config.max_model_len
        self.metadata = {
            "vocab_size": self._engine.model_config.get_vocab_size(),
            "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer.get_vocab()),
        }

    def encode(self, conversations: list[Messages]) -> list[list[int]]:
        """Token ids of each conversation with the chat template's opening of the assistant's turn."""
        if self.tokenizer.chat_template is None:
            texts = ["\n".join(message["content"] for message in messages) for messages in conversations]
            return self.tokenizer(texts)["input_ids"]
        texts = self.tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def decode(self, token_ids: list[Any]) -> list[str]:
        """Texts of finished answers, special tokens left out."""
        return self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)

    async def generate(self, prompt: list[int], sampling: Sampling) -> Generation:
        """Answer one prompt (token ids). The process ends when the engine is gone."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        self._requests += 1
        parameters = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=sampling.seed,
            logprobs=self._top_k or None, flat_logprobs=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            async for output in self._engine.generate({"prompt_token_ids": prompt}, parameters, f"{os.getpid()}-{self._requests}"):
                answer = output.outputs[0]  # FINAL_ONLY: there is exactly one
        except EngineDeadError:
            os._exit(1)  # a live actor around a dead engine would get every retry; Ray replaces a dead actor
        token_ids = np.asarray(answer.token_ids, np.int32)
        if not self._top_k or not len(token_ids):
            return Generation(str(answer.finish_reason), token_ids)
        return Generation(str(answer.finish_reason), token_ids, *split_flat_logprobs(answer.logprobs, len(token_ids), self._top_k))


def split_flat_logprobs(flat: Any, tokens: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """vLLM's flat log-probabilities -> (sampled (T,), ids (T*k,), logprobs (T*k,), tail (T,)).

    Each position holds the sampled token first and then the k most likely ones (the sampled one again if it is among
    them), so the first entry is dropped before the mass is summed. ValueError if a position has another count.
    """
    ids = np.asarray(flat.token_ids, np.int32)
    logprobs = np.asarray(flat.logprobs, np.float32)
    if len(ids) != tokens * (k + 1):
        raise ValueError(f"{len(ids)} log-probabilities for {tokens} tokens at top_k {k}; expected {tokens * (k + 1)}")
    ids, logprobs = ids.reshape(tokens, k + 1), logprobs.reshape(tokens, k + 1)
    tail = np.clip(1.0 - np.exp(logprobs[:, 1:].astype(np.float64)).sum(axis=1), 0.0, 1.0).astype(np.float32)
    return logprobs[:, 0].copy(), ids[:, 1:].reshape(-1).copy(), logprobs[:, 1:].reshape(-1).copy(), tail

