"""What is done with one architecture, each step in a process of its own: tiny teacher and student,
answers with top-k, training, export, serving, and the served answers beside transformers'.

Only what has nothing to do with the architecture is left out: Ray's actors, and the front of an
endpoint. Generation is the stage with vLLM in this process, training the stage with DeepSpeed and
one worker, serving the server that a replica holds.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.train_layout import launch_here
from engine.errors import StageError
from engine.job.spec import JobSpec, Model
from engine.machines.tiny_models import tiny_config
from engine.run.context import Context
from engine.run.facts import TrainInfo
from engine.run.manifests import Finished, finished, publish

SHRINK = 16
TOP_K = 8
PROMPTS = 24
ANSWER_TOKENS = 16
STEPS_OF_TRAINING = 4
# Log-probabilities of fp32 computed in another order: a token that is less likely than the
# likeliest by no more is a tie.
TIE_NATS = 1e-3
MOST_TOKENS = 320  # of a block, where the model has as many positions


def context_of(name: str) -> int:
    """Positions of the tiny model that are served."""
    return min(2 * MOST_TOKENS, tiny_config(name, SHRINK)["max_position_embeddings"])


def prompt_lengths(name: str) -> list[int]:
    """Of the prompts that both are asked: a few tokens, and more than any window; of a long-rope
    model all on the side on which it was trained."""
    original = tiny_config(name, SHRINK).get("original_max_position_embeddings")
    if original:
        return [original + 4, original + 40, original + 200]
    return [5, 60, 200, context_of(name) - ANSWER_TOKENS]


def job_of(name: str, here: Path, *, fake: bool = False) -> JobSpec:
    """The job of one architecture; `fake`: the teacher repeats the prompt, where the real one
    cannot answer here."""
    block = min(MOST_TOKENS, context_of(name))
    engine = {"dtype": "float32", "kv_cache_gib": 0.25, "max_model_len": context_of(name)}
    teacher: dict[str, Any] = {"name": "t", "model": str(here / "teacher")}
    loss = "forward_kl"
    if fake:
        teacher |= {"kind": "fake"}
        loss = "sft"
    else:
        teacher |= {"kind": "vllm", "max_num_seqs": 16} | engine
    return JobSpec.model_validate(
        {
            "name": "models",
            "task": "conversation",
            "device": "cpu",
            "prompts": {"train": str(here / "prompts.jsonl"), "validation_fraction": 0.2},
            "generate": {
                "teachers": [teacher],
                "sampling": {"max_tokens": 32, "stop_loops": False},
                "capture": {"top_k": 0 if fake else TOP_K, "dtype": "float32"},
            },
            "curate": {"keep_truncated": True, "check_reference": False},
            "train": {
                "student": str(here / "student"),
                "loss": loss,
                "learning_rate": 2e-3,
                "epochs": STEPS_OF_TRAINING,
                "global_batch": 4,
                "block_tokens": block,
                "precision": "fp32",
                "trackers": [],
                "gates": {"min_captured_mass": 0},  # a random teacher is almost uniform
                "deepspeed": {"torch_adam": True},
            },
            "serve": engine | {"max_num_seqs": 16},
        }
    )


def make(name: str, here: Path) -> dict[str, Any]:
    """Teacher and student of one tokenizer, and the prompts."""
    from engine.training.tiny_models import save_tiny, train_tokenizer

    texts = [f"What is {n} plus {n + 7}, and how did you find it?" for n in range(PROMPTS)]
    rows = [json.dumps({"prompt": text}) + "\n" for text in texts]
    (here / "prompts.jsonl").write_text("".join(rows))
    tokenizer = train_tokenizer(texts, 320)
    for seed, role in enumerate(("teacher", "student")):
        save_tiny(name, here / role, tokenizer, shrink=SHRINK, seed=seed)
    return {"config": tiny_config(name, SHRINK)}


def generate(name: str, here: Path) -> dict[str, Any]:
    """The teacher's answers with their top-k."""
    answers = _answered(job_of(name, here), here / "answered")
    return {"rows": answers.manifest.rows_out, "top_k": TOP_K}


def train(name: str, here: Path) -> dict[str, Any]:
    """From the signal where there is one, else from texts; exported."""
    is_fake = "failed" in json.loads((here / "generate.json").read_text())
    job = job_of(name, here, fake=is_fake)
    folder = here / "answered"
    if is_fake:
        folder = here / "answered-by-fake"
        _answered(job, folder)
    needs = {stage: finished(folder / stage) for stage in ("prompts", "generate")}
    curated = {"curate": _run_stage("curate", job, needs, folder)}
    more = {"generate": job.generate, "launch": launch_here}
    info = _run_stage("train", job, curated, here, **more).manifest.info
    assert isinstance(info, TrainInfo)
    return {
        "loss": job.train.loss.kind,
        "steps": info.steps,
        "first_loss_error": info.gates["first_loss_error"],
        "teacher_drift_nats": info.gates.get("drift", {}).get("t"),
        "final_loss": info.final_loss,
    }


def serve(name: str, here: Path) -> dict[str, Any]:
    """The exported student behind the product's server, asked greedily; its answers beside those of
    transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    student = here / "train" / "student"
    vocabulary = json.loads((student / "config.json").read_text())["vocab_size"]
    draw = torch.Generator().manual_seed(0)
    prompts = []
    for length in prompt_lengths(name):
        prompts.append(torch.randint(3, vocabulary, (length,), generator=draw).tolist())
    served = asyncio.run(_served_answers(name, here, student, prompts))
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).eval()
    compared = [_compared(model, one, *answer) for one, answer in zip(prompts, served, strict=True)]
    return {
        "prompts": len(compared),
        "equal": sum(one["alike"] == "equal" for one in compared),
        "ties": sum(one["alike"] == "tie" for one in compared),
        "largest_logprob_error_nats": max(one["logprob_error"] for one in compared),
        "answers": compared,
    }


STEPS = {"make": make, "generate": generate, "train": train, "serve": serve}


def _answered(job: JobSpec, folder: Path) -> Finished:
    """The finished generate stage, answered in this process."""
    from engine.backends import fake

    prompts = {"prompts": _run_stage("prompts", job, {}, folder)}
    return _run_stage("generate", job, prompts, folder, stream=fake.stream)


def _run_stage(
    name: str, job: JobSpec, needs: Mapping[str, Finished], folder: Path, **more: Any
) -> Finished:
    """A stage as the pipeline runs it, without its checks: what they refuse is to be tried."""
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    (out / "data").mkdir(parents=True)
    stage = importlib.import_module(f"engine.stages.{name}")
    context = Context(job.name, job.task, job.seed, job.device)
    counts = stage.run(getattr(job, name), needs, out, context, **more)
    publish(out, name, {"benchmark": "models"}, counts, 0.0)
    return finished(out)


async def _served_answers(
    name: str, here: Path, student: Path, prompts: Sequence[list[int]]
) -> list[tuple[list[int], list[float]]]:
    """Tokens and their log-probabilities, as a client of the endpoint gets them."""
    import httpx

    from engine.backends.vllm_server import VllmServer
    from engine.serving.replica import ServedModel

    spec = job_of(name, here).serve
    server = VllmServer(ServedModel(Model("student", str(student), None, spec), "cpu"))
    await server.start()
    transport = httpx.ASGITransport(server.app)
    answers = []
    async with httpx.AsyncClient(transport=transport, base_url="http://student") as client:
        for prompt in prompts:
            asked = {
                "model": "student",
                "prompt": prompt,
                "max_tokens": ANSWER_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
                "logprobs": 1,
                "return_token_ids": True,
            }
            reply = await client.post("/v1/completions", json=asked, timeout=120)
            if not reply.is_success:
                raise StageError(f"the server answered {reply.status_code}: {reply.text[:300]}")
            (choice,) = reply.json()["choices"]
            answers.append((choice["token_ids"], choice["logprobs"]["token_logprobs"]))
    server.shutdown()
    return answers


def _compared(
    model: Any, prompt: list[int], theirs: list[int], logprobs: list[float]
) -> dict[str, Any]:
    """One served answer beside transformers' greedy one, and beside transformers'
    log-probabilities of the served tokens."""
    import torch

    asked = torch.tensor([prompt])
    with torch.inference_mode():
        ours = model.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        logits = model(torch.tensor([prompt + theirs])).logits[0, len(prompt) - 1 : -1]
    likely = logits.float().log_softmax(-1)
    taken = likely[torch.arange(len(theirs)), torch.tensor(theirs)]
    error = (taken - torch.tensor(logprobs)).abs().max()
    found: dict[str, Any] = {"prompt_tokens": len(prompt), "logprob_error": float(error)}
    if ours == theirs:
        return found | {"alike": "equal"}
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    gap = float(likely[at].max() - taken[at])
    alike = "tie" if gap <= TIE_NATS else "different"
    return found | {"alike": alike, "differ_at": at, "gap_nats": gap}
