"""A sentence per source file, as `distill check` ends: what its first rows become, which references
the task can read, and which columns nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from engine.job.spec import PromptsSpec
from engine.rows.final_answer import USUAL, Rules, is_compared, is_readable
from engine.stages.prompts.heads import HEAD_FILES, Head, heads
from engine.stages.prompts.reading import SPLITS, files_of, listed

_SHOWN_FILES = 5
_SHOWN_CHARACTERS = 40
# What to do about references that a task cannot read.
_REMEDIES = {
    "math": "give a number, an expression or a solution that ends in one",
    "nli": "name what the labels mean in prompts.fields.labels",
    "qa": "longer than six words; set curate.verify.qa, or it is not checked",
}


def head_lines(
    spec: PromptsSpec, task: str, used: Collection[str], rules: Rules = USUAL
) -> list[str]:
    """All sentences; columns that something else than the prompt uses are `used`."""
    lines = []
    skipped: list[Path] = []
    more = 0
    for split in SPLITS:
        for head in heads(spec, split):
            lines.append(_line(head, task, rules, used))
        files = files_of(spec, split, skipped)
        more += max(0, len(files) - HEAD_FILES)
    if more:
        lines.append(f"{more:,} more files were not looked at")
    if skipped:
        shown = ", ".join(map(str, skipped[:_SHOWN_FILES]))
        if len(skipped) > _SHOWN_FILES:
            shown += ", …"
        lines.append(f"{len(skipped):,} other files in these folders are not read: {shown}")
    return lines


def _line(head: Head, task: str, rules: Rules, used: Collection[str]) -> str:
    good = len({line for line, _ in head.good})
    made = f"{good} of its first {good + len(head.bad)} rows become prompts"
    if len(head.good) > good:
        made = f"{made}, {len(head.good):,} in all"
    if head.bad:
        reasons = Counter(reason for _, reason in head.bad)
        made += f" ({listed(reasons)})"
    told = [made, _references(head, task, rules)]
    unread = [name for name in head.unread if name not in used]
    if unread:
        told.append(f"not used: {', '.join(unread)}")
    return f"{head.path}: {'; '.join(told)}"


def _references(head: Head, task: str, rules: Rules) -> str:
    """How many there are, and how many the task can compare; where it cannot, the first and what to
    do."""
    given = [(line, prompt.right_answers) for line, prompt in head.good if prompt.right_answers]
    unreadable = []
    for line, answers in given:
        if is_compared(task) and not any(is_readable(task, one, rules) for one in answers):
            unreadable.append((line, answers[0]))
    readable = len(given) - len(unreadable)
    sentence = f"{len(given)} have a reference, of which task {task} can read {readable}"
    if unreadable:
        line, first = unreadable[0]
        shown = first if len(first) <= _SHOWN_CHARACTERS else f"{first[:_SHOWN_CHARACTERS]}…"
        sentence += f" (not line {line}: {shown!r}; {_REMEDIES[task]})"
    return sentence
