"""What engine/backends/lm_eval_worker.py says over its pipes, without lm-eval: for tests of the
other side. The first argument is what goes wrong."""

import json
import os
import sys
from pathlib import Path

TASKS = {
    "sums": {"kind": "generate_until", "n": 2, "shots": 0, "version": "1.0"},
    "choice": {"kind": "multiple_choice", "n": 2, "shots": 0, "version": None},
}


def tell(said):
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main(fault):
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "load":
            offline = os.environ["HF_HUB_OFFLINE"] == "1"
            if fault == "load" or not offline:
                tell({"error": f"{asked['files'][0]}: lm-eval cannot read it"})
            else:
                tell({"version": "0.0", "tasks": TASKS})
            continue
        model = asked["model"]
        work = Path(asked["work"])
        (work / "answers.db").write_text("")
        with (work.parent / f"asked-{work.name}.jsonl").open("a") as seen:
            seen.write(json.dumps(model) + "\n")
        tell({"done": 1, "total": 2})
        if fault == "die":
            sys.stderr.write("the last words")
            sys.exit(3)
        if fault == "score":
            tell({"error": "task sums: no"})
            continue
        tell({"done": 2, "total": 2})
        Path(asked["samples"]).write_text('{"task": "sums"}\n' * 2)
        score = {"task": "sums", "metric": "exact_match", "filter": "none"}
        is_api = model["kind"] == "api"
        tell(
            {
                "scores": [score | {"value": 0.5, "stderr": 0.25, "higher_is_better": True}],
                "unknown": {"choice": "no log-probabilities"} if is_api else {},
                "samples": 2,
                "chat_template": True,
                "shortened": 0 if is_api else 3,
                "refused": 1 if is_api else 0,
                "cost_usd": 0.125 if is_api else None,
            }
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
