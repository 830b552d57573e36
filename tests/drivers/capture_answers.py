"""Sampled answers of a real float32 vLLM engine, captured in a process of its own: an engine leaves
its environment behind.

python capture_answers.py MODEL QUESTIONS.json TOP_K RESULT: pickles (vocabulary, [(prompt ids,
Generation), ...])
"""

import asyncio
import json
import os
import pickle
import sys
from pathlib import Path

from engine.asking.engine import Generation, Sampling
from engine.backends.vllm_engine import VllmEngine
from engine.job.spec import CaptureSpec, VllmTeacherSpec
from engine.rows.tools import Conversation


async def answers_of(engine: VllmEngine, prompts: list[list[int]]) -> list[Generation]:
    sampling = (Sampling(temperature=1.0, max_tokens=40, seed=seed) for seed in range(len(prompts)))
    return await asyncio.gather(*map(engine.generate, prompts, sampling))


def main(model: str, questions: Path, top_k: int, result: Path) -> None:
    teacher = VllmTeacherSpec(name="t", model=model, dtype="float32", max_num_seqs=8).to_model()
    engine = VllmEngine(teacher, CaptureSpec(top_k=top_k), device="cpu")
    conversations = []
    for question in json.loads(questions.read_text()):
        conversations.append(Conversation([{"role": "user", "content": question}]))
    prompts = engine.encode(conversations)
    answers = asyncio.run(answers_of(engine, prompts))
    result.write_bytes(
        pickle.dumps((engine.metadata["vocab_size"], list(zip(prompts, answers, strict=True))))
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    os._exit(0)  # the engine's thread knows no end
