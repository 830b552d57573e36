"""Stage 2: the teachers answer the prompts, and every answer becomes exactly one row with a final status.

Training prompts are sampled, validation prompts are answered greedily in the same engine session. Nothing is filtered
here. What a replica finished is on disk within a minute; a second run issues only what is missing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from engine import parts
from engine.backends import ray_data
from engine.backends.answering import STATUS_OF_FINISH, spent_usd
from engine.backends.dispatch import Stream, Tally, answer_prompts
from engine.errors import StageError
from engine.progress import Context
from engine.records import file_metadata, read_tables
from engine.rundir import Counts, stage_files
from engine.spec import API_KINDS, GenerateSpec


def run(spec: GenerateSpec, inputs: dict[str, Path], out: Path, ctx: Context, *, stream: Stream = ray_data.stream) -> Counts:
    """Answer all prompts with all teachers. StageError if more than `max_failed_fraction` of the rows end in `error`."""
    prompt_files = stage_files(inputs["prompts"], "data/train") + stage_files(inputs["prompts"], "data/validation")
    tally = answer_prompts(spec, prompt_files, out, ctx, stream=stream)
    settled = parts.settle(out)
    found = sum(settled.files.values())
    if found != tally.wanted:
        raise StageError(f"generate: {found} final rows for {tally.wanted} wanted; run the same command again to make the missing ones")
    if settled.failed > spec.max_failed_fraction * tally.wanted:
        raise StageError(
            f"generate: {settled.failed} of {tally.wanted} rows failed (first: {_first_error(out, settled)}); everything else is"
            " kept. Run the same command again to retry them, or allow some with generate.max_failed_fraction"
        )
    return Counts(rows_in=tally.wanted, rows_out=found, files=settled.files, info=_info(spec, settled, tally, out))


def _info(spec: GenerateSpec, settled: parts.Settled, tally: Tally, out: Path) -> dict[str, object]:
    stored = {name: file_metadata(out / name) for name in list(settled.files)[:1]}
    first = next(iter(stored.values()), {})
    teachers = [
        {"name": teacher.name, "kind": teacher.kind, "revision": teacher.revision, **settled.teachers.get(teacher.name, {"rows": 0})}
        for teacher in spec.teachers
    ]
    cost = {"cost_usd": round(spent_usd(spec, out), 6)} if any(teacher.prices for teacher in spec.teachers) else {}
    return {
        "prompts": tally.prompts, "completions": tally.wanted, "answered_this_run": tally.answered, "status": settled.status,
        "tokens_in": settled.tokens_in, "tokens_out": settled.tokens_out, "tokens_per_second": tally.tokens_per_second, **cost,
        "teachers": teachers, "route": spec.route, "max_tokens": spec.sampling.max_tokens, "top_k": spec.capture.top_k,
        **({"rows_without_token_counts": settled.untold} if settled.untold else {}), **_foreign_words(spec, settled, out),
        "tokenizer_fingerprint": first.get("tokenizer_fingerprint"), "vocab_size": first.get("vocab_size"),
    }


def _foreign_words(spec: GenerateSpec, settled: parts.Settled, out: Path) -> dict[str, dict[str, int]]:
    """How often APIs ended an answer with a word that this engine does not know."""
    if all(teacher.kind not in API_KINDS for teacher in spec.teachers):
        return {}
    said: Counter[str] = Counter()
    for table in read_tables([out / name for name in settled.files], columns=["finish_reason"]):
        said.update(filter(None, table["finish_reason"].to_pylist()))
    foreign = {word: count for word, count in said.items() if word not in STATUS_OF_FINISH}
    return {"unknown_finish_reasons": foreign} if foreign else {}


def _first_error(out: Path, settled: parts.Settled) -> str:
    for table in read_tables([out / name for name in settled.files], columns=["status", "error"]):
        for status, error in zip(table["status"].to_pylist(), table["error"].to_pylist(), strict=True):
            if status == "error":
                return str(error)
    return "unknown"
