"""A finished run by hand: six published stages whose figures the tests know."""

import json

import pytest

from engine.rows.records import ANSWER, PROMPT, Answer, Prompt
from engine.rows.tables import to_table, write_parquet
from engine.run.facts import INFO as FACTS
from engine.run.manifests import Counts, finished, publish, stage_folder


def level(load, tokens, ttft, failed=0, valid=True, **fields):
    def times(*values):
        return dict(zip(("p50", "p95", "p99"), values, strict=True))

    return load | {
        "requests": 120,
        "failed": failed,
        "failures": {"http_500": failed} if failed else {},
        "request_throughput": tokens / 40,
        "output_tokens_per_second": tokens,
        "ttft_ms": times(ttft, ttft * 2.1, None if failed else ttft * 3),
        "tpot_ms": times(8.0, 9.5, 12.25),
        "e2e_ms": times(ttft + 300, ttft * 2 + 350, None if failed else ttft * 3 + 400),
        "valid": valid,
        "invalid_reason": None if valid else "client lagged: p99 lag 61.0 ms, more than 50.0 ms",
        **fields,
    }


SERVING = {
    "teacher": {
        "levels": [
            level({"concurrency": 1}, 210.0, 31.0),
            level({"concurrency": 4}, 640.0, 52.0),
            level({"concurrency": 16}, 1100.0, 140.0),
        ]
    },
    "student": {
        "levels": [
            level({"concurrency": 1}, 350.0, 22.0),
            level({"concurrency": 4}, 1210.0, 35.0),
            level({"concurrency": 16}, 2640.0, 88.0, failed=2),
            level({"rate": 8.0}, 300.0, 40.0),
            level({"rate": 64.0}, 2700.0, 91.0, valid=False),
        ]
    },
}
QUALITY = {
    "metric": "exact_match",
    "n": 500,
    "teacher": 0.954,
    "baseline": 0.004,
    "student": 0.872,
    "retention": 0.914,
    "ci95": {
        "teacher": [0.932, 0.969],
        "baseline": [0.001, 0.014],
        "student": [0.84, 0.898],
        "retention": [0.885, 0.941],
    },
}
INFO = {
    "prompts": {},
    "generate": {
        "prompts": 3500,
        "completions": 3500,
        "tokens_in": 140000,
        "tokens_out": 98000,
        "tokens_per_second": 1803.4,
        "status": {"ok": 3480, "truncated": 20},
        "teachers": [{"name": "tiny"}],
    },
    "curate": {
        "funnel": [
            ["completions", 3000],
            ["status", 2980],
            ["dedup", 2980],
            ["check_reference", 2874],
        ]
    },
    "train": {
        "steps": 400,
        "tokens": 420000,
        "tokens_per_second": 3211.0,
        "final_loss": 0.081,
        "validation_loss": 0.093,
        "zero_stage": 2,
        "workers": 2,
    },
    "evaluate": {
        "quality": QUALITY,
        "metrics": {
            "exact_match": {"teacher": 0.954, "baseline": 0.004, "student": 0.872},
            "rouge_l": {"student": 0.91},
        },
    },
    "loadtest": {"serving": SERVING},
}
ROWS = {
    "prompts": (3502, 3500, {"duplicate": 2}),
    "generate": (3500, 3500, {}),
    "curate": (3000, 2874, {"truncated": 20, "wrong_answer": 106}),
    "train": (2874, 2870, {"too_long": 4}),
    "evaluate": (1500, 1500, {}),
    "loadtest": (960, 958, {"failed": 2}),
}


@pytest.fixture
def finish(tmp_path):
    """Publish one stage with other figures than the usual."""

    def finish(stage, order, info=None, rows=None, tables=None):
        folder = stage_folder(tmp_path / "job", order, stage, {})
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        if stage == "train":
            lines = [{"step": s, "loss": 2.5 * 0.991**s + 0.08, "lr": 1e-3} for s in range(1, 401)]
            lines += [
                {"step": s, "validation_loss": 2.5 * 0.991**s + 0.1} for s in (100, 200, 300, 400)
            ]
            (folder / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
            files = {"metrics.jsonl": len(lines)}
        for name, table in (tables or {}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_parquet(table, folder / name)
            files[name] = len(table)
        rows_in, rows_out, dropped = rows or ROWS[stage]
        said = FACTS[stage].model_validate(INFO[stage] if info is None else info)
        counts = Counts(rows_in, rows_out, files, dropped, said)
        publish(folder, stage, {}, counts, 12.5 * order)
        return finished(folder)

    return finish


COMPARED = {
    "metric": "exact_match",
    "test": "McNemar mid-p",
    "difference": 0.868,
    "ci95": [0.84, 0.896],
    "p": 1e-12,
    "p_holm": 1e-12,
    "wins": 435,
    "losses": 1,
    "ties": 64,
    "n": 500,
    "clusters": 500,
    "mde": 0.0312,
}
BEHIND = COMPARED | {"difference": -0.082, "ci95": [-0.11, -0.054], "wins": 3, "losses": 44}
EVALUATED = INFO["evaluate"] | {
    "comparisons": {"baseline": [COMPARED], "teacher": [BEHIND]},
    "signatures": {"bleu": "nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:2.6.0"},
    "footprint": {
        "teacher": {"weights_bytes": 7_600_000, "kv_bytes_per_token": 4096},
        "baseline": {"weights_bytes": 950_000, "kv_bytes_per_token": 1024},
        "student": {"weights_bytes": 950_000, "kv_bytes_per_token": 1024},
    },
}
# the case that the report escapes: a text with HTML of its own
ANSWERS = {"teacher": "#### {}", "baseline": "I like <b>trains</b>.", "student": "2 + 2\n#### {}"}


@pytest.fixture
def evaluated(inputs, finish):
    """The same run with comparisons and answers, as evaluate leaves them."""
    prompts = []
    answers = []
    for number in range(20):
        messages = [{"role": "user", "content": f"What is {number} and nothing?"}]
        prompt = Prompt(
            number, f"{number:064x}", "a", messages, "math", "a", "validation", f"#### {number}"
        )
        prompts.append(prompt)
        for model, text in ANSWERS.items():
            right = float(model == "teacher" or (model == "student" and number < 12))
            scores = json.dumps({"exact_match": right})
            said = text.format(number)
            answers.append(Answer(number, model, "ok", said, prompt.reference, scores))
    stored = {"data/validation-00000.parquet": to_table(prompts, PROMPT)}
    inputs["prompts"] = finish("prompts", 21, tables=stored)
    stored = {"data/answers.parquet": to_table(answers, ANSWER)}
    inputs["evaluate"] = finish("evaluate", 25, EVALUATED, tables=stored)
    return inputs


@pytest.fixture
def inputs(finish):
    """The stages of a whole finished run."""
    return {stage: finish(stage, order) for order, stage in enumerate(INFO, 1)}


@pytest.fixture
def out(tmp_path):
    folder = stage_folder(tmp_path / "job", 8, "report", {})
    folder.mkdir(parents=True)
    return folder
