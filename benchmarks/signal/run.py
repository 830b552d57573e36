"""Measure the packed top-k signal: bytes per token, information lost, time. See README.md beside
this file."""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.result import bounded, write_result
from engine.rows import codec
from engine.rows.records import SCHEMA_VERSION, Completion, completion_schema
from engine.rows.signal import read_signal
from engine.rows.tables import to_table, write_parquet

REPOSITORY = Path(__file__).parents[2]
VOCABULARY, SIGMAS, KS, TOKENS, ROW_TOKENS = 129_280, (1.5, 3, 5, 8), (16, 50, 128), 1024, 128
BITS = (8, 5, 4)
LIMITS = {8: (160, 1e-4), 5: (120, 1e-3)}  # k = 50: bytes per token, added KL in nats
PACK_LIMIT_US = 15
DISTILLKIT_BYTES = {50: 114, 128: 300}  # published in DistillKit's README
SIGNAL_COLUMNS = ("topk_ids", "topk_logprobs", "tail", "topk_packed")


@dataclasses.dataclass(frozen=True)
class Dense:
    """What is kept of T dense distributions: their 128 most likely ids, descending, and sum p log p
    (T,) over all ids."""

    vocab_size: int
    ids: np.ndarray
    logprobs: np.ndarray  # float64
    negative_entropy: np.ndarray

    @staticmethod
    def of(logits: Iterator[np.ndarray]) -> "Dense":
        """Chunks of logits (n, V)."""
        ids, logprobs, negative_entropy = [], [], []
        for chunk in logits:
            lp = chunk.astype(np.float64)
            lp -= lp.max(axis=1, keepdims=True)
            lp -= np.log(np.exp(lp).sum(axis=1, keepdims=True))
            top = np.argpartition(-lp, max(KS) - 1, axis=1)[:, : max(KS)]
            values = np.take_along_axis(lp, top, 1)
            order = np.argsort(-values, axis=1)
            ids.append(np.take_along_axis(top, order, 1).astype(np.int32))
            logprobs.append(np.take_along_axis(values, order, 1))
            negative_entropy.append((np.exp(lp) * lp).sum(axis=1))
        return Dense(
            lp.shape[1], *(np.concatenate(found) for found in (ids, logprobs, negative_entropy))
        )

    def captured(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What an engine hands over: ids (T, k), logprobs (T, k) float32, tail (T,) as 1 - their
        mass."""
        logprobs = self.logprobs[:, :k].astype(np.float32)
        tail = 1 - np.exp(logprobs.astype(np.float64)).sum(axis=1)
        return self.ids[:, :k], logprobs, tail.clip(0, 1).astype(np.float32)


def normal_logits(sigma: float) -> Iterator[np.ndarray]:
    """TOKENS rows of logits N(0, sigma) over the vocabulary; so the top ids are uniformly
    random."""
    rng = np.random.default_rng(int(10 * sigma))
    for _ in range(TOKENS // 64):
        yield rng.standard_normal((64, VOCABULARY), dtype=np.float32) * sigma


def teacher_logits(prompts: int = 48) -> Iterator[np.ndarray]:
    """Float32 logits of the quickstart's teacher at each token of its own sampled answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = REPOSITORY / "jobs/quickstart"
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32).eval()
    torch.manual_seed(0)
    lines = (folder / "data/validation.jsonl").read_text().splitlines()[:prompts]
    for line in lines:
        chat = [{"role": "user", "content": json.loads(line)["prompt"]}]
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        with torch.no_grad():
            answer = model.generate(
                prompt, max_new_tokens=64, do_sample=True, temperature=1.0, top_k=0
            )
            yield model(answer).logits[0, prompt.shape[1] - 1 : -1].numpy()


def stored(
    dense: Dense, k: int, bits: int | None, path: Path
) -> tuple[np.ndarray, np.ndarray, float]:
    """Write the signal as completions and read it back: logprobs (T, k) as `dense` orders ids, tail
    (T,), bytes per token of its columns.

    `bits` None is codec plain with float16 values.
    """
    ids, logprobs, tail = dense.captured(k)
    rows = [slice(at, at + ROW_TOKENS) for at in range(0, len(ids), ROW_TOKENS)]
    signals = [(ids[row].ravel(), logprobs[row].ravel(), tail[row]) for row in rows]
    if bits is None:
        columns = [dict(zip(SIGNAL_COLUMNS, signal, strict=False)) for signal in signals]
    else:
        columns = [
            {"topk_packed": packed}
            for packed in codec.pack_rows(signals, k, dense.vocab_size, bits)
        ]
    completions = [
        Completion(
            n,
            "t",
            0,
            "train",
            0,
            "ok",
            token_ids=ids[row, 0],
            token_logprobs=logprobs[row, 0],
            **columns[n],
        )
        for n, row in enumerate(rows)
    ]
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "codec": "packed" if bits else "plain",
        "top_k": k,
        "vocab_size": dense.vocab_size,
    }
    write_parquet(
        to_table(completions, completion_schema(), metadata | {"packed_bits": bits}), path
    )
    read = list(read_signal(path))
    found_ids, found, found_tail = (
        np.concatenate([getattr(row, name) for row in read]) for name in ("ids", "logprobs", "tail")
    )
    by_id, rank = np.argsort(found_ids, axis=1), np.argsort(np.argsort(ids, axis=1), axis=1)
    assert (np.take_along_axis(found_ids, np.take_along_axis(by_id, rank, 1), 1) == ids).all(), (
        "ids changed"
    )
    groups = [
        pq.read_metadata(path).row_group(n) for n in range(pq.read_metadata(path).num_row_groups)
    ]
    chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
    size = sum(
        chunk.total_compressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] in SIGNAL_COLUMNS
    )
    ordered = np.take_along_axis(found, np.take_along_axis(by_id, rank, 1), 1)
    return ordered.astype(np.float64), found_tail.astype(np.float64), size / len(ids)


def buckets(logprobs: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Log-probabilities of k + 1 buckets (T, k + 1), normalised."""
    logs = np.column_stack([logprobs, np.log(np.maximum(tail, 1e-30))])
    return logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))


def dense_kl(dense: Dense, logs: np.ndarray) -> float:
    """KL(dense || buckets) in nats, mean over tokens, the last bucket spread evenly over the ids
    outside the top k."""
    k = logs.shape[1] - 1
    p = np.exp(dense.logprobs[:, :k])
    outside = 1 - p.sum(axis=1)
    cross = (p * logs[:, :k]).sum(axis=1) + outside * (logs[:, k] - np.log(dense.vocab_size - k))
    return float((dense.negative_entropy - cross).mean())


def microseconds(work: Any, tokens: int) -> float:
    """Median of seven runs, per token."""
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(seconds) / tokens, 2)


def measure(name: str, dense: Dense, k: int, folder: Path) -> list[dict[str, Any]]:
    """One row of results per packed setting."""
    logprobs, tail, plain_bytes = stored(dense, k, None, folder / "plain.parquet")
    plain = buckets(logprobs, tail)
    ids, captured, captured_tail = dense.captured(k)
    found = []
    for bits in BITS:
        logprobs, tail, file_bytes = stored(dense, k, bits, folder / f"packed{bits}.parquet")
        packed = buckets(logprobs, tail)
        divergence = float((np.exp(plain) * (plain - packed)).sum(axis=1).mean())
        data = codec.pack(ids, captured, captured_tail, dense.vocab_size, bits)
        plain_loss, packed_loss = dense_kl(dense, plain), dense_kl(dense, packed)
        found.append(
            {
                "set": name,
                "vocabulary": dense.vocab_size,
                "tokens": len(ids),
                "k": k,
                "bits": bits,
                "bytes": len(data) / len(ids),
                "file_bytes": round(file_bytes, 1),
                "plain_file_bytes": round(plain_bytes, 1),
                "distillkit_bytes": DISTILLKIT_BYTES.get(k),
                "kl_dense_plain": plain_loss,
                "kl_dense_packed": packed_loss,
                "kl_difference": packed_loss - plain_loss,
                "kl_plain_packed": divergence,
                "added_kl": max(divergence, packed_loss - plain_loss),
                "pack_us": microseconds(
                    partial(codec.pack, ids, captured, captured_tail, dense.vocab_size, bits),
                    len(ids),
                ),
                "unpack_us": microseconds(
                    partial(codec.unpack, data, k, dense.vocab_size, bits), len(ids)
                ),
            }
        )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    columns = (
        "set",
        "k",
        "bits",
        "bytes",
        "file_bytes",
        "plain_file_bytes",
        "distillkit_bytes",
        "kl_dense_plain",
        "added_kl",
        "pack_us",
        "unpack_us",
    )
    cells = [columns, ["---"] * len(columns)]
    cells += [
        [
            f"{row[c]:.3g}" if c in ("kl_dense_plain", "added_kl") else str(row[c] or "")
            for c in columns
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def main() -> int:
    """Exit 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    target = parser.parse_args().json
    sets = {f"normal sigma={sigma:g}": normal_logits(sigma) for sigma in SIGMAS} | {
        "quickstart teacher": teacher_logits()
    }
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, logits in sets.items():
            dense = Dense.of(logits)
            rows += [row for k in KS for row in measure(name, dense, k, Path(temporary))]
    print(table(rows))
    ratios = {}
    for bits, (most_bytes, most_kl) in LIMITS.items():
        bound = [row for row in rows if row["k"] == 50 and row["bits"] == bits]
        large = [row for row in bound if row["vocabulary"] == VOCABULARY]
        ratios[f"bytes_k50_bits{bits}"] = bounded(
            max(max(row["bytes"], row["file_bytes"]) for row in large), "<=", most_bytes
        )
        ratios[f"added_kl_k50_bits{bits}"] = bounded(
            max(row["added_kl"] for row in large), "<=", most_kl
        )
        ratios[f"added_kl_captured_k50_bits{bits}"] = bounded(
            max(row["added_kl"] for row in bound if row not in large), "<=", most_kl
        )
        ratios[f"pack_us_k50_bits{bits}"] = bounded(
            max(row["pack_us"] for row in large), "<=", PACK_LIMIT_US
        )
    return write_result(target, ratios, rows=rows)


if __name__ == "__main__":
    sys.exit(main())
