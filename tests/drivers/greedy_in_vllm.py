"""Greedy answers of several models in float32 by vLLM, in a process of its own: an engine leaves
its environment behind.

python greedy_in_vllm.py ASKED.json GIVEN.json: [{model, max_model_len, prompts: token ids}] -> [[16
token ids per prompt]]
"""

import json
import os
import sys
from pathlib import Path

from engine.backends.vllm_settings import engine_arguments, engine_environment
from engine.job.spec import VllmTeacherSpec


def main(asked: Path, given: Path) -> None:
    os.environ.update(engine_environment(1, "cpu"))
    from vllm import LLM, SamplingParams
    from vllm.model_executor.layers import rotary_embedding

    sampling = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, detokenize=False)
    answers = []
    for request in json.loads(asked.read_text()):
        teacher = VllmTeacherSpec(
            name="t",
            model=request["model"],
            max_model_len=request["max_model_len"],
            dtype="float32",
            kv_cache_gib=0.25,
        ).to_model()
        # kept per process, whatever the length, which decides long-rope's factors
        rotary_embedding._ROPE_DICT.clear()
        llm = LLM(**engine_arguments(teacher, "cpu"))
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in request["prompts"]], sampling
        )
        answers.append([list(output.outputs[0].token_ids) for output in outputs])
        del llm
    given.write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # the engine's thread knows no end
