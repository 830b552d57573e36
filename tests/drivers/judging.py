"""A driver of tests/stages/evaluate/test_judge.py, to be killed: the judge on answers of a plan.

python judging.py PLAN.json: {texts: {model: [answer, …]}, judge: JudgeSpec, out, task}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.backends import fake
from engine.job.spec import FakeTeacherSpec, GenerateSpec, JudgeSpec
from engine.rows.records import Completion, Prompt
from engine.run.context import Context
from engine.stages.evaluate.judge import Opinion, opinion_of
from engine.stages.evaluate.scoring import Resampling

GENERATE = GenerateSpec(teachers=[FakeTeacherSpec(name="big", model="big")])


def opinion(
    judge: Mapping[str, Any],
    texts: Mapping[str, Sequence[str]],
    out: Path,
    *,
    generate: GenerateSpec = GENERATE,
    models: Sequence[Any] = (),
    clusters: Sequence[int] | None = None,
    references: Sequence[str] = (),
    stream: Any = fake.stream,
) -> Opinion:
    """What the judge says of these answers, by model; prompt n asks `question n`."""
    prompts = []
    for number in range(len(texts["student"])):
        messages = [{"role": "user", "content": f"question {number}"}]
        sha256 = f"{number:064x}"
        prompt = Prompt(
            number, sha256, "a", messages, "qa", "a", "validation", references=list(references)
        )
        prompts.append(prompt)
    answers = {}
    for model, said in texts.items():
        rows = []
        for number, text in enumerate(said):
            rows.append(Completion(number, model, 0, "validation", 0, "ok", text=text))
        answers[model] = rows
    return opinion_of(
        JudgeSpec.model_validate(judge),
        generate,
        models,
        prompts,
        answers,
        out,
        Context("t", "qa", 0),
        Resampling(200, 0, clusters),
        stream,
    )


if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    opinion(plan["judge"], plan["texts"], Path(plan["out"]))
