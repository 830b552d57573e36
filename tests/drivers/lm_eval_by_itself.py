"""`python lm_eval_by_itself.py MODEL OUT FOLDER NAME…`: the harness with its own model
(transformers, in float32) and no engine of ours; writes {task: {"figures": …, "resps": …}} to OUT
as JSON."""

import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager


def main(model: str, out: str, folder: str, *names: str) -> None:
    os.chdir(folder)
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=list(names),
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=100,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    told = {}
    for task, figures in found["results"].items():
        rows = found["samples"].get(task, [])
        told[task] = {"figures": figures, "resps": [row["resps"] for row in rows]}
    Path(out).write_text(json.dumps(told, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
