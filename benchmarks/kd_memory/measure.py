"""One measurement in a process of its own.

    python -m benchmarks.kd_memory.measure dense|pieces CASE TOKENS    prints JSON {extra_bytes,
    seconds, loss}

`dense` keeps the logits of all tokens, as `loss.backward()` over them does; `pieces` is
engine/training/head.py. Both call the same loss. Shapes: N targets, H hidden size, V vocabulary.
"""

import ctypes
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from engine.job.spec import TrainSpec
from engine.training.head import head_loss
from engine.training.losses import LOSSES, Targets, token_losses

VOCABULARY, HIDDEN, TOP_K, REPEATS = 128_256, 512, 50, 3
# name -> (loss, whether the teacher is live)
CASES = {f"{loss}_stored": (loss, False) for loss in LOSSES}
CASES |= {f"{loss}_live": (loss, True) for loss in LOSSES if loss not in ("sft", "uld")}


def spec_of(loss: str, **more: Any) -> TrainSpec:
    """A train block of this loss."""
    return TrainSpec(student="none", loss=loss, **more)


def draw(
    tokens: int, vocabulary: int = VOCABULARY, hidden: int = HIDDEN
) -> dict[str, torch.Tensor]:
    """Hidden states and heads of student and teacher: logits N(0, 2.5) that agree in part, as after
    some training."""
    random = torch.Generator().manual_seed(0)
    teacher_VH = torch.randn(vocabulary, hidden, generator=random)
    weight_VH = teacher_VH + 0.5 * torch.randn(vocabulary, hidden, generator=random)
    shown_NH = 2.5 * hidden**-0.5 * torch.randn(tokens, hidden, generator=random)
    hidden_NH = shown_NH + 0.3 * hidden**-0.5 * torch.randn(tokens, hidden, generator=random)
    labels_N = torch.randint(vocabulary, (tokens,), generator=random)
    return {
        "hidden": hidden_NH,
        "weight": weight_VH,
        "shown": shown_NH,
        "teacher": teacher_VH,
        "labels": labels_N,
    }


def stored(drawn: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The teacher's top k, 64 tokens at a time so that they do not count as the measured peak: ids,
    log-probabilities, tail."""
    found = []
    for shown in drawn["shown"].split(64):
        values, ids = F.linear(shown, drawn["teacher"]).float().log_softmax(1).topk(TOP_K)
        found.append((ids, values, (1 - values.exp().sum(1)).clamp_min(0)))
    return tuple(map(torch.cat, zip(*found, strict=True)))


def piece_loss(
    drawn: dict[str, torch.Tensor], signal: tuple[torch.Tensor, ...], spec: TrainSpec, live: bool
) -> Any:
    """What student.py hands to head_loss: losses and right tokens of a piece."""
    ids, values, tail = signal

    def loss(logits_nV: torch.Tensor, piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            dense = (
                F.linear(drawn["shown"][piece], drawn["teacher"]).to(logits_nV.dtype)
                if live
                else None
            )
        labels_n = drawn["labels"][piece]
        targets = Targets(labels_n, ids[piece], values[piece], tail[piece], dense)
        return token_losses(logits_nV, targets, spec.loss), (
            logits_nV.detach().argmax(1) == labels_n
        ).sum()

    return loss


def run_once(kind: str, drawn: dict[str, torch.Tensor], loss: Any, piece_bytes: int) -> float:
    """Loss, with the gradients of hidden states and head left in them."""
    hidden, weight = drawn["hidden"], drawn["weight"]
    hidden.grad = weight.grad = None
    if kind == "dense":
        losses, _ = loss(F.linear(hidden, weight), slice(0, len(hidden)))
        total = losses.sum()
    else:
        total, _ = head_loss(hidden, weight, None, loss, piece_bytes)
    mean = total / len(hidden)
    mean.backward()
    return mean.item()


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Greatest resident memory since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> int:
    """Give freed memory back to the kernel and let VmHWM start again from what stays (proc(5),
    clear_refs); bytes that stay."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()


def main() -> None:
    """Measure one case once."""
    kind, case, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    name, live = CASES[case]
    spec = spec_of(name)
    drawn = draw(tokens)
    signal = stored(drawn)
    drawn["hidden"].requires_grad_()
    drawn["weight"].requires_grad_()
    loss = piece_loss(drawn, signal, spec, live)
    piece_bytes = spec.logits_mib * 2**20
    few = {
        **drawn,
        "hidden": drawn["hidden"].detach()[:8].requires_grad_(),
        "weight": drawn["weight"].detach()[:4096].requires_grad_(),
    }
    torch.mm(
        few["hidden"], few["weight"].T
    ).sum().backward()  # threads and their buffers are there before the clock and the peak
    before = forget_peak()
    value = run_once(kind, drawn, loss, piece_bytes)
    extra = peak_bytes() - before - drawn["weight"].numel() * drawn["weight"].element_size()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run_once(kind, drawn, loss, piece_bytes)
        seconds.append(time.perf_counter() - started)
    print(
        json.dumps(
            {
                "extra_bytes": extra,
                "seconds": statistics.median(seconds),
                "loss": value,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
