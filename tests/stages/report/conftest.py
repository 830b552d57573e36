"""A finished run by hand: six published stages whose figures the tests know."""

import json
from dataclasses import replace
from functools import partial

import pytest

from engine.job.spec import ReportSpec
from engine.rows.records import ANSWER, PROMPT, TIME_SLICE, Answer, Prompt, TimeSlice
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.facts import INFO as FACTS
from engine.run.manifests import Counts, finished, publish, stage_folder
from engine.stages import report as report_stage

CTX = Context(job="quick <b>&", task="math", seed=0)


PARTS = ("late", "network", "ingress", "handling", "queue", "prefill", "decode")


def level(load, tokens, ttft, failed=0, verdict="ok", reason="all was answered", **fields):
    """An entry of report.json whose figures follow from a few."""

    def times(*values):
        return dict(zip(("p50", "p95", "p99"), values, strict=True))

    def around(percentiles):
        ends = {}
        for name, value in percentiles.items():
            ends[name] = [None, None] if value is None else [value * 0.9, value * 1.2]
        return ends

    ttft_ms = times(ttft, ttft * 2.1, None if failed else ttft * 3)
    tpot_ms = times(8.0, 9.5, 12.25)
    e2e_ms = times(ttft + 300, ttft * 2 + 350, None if failed else ttft * 3 + 400)
    # which add up to the mean of E2E below
    parts_ms = dict.fromkeys(PARTS, 5.0) | {"queue": ttft / 2, "decode": 275 + ttft / 2}
    served = tokens / 40
    valid = verdict != "client limited"
    kind = "closed" if "concurrency" in load else "poisson"
    return {
        "kind": kind,
        **load,
        "requests": 120,
        "failed": failed,
        "failures": {"http_500": failed} if failed else {},
        "failure_examples": {"http_500": "out of | memory"} if failed else {},
        "offered_rps": load.get("rate"),
        "served_rps": served,
        "served_rps_ci": [served * 0.9, served * 1.1],
        "request_throughput": served,
        "output_tokens_per_second": tokens,
        "output_tokens_per_second_ci": [tokens * 0.9, tokens * 1.1],
        "ttft_ms": ttft_ms,
        "tpot_ms": tpot_ms,
        "e2e_ms": e2e_ms,
        "ttft_ms_ci": around(ttft_ms),
        "tpot_ms_ci": around(tpot_ms),
        "e2e_ms_ci": around(e2e_ms),
        "goodput": {
            "slo": {"ttft_ms": 100.0, "percentile": 99.0},
            "good": 110,
            "rps": served * 0.9,
            "share": 0.9,
            "share_ci": [0.85, 0.95],
            "tokens_per_second": 310.0,
            "met": False,
        },
        "client": {
            "processes": 1,
            "cores": 0.2,
            "ceiling_share": 0.2,
            "is_calibrated": True,
            "lag_ms": {"p50": 0.1, "p99": 0.5},
            "loop_lag_ms": {"p50": 0.1, "p99": 0.5},
            "clock_jump_s": 0.0,
            "others_cpu": 0.1,
            "unsent": 0,
        },
        "server": {
            "url": "http://127.0.0.1:8000/metrics",
            "looks": 30,
            "missed_looks": 0,
            "look_cpu_s": 0.02,
            "slowest_look_ms": 8.0,
            "parts_ms": parts_ms,
            "unknown": [],
            "said": {"running_max": 4.0, "queued_max": 0.0, "replicas_min": 1, "replicas_max": 2},
            "answers": 118,
            "ttft_ms": ttft,
            "e2e_ms": ttft + 300,
            "engine_ttft_ms": ttft - 4,
        },
        "verdict": verdict,
        "verdict_reason": reason,
        "valid": valid,
        "invalid_reason": None if valid else reason,
        "notes": ["it was steady only from 2.0 s of the window on"],
        **fields,
    }


LAG = "its p99 lag was 61.0 ms, more than 50.0 ms"
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
            level({"rate": 64.0}, 2700.0, 91.0, verdict="client limited", reason=LAG),
            level({"rate": 90.0}, 2800.0, 4000.0, verdict="overloaded", reason="a queue grew"),
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


def slices(serving, replicas=(1, 1, 2, 2)):
    """Four slices of each level."""
    rows = []
    for model, measured in serving.items():
        for number, _ in enumerate(measured["levels"]):
            for at, running in enumerate(replicas):
                row = TimeSlice(model, f"level {number}", at - 0.5, at * 2, 4, 3, 0, 90, 20, 30)
                rows.append(replace(row, replicas=running, queued=at, running=2))
    return rows


def write_timeline(folder, serving):
    (folder / "data").mkdir(exist_ok=True)
    rows = slices(serving)
    write_parquet(to_table(rows, TIME_SLICE), folder / "data/timeline.parquet")
    return {"data/timeline.parquet": len(rows)}


def finish_stage(root, stage, order, info=None, rows=None, tables=None):
    """Publish one stage, with other figures than the usual where they are given, and `tables` by
    file."""
    folder = stage_folder(root, order, stage, {})
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    if stage == "train":
        lines = [{"step": s, "loss": 2.5 * 0.991**s + 0.08, "lr": 1e-3} for s in range(1, 401)]
        lines += [
            {"step": s, "validation_loss": 2.5 * 0.991**s + 0.1} for s in (100, 200, 300, 400)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        files = {"metrics.jsonl": len(lines)}
    if stage == "loadtest":
        files = write_timeline(folder, (info or INFO[stage])["serving"])
    for name, table in (tables or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_parquet(table, folder / name)
        files[name] = len(table)
    rows_in, rows_out, dropped = rows or ROWS[stage]
    said = FACTS[stage].model_validate(INFO[stage] if info is None else info)
    counts = Counts(rows_in, rows_out, files, dropped, said)
    publish(folder, stage, {}, counts, 12.5 * order)
    return finished(folder)


def finish_all(root):
    """The stages of a whole finished run."""
    return {stage: finish_stage(root, stage, order) for order, stage in enumerate(INFO, 1)}


def report_folder(root):
    folder = stage_folder(root, 8, "report", {})
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def finish(tmp_path):
    return partial(finish_stage, tmp_path / "job")


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
VERDICTS = dict.fromkeys(("right", "wrong", "no_answer", "ambiguous", "unverified", "unchecked"), 0)
BEHIND = COMPARED | {"difference": -0.082, "ci95": [-0.11, -0.054], "wins": 3, "losses": 44}
EVALUATED = INFO["evaluate"] | {
    "comparisons": {"baseline": [COMPARED], "teacher": [BEHIND]},
    "signatures": {"bleu": "nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:2.6.0"},
    "footprint": {
        "teacher": {"weights_bytes": 7_600_000, "kv_bytes_per_token": 4096},
        "baseline": {"weights_bytes": 950_000, "kv_bytes_per_token": 1024},
        "student": {"weights_bytes": 950_000, "kv_bytes_per_token": 1024},
    },
    "verdicts": {
        "teacher": VERDICTS | {"right": 499, "wrong": 1},
        "student": VERDICTS | {"right": 456, "wrong": 40, "no_answer": 3, "unverified": 1},
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
def inputs(tmp_path):
    return finish_all(tmp_path / "job")


@pytest.fixture
def out(tmp_path):
    return report_folder(tmp_path / "job")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a whole run, to be read and left as it is."""
    root = tmp_path_factory.mktemp("report") / "job"
    out = report_folder(root)
    counts = report_stage.run(ReportSpec(), finish_all(root), out, CTX)
    publish(out, "report", {}, counts, 1.0)
    return out
