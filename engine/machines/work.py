"""What a job is to work on, before anybody counted: rows, and tokens of prompts and answers."""

from __future__ import annotations

from dataclasses import dataclass

from engine.job.spec import JobSpec

# Tokens where neither the user, the data nor an earlier run say better: assumed, by task.
ANSWER_TOKENS = {"nli": 60, "qa": 150, "conversation": 250, "math": 400, "summarization": 250}
PROMPT_TOKENS = {"nli": 100, "qa": 200, "conversation": 600, "math": 150, "summarization": 3000}
ROWS = 10_000  # assumed, where there is no data and no limit
VALIDATION_SHARE = 0.05
VALIDATION_MOST = 2_000
KEPT = 0.9  # of the answers, after curate: assumed
CHARACTERS = 4  # of a token: about right for English


@dataclass(frozen=True)
class Seen:
    """What the user, the data or an earlier run say; None: nobody does. Tokens are means."""

    rows: int | None = None
    validation: int | None = None
    prompt_tokens: float | None = None
    answer_tokens: float | None = None
    kept: float | None = None

    def or_else(self, other: Seen) -> Seen:
        """What this one says, and the other where it does not."""
        said = {}
        for name, own in vars(self).items():
            said[name] = getattr(other, name) if own is None else own
        return Seen(**said)


@dataclass(frozen=True)
class Work:
    """Prompts to train and to validate on, tokens of a prompt and an answer on average, and the
    share of answers that become examples; `told` says what of it is assumed."""

    rows: int
    validation: int
    prompt_tokens: float
    answer_tokens: float
    kept: float
    told: str


def work_of(job: JobSpec, seen: Seen) -> Work:
    """The work of a job; what nobody says is assumed, and said to be."""
    limit = job.generate.limit or job.prompts.limit
    rows = seen.rows or limit or ROWS
    if job.generate.limit:  # a pilot
        rows = min(rows, job.generate.limit)
    validation = seen.validation
    if validation is None:
        validation = min(VALIDATION_MOST, max(1, round(rows * VALIDATION_SHARE)))
    most = job.generate.sampling.max_tokens
    answer_tokens = seen.answer_tokens or min(ANSWER_TOKENS[job.task], most)
    prompt_tokens = seen.prompt_tokens or PROMPT_TOKENS[job.task]
    known = {
        f"{rows:,} prompts": seen.rows or limit,
        f"{prompt_tokens:,.0f} tokens each": seen.prompt_tokens,
        f"answers of {answer_tokens:,.0f}": seen.answer_tokens,
    }
    told = []
    for text, said in known.items():
        told.append(text if said else f"{text} (assumed)")
    kept = KEPT if seen.kept is None else seen.kept
    return Work(rows, validation, prompt_tokens, answer_tokens, kept, ", ".join(told))
