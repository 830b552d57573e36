"""Checks before the first step, seconds long: what the student is about to learn from, and by, is
what it should be.

Three silent errors of distillation are caught here: an engine that saw another teacher than a
trainer would (drift), a top-k that holds too little of the distribution, and a fast loss that is
not the loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.errors import StageError
from engine.job.spec import GenerateSpec, TrainSpec, VllmTeacherSpec
from engine.rows.signal import Signal, arrays, count_unsigned, signals
from engine.rows.tables import file_metadata, metadata_of, read_tables
from engine.store.paths import Folder
from engine.training.blocks import Batch, Blocks
from engine.training.engine import Engine
from engine.training.head import pieces
from engine.training.packing import Packed
from engine.training.rope import pin_long_rope
from engine.training.student import Student, logit_adjustment

AT_HAND_BYTES = 4 * 2**30  # a larger teacher takes minutes to load, or does not fit here at all
# Below e^-10 a float16 log-probability and a loss's weight of it are both noise.
LEAST_LOGPROB = -10.0
SLICE_TARGETS = 64
Answered = tuple[np.ndarray, np.ndarray, Signal]  # ids of prompt and answer, and the signal there
# By what a teacher's spec says.
_DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def captured_mass(packed: Packed, spec: TrainSpec) -> float | None:
    """Mean probability that the stored top-k holds per target; StageError below
    gates.min_captured_mass."""
    mass = packed.captured_mass
    least = spec.gates.min_captured_mass
    if mass is not None and mass < least:
        raise StageError(
            f"train: the stored top-k holds {mass:.2f} of the teacher's probability per token, less"
            " than train.gates.min_captured_mass"
            f" ({least:g}); generate again with a larger generate.capture.top_k or a lower sampling"
            " temperature, or lower the bound"
        )
    return mass


def drift(
    files: Iterable[Folder], generate: GenerateSpec, spec: TrainSpec
) -> dict[str, float | None]:
    """By teacher that is at hand: mean |stored - recomputed| log-probability in nats, over a sample
    of the rows in `files`.

    None for one that is not: an API, a model that is neither a folder nor in the hub's cache here,
    or one of more than AT_HAND_BYTES. StageError above gates.max_drift: the engine that answered
    did not compute what a forward pass gives.
    """
    at_hand: dict[str, VllmTeacherSpec] = {}
    drifts: dict[str, float | None] = {}
    for teacher in generate.teachers:
        if isinstance(teacher, VllmTeacherSpec) and _is_at_hand(teacher):
            at_hand[teacher.name] = teacher
        else:
            drifts[teacher.name] = None
    for file in files:
        name = file_metadata(file).get("teacher")
        if name is None or name not in at_hand or name in drifts:
            continue
        rows = list(_sample(file, spec.gates.rescored_examples))
        if not rows:
            continue
        teacher = at_hand[name]
        difference = _mean_difference(teacher, rows, spec.logits_mib * 2**20)
        drifts[name] = difference
        if difference > spec.gates.max_drift:
            raise StageError(
                f"train: the log-probabilities that teacher '{name}' left in {file.name} differ by"
                f" {difference:.3f} nats on average from those of its weights in {teacher.model},"
                f" more than train.gates.max_drift ({spec.gates.max_drift:g}); were they changed,"
                " quantised (quantization, kv_cache_dtype) or loaded otherwise? Generate again, or"
                " raise the bound"
            )
    return drifts


def _is_at_hand(teacher: VllmTeacherSpec) -> bool:
    try:
        folder = teacher.model
        if not Path(folder).is_dir():
            folder = snapshot_download(
                teacher.model, revision=teacher.revision, local_files_only=True
            )
    except (OSError, ValueError):  # not in the hub's cache, or no hub name
        return False
    weights = list(Path(folder).glob("*.safetensors"))
    size_bytes = sum(file.stat().st_size for file in weights)
    return bool(weights) and size_bytes <= AT_HAND_BYTES


def _sample(file: Folder, examples: int) -> Iterator[Answered]:
    """Rows spread over a file of examples."""
    (table,) = read_tables([file])
    metadata = metadata_of(table)
    if not metadata.get("top_k") or count_unsigned(table, metadata):
        return
    count = min(examples, table.num_rows)
    spread = np.linspace(0, table.num_rows - 1, count).astype(int)
    table = table.take(np.unique(spread))
    yield from zip(
        arrays(table, "prompt_token_ids"),
        arrays(table, "token_ids"),
        signals(table, metadata),
        strict=True,
    )


def _mean_difference(teacher: VllmTeacherSpec, rows: list[Answered], piece_bytes: int) -> float:
    model = AutoModelForCausalLM.from_pretrained(
        teacher.model,
        revision=teacher.revision,
        dtype=_DTYPES[teacher.dtype],
        trust_remote_code=teacher.trust_remote_code,
    ).eval()
    # As the engine did.
    longest = teacher.max_model_len or getattr(model.config, "max_position_embeddings", 0)
    pin_long_rope(model, longest)
    differences = []
    for prompt, answer, signal in rows:
        again = _recomputed(model, prompt, answer, signal.ids, piece_bytes)
        counted = np.maximum(again, signal.logprobs) > LEAST_LOGPROB
        differences.append(np.abs(again - signal.logprobs)[counted])
    return float(np.concatenate(differences).mean())


def _recomputed(
    model: PreTrainedModel,
    prompt: np.ndarray,
    answer: np.ndarray,
    tokens: np.ndarray,
    piece_bytes: int,
) -> np.ndarray:
    """Log-probabilities of `tokens` (T, k) at the T places of the answer."""
    head = model.get_output_embeddings()
    vocabulary = model.config.get_text_config().vocab_size
    adjust = logit_adjustment(model.config)
    whole = np.concatenate([prompt, answer])
    ids = torch.from_numpy(whole.astype(np.int64)).unsqueeze(0)
    stored = torch.from_numpy(tokens.astype(np.int64))
    parts = []
    with torch.inference_mode():
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        hidden = states[0, len(prompt) - 1 : -1]
        for piece in pieces(len(hidden), vocabulary, piece_bytes):
            logprobs = adjust(head(hidden[piece])).float().log_softmax(1)
            parts.append(logprobs.gather(1, stored[piece]))
        return torch.cat(parts).numpy()


def first_loss(
    engine: Engine, student: Student, blocks: Blocks, spec: TrainSpec, workers: int
) -> float:
    """Relative difference between the loss of block 0 in pieces and that of its examples one by one
    by the model's own logits in float64, on a slice of their targets.

    Collective: every rank computes the same slice. StageError above gates.max_loss_error.
    """
    packed, examples = _slice_of(blocks.batch([0]))
    tokens = len(packed.labels_N)
    student.exact = True
    exact = engine.validate(examples, tokens * workers)
    student.exact = False
    fast = engine.validate([packed], tokens * workers)
    if not math.isfinite(fast) or not math.isfinite(exact):
        raise StageError(
            f"train: the loss of the first {tokens} targets is {fast:.6g}, and {exact:.6g} in"
            " float64: the student's weights, or the"
            " stored signal, hold what is no number; check train.student and its dtype, or try"
            " train.precision: fp32"
        )
    # Near 0, where student and teacher agree, the difference itself counts.
    scale = max(abs(exact), 1e-3)
    error = abs(fast - exact) / scale
    if not error <= spec.gates.max_loss_error:
        raise StageError(
            f"train: the loss of the first {tokens} targets is {fast:.6g}, but {exact:.6g} by the"
            " student's own logits in float64, example"
            f" by example (train.gates.max_loss_error is {spec.gates.max_loss_error:g}): the"
            " student does something to its logits that"
            " engine/training/student.py (logit_adjustment) does not know, or mixes neighbouring"
            " tokens by more than attention, across"
            " the examples of a block (Mamba, LFM2 and other recurrent or convolutional layers);"
            " choose another student, or report it"
        )
    return error


def _slice_of(block: Batch) -> tuple[Batch, list[Batch]]:
    """A batch of one block with few of its targets, and with the same targets its examples, each a
    batch of its own.

    No example gives more than half of them, for what leaks across a border shows in the second one
    only.
    """
    length = block.input_ids_BL.shape[1]
    starts = torch.nonzero(block.position_ids_BL[0] == 0).flatten().tolist()
    chosen: list[Tensor] = []
    examples: list[Batch] = []
    left = SLICE_TARGETS
    for start, end in itertools.pairwise([*starts, length]):
        inside = (block.where_N >= start) & (block.where_N < end)
        most = min(left, SLICE_TARGETS // 2)
        targets = torch.nonzero(inside).flatten()[:most]
        if len(targets):
            chosen.append(targets)
            examples.append(_part(block, targets, slice(start, end)))
            left -= len(targets)
    return _part(block, torch.cat(chosen), slice(0, length)), examples


def _part(block: Batch, targets: Tensor, tokens: slice) -> Batch:
    """Some tokens and targets of a batch of one block."""
    signal: dict[str, Tensor] = {}
    for name in ("topk_ids_NK", "topk_logprobs_NK", "tail_N"):
        values = getattr(block, name)
        if len(values):  # else there is no signal
            values = values[targets]
        signal[name] = values
    return Batch(
        input_ids_BL=block.input_ids_BL[:, tokens],
        position_ids_BL=block.position_ids_BL[:, tokens],
        where_N=block.where_N[targets] - tokens.start,
        labels_N=block.labels_N[targets],
        **signal,
    )
