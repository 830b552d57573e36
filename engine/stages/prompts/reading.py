"""A source file -> its prompts, each with its line, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from engine.job.spec import PromptsSpec
from engine.rows.records import Prompt
from engine.rows.sources.columns import columns_of
from engine.rows.sources.readers import read_rows, source_files
from engine.rows.sources.source_row import BadRow
from engine.stages.prompts.rows import prompts_of

# in the order of reading: a prompt that is in both stays in validation
SPLITS = ("validation", "train")


def files_of(spec: PromptsSpec, split: str, skipped: list[Path]) -> list[Path]:
    """The source files of a split (see `source_files`)."""
    return source_files(f"prompts.{split}", getattr(spec, split), skipped)


def read_prompts(
    path: Path, spec: PromptsSpec, task: str, split: str
) -> Iterator[tuple[int, Prompt | BadRow]]:
    """The prompts of one file with their lines (rows of Parquet count from 1), several of a
    dialogue under `turns: each`, and a BadRow for every line that gives none."""
    for line, row in islice(read_rows(path), spec.limit):
        try:
            columns = columns_of(row, spec.fields.prompt)
            prompts = prompts_of(columns, path, line, spec, task, split)
        except BadRow as bad:
            yield line, bad
        except UnicodeError:
            # also a lone surrogate: `\ud800` in JSON, or a byte of a CSV file that is not UTF-8
            yield line, BadRow("invalid_utf8")
        except (ValueError, RecursionError):  # not JSON, or a number too long for Python
            yield line, BadRow("broken_json")
        else:
            for prompt in prompts:
                yield line, prompt


def listed(counts: Counter[str]) -> str:
    """Reasons and how often, in their order."""
    ordered = sorted(counts.items())
    return ", ".join(f"{reason} {count}" for reason, count in ordered) or "none"
