"""On a GPU, pure torch: a 1B student's throughput with MFU, and losses at vocabulary 128,256. See
README.md beside this file."""

import argparse
import functools
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kd_memory.measure import draw as draw_heads
from benchmarks.kd_memory.measure import piece_loss, run_once, spec_of, stored
from benchmarks.result import bounded, write_result
from engine.training.attention import attention_of
from engine.training.blocks import Batch
from engine.training.flops import Workload, peak_flops
from engine.training.student import Student

# Llama-3.2-1B's shape (its config.json): 1.24B parameters with tied embeddings.
SHAPE = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
SMOKE = SHAPE | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
EXAMPLE_TOKENS, TARGET_SHARE = 512, 0.75
HEAD_TOKENS = 8192
WARMUP, STEPS, KERNELS = 3, 10, 20
LEAST_MFU, MOST_TIME, MOST_MEMORY = 0.35, 1.3, 1 / 4


def packed_batch(blocks: int, length: int, vocabulary: int, device: str) -> Batch:
    """Blocks full of examples of EXAMPLE_TOKENS tokens, the last three quarters of each being
    targets."""
    random = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(vocabulary, (blocks, length), generator=random)
    positions_BL = torch.arange(length).remainder(min(EXAMPLE_TOKENS, length)).repeat(blocks, 1)
    is_predictor = positions_BL >= (1 - TARGET_SHARE) * min(EXAMPLE_TOKENS, length)
    is_predictor[:, :-1] &= positions_BL[:, 1:] > 0  # an example's last token predicts nothing
    is_predictor[:, -1] = False
    where_N = is_predictor.flatten().nonzero().flatten()
    none, no_tail_N = torch.zeros(len(where_N), 0), torch.full((len(where_N),), -1.0)
    return Batch(
        ids_BL, positions_BL, where_N, ids_BL.flatten()[where_N + 1], none.long(), none, no_tail_N
    ).to(device)


def synchronised(device: str) -> float:
    """Seconds on a clock that waits for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train_1b(shape: dict[str, Any], blocks: int, length: int, device: str) -> dict[str, Any]:
    """Tokens per second and MFU of forward, backward and a fused AdamW step in bf16, one
    micro-batch per step."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    spec = spec_of("sft", precision="bf16")
    config = LlamaConfig(**shape)
    attention = attention_of(spec, "gpu" if device == "cuda" else "cpu", config)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    student = Student(model, spec).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    batch = packed_batch(blocks, length, shape["vocab_size"], device)

    def step() -> torch.Tensor:
        loss, _ = student(batch)
        (loss / len(batch.where_N)).backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    times = []
    for _ in range(WARMUP + STEPS):
        started = synchronised(device)
        loss = step()
        times.append(synchronised(device) - started)
    seconds = statistics.median(times[WARMUP:])
    lengths = np.full(blocks * length // min(EXAMPLE_TOKENS, length), min(EXAMPLE_TOKENS, length))
    flops, peak = (
        Workload.of(model).flops(lengths, len(batch.where_N)),
        peak_flops(spec, "gpu") if device == "cuda" else None,
    )
    return {
        "parameters": sum(param.numel() for param in model.parameters()),
        "attention": attention,
        "blocks": blocks,
        "block_tokens": length,
        "seconds": seconds,
        "tokens_per_second": blocks * length / seconds,
        "mfu": flops / seconds / peak if peak else None,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "loss": loss.item() / len(batch.where_N),
        "where_the_time_goes": profiled(step, device),
    }


def profiled(step: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """The kernels that take most of one step's time on the device, with their shares: what limits
    the MFU."""
    activity = (
        torch.profiler.ProfilerActivity.CUDA
        if device == "cuda"
        else torch.profiler.ProfilerActivity.CPU
    )
    with torch.profiler.profile(activities=[activity]) as profile:
        step()
        synchronised(device)
    spent = {
        event.key: event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        for event in profile.key_averages()
    }
    whole = sum(spent.values()) or 1  # a profiler that sees no kernel must not cost the figures
    largest = sorted(spent, key=spent.get, reverse=True)[:KERNELS]
    return [{"kernel": name[:90], "share": round(spent[name] / whole, 4)} for name in largest]


def liger(loss: str, drawn: dict[str, torch.Tensor]) -> Callable[[], None] | None:
    """Liger's fused loss of the same meaning, on a GPU where it is installed: `sft`, and
    `forward_kl` with a live teacher."""
    if importlib.util.find_spec("liger_kernel") is None or not drawn["hidden"].is_cuda:
        return None
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, LigerFusedLinearJSD

    def run() -> None:
        drawn["hidden"].grad = drawn["weight"].grad = None
        if loss == "sft":
            LigerFusedLinearCrossEntropyLoss()(
                drawn["weight"], drawn["hidden"], drawn["labels"]
            ).backward()
        else:  # beta 0 is KL(teacher || student)
            LigerFusedLinearJSD(jsd_beta=0.0)(
                drawn["hidden"], drawn["weight"], drawn["shown"], drawn["teacher"], None
            ).backward()

    return run


def head_losses(tokens: int, vocabulary: int, hidden: int, device: str) -> list[dict[str, Any]]:
    """Seconds and peak memory beyond parameters and their gradients of each way to a loss with its
    gradients, in bf16."""
    drawn = draw_heads(tokens, vocabulary, hidden)
    drawn = {
        key: (value.bfloat16() if value.is_floating_point() else value).to(device)
        for key, value in drawn.items()
    }
    signal = stored(drawn)
    for name in ("hidden", "weight"):
        drawn[name].requires_grad_()
    rows = []
    for loss, live in (("sft", False), ("forward_kl", False), ("forward_kl", True)):
        spec = spec_of(loss)
        used = piece_loss(drawn, signal, spec, live)
        ways: dict[str, Callable[[], Any] | None] = {
            kind: functools.partial(run_once, kind, drawn, used, spec.logits_mib * 2**20)
            for kind in ("pieces", "dense")
        }
        ways["liger"] = liger(loss, drawn) if live or loss == "sft" else None
        for kind, run in ways.items():
            if run is not None:
                rows.append(
                    {
                        "loss": loss + ("_live" if live else "_stored"),
                        "kind": kind,
                        **timed(run, drawn["weight"], device),
                    }
                )
    return rows


def timed(run: Callable[[], Any], weight: torch.Tensor, device: str) -> dict[str, Any]:
    """Median seconds, and bytes beyond what was there before and the head's gradient."""
    run()  # kernels are compiled
    weight.grad = None
    before = 0
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    times = []
    for _ in range(STEPS):
        started = synchronised(device)
        run()
        times.append(synchronised(device) - started)
    extra = (
        torch.cuda.max_memory_allocated() - before - weight.numel() * weight.element_size()
        if device == "cuda"
        else None
    )
    return {"seconds": statistics.median(times), "extra_bytes": extra}


def main() -> int:
    """Exit 1 if a bound is missed, 0 without a GPU; --smoke checks that it runs, on any machine,
    and holds nothing against a bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--only", choices=("train", "losses"), help="one of the two")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--block-tokens", type=int, default=2048)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.smoke:
        print("there is no GPU here, so nothing was measured; --smoke runs tiny sizes on a CPU")
        return 0
    shape = SMOKE if options.smoke else SHAPE
    blocks, length = (2, 128) if options.smoke else (options.blocks, options.block_tokens)
    ratios: dict[str, Any] = {}
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name() if device == "cuda" else None}
    if options.only != "losses":
        found["train"] = train_1b(shape, blocks, length, device)
        if found["train"]["mfu"] is not None and not options.smoke:
            ratios["mfu"] = bounded(round(found["train"]["mfu"], 4), ">=", LEAST_MFU)
    if options.only != "train":
        found["head_losses"] = head_losses(
            64 if options.smoke else HEAD_TOKENS, shape["vocab_size"], shape["hidden_size"], device
        )
        ratios |= compared(found["head_losses"], held=not options.smoke)
    return write_result(options.json, ratios, **found)


def compared(heads: list[dict[str, Any]], *, held: bool) -> dict[str, Any]:
    """Time and memory of our pieces over each other way's; `held` against the bounds where the
    other way is the dense one."""
    by_name = {(row["loss"], row["kind"]): row for row in heads}
    ratios = {}
    for (loss, kind), row in by_name.items():
        if kind == "pieces":
            continue
        ours, most_time, most_memory = by_name[loss, "pieces"], float("inf"), float("inf")
        if held and kind == "dense":
            most_time, most_memory = MOST_TIME, MOST_MEMORY
        ratios[f"time_{loss}_to_{kind}"] = bounded(
            round(ours["seconds"] / row["seconds"], 3), "<=", most_time
        )
        if row["extra_bytes"]:
            ratios[f"memory_{loss}_to_{kind}"] = bounded(
                round(ours["extra_bytes"] / row["extra_bytes"], 4), "<=", most_memory
            )
    return ratios


if __name__ == "__main__":
    sys.exit(main())
