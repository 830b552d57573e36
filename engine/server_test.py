"""A load test without a job: somebody's server, measured, and the report of it.

Levels and figures come from the loadtest stage, pages from the report stage, which know nothing of
each other; prompts are read as the prompts stage reads them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends.api_tools import openai_messages
from engine.errors import InputError, SpecError
from engine.job.spec import LoadtestSpec, PromptsSpec
from engine.loadgen.probe import Said, ask
from engine.loadgen.target import Target
from engine.rows.records import LoadLevel, Messages, Prompt
from engine.run.identity import git_commit, versions
from engine.run.progress import Progress
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.levels import shape_of, slo_of
from engine.stages.loadtest.measuring import Loader
from engine.stages.loadtest.tables import entries_in, read_levels, read_slices, write_measured
from engine.stages.prompts import reading
from engine.stages.report.load_page import LoadReport, build_files
from engine.stages.report.peers import Peer, load_peers
from engine.store.files import write_atomic

COUNTED_AGAIN = 8  # answers whose tokens are counted here, too
MAX_APART = 0.15
MADE_UP = 256  # prompts where none are given
WORDS = 60  # of each
_VOCABULARY = (
    "river stone market engine garden winter signal copper harbour lantern meadow number"
    " teacher paper window orange planet bridge silver forest kitchen letter mountain music"
)


@dataclass(frozen=True)
class Asked:
    """A model on somebody's server; the key is in an environment variable."""

    url: str
    model: str
    api_key_env: str | None = None

    def target(self) -> Target:
        """Where requests go. SpecError where the variable is not set."""
        key = None
        if self.api_key_env:
            key = os.environ.get(self.api_key_env)
            if not key:
                raise SpecError(f"the environment variable {self.api_key_env} is not set")
        return Target(self.url, self.model, key)


@dataclass(frozen=True)
class ServerTest:
    """A finished test of one model on one server."""

    url: str
    model: str
    slo: Slo | None = None
    found: Mapping[str, Any] | None = None  # of a search for the knee, with its `sentence`
    doubts: Sequence[str] = ()  # sentences, as of tokens that were counted again
    peers: Sequence[Peer] = ()


@dataclass(frozen=True)
class Tested:
    """What came of it: `serving` as in report.json, and the report's files."""

    serving: dict[str, Any]
    sentences: list[str]  # what the search found, and doubts
    files: list[Path]


def run(
    asked: Asked,
    spec: LoadtestSpec,
    prompts: Sequence[Messages],
    out: Path,
    *,
    seed: int = 0,
    compare: Sequence[Path] = (),
    tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> Tested:
    """Load the server and write everything to `out`. InputError for a file to compare with, or a
    folder of a tokenizer, that is none, before anything is sent; StageError for a server that does
    not answer."""
    target = asked.target()
    peers = load_peers(compare)
    count = load_count(tokenizer) if tokenizer else None
    found = Loader(spec, prompts, seed, progress or Progress()).load(target)
    write_measured(out, found.measured, found.observed)
    slo = slo_of(spec.slo)
    knee = found.knee_fields(spec)
    doubts: list[str] = []
    if count:
        doubts += counted_again(ask(target, shape_of(spec), prompts[:COUNTED_AGAIN]), count)
    report = report_of(out, ServerTest(asked.url, asked.model, slo, knee, doubts, peers))
    files = write_report(out, report)
    serving: dict[str, Any] = {"levels": report.levels}
    if knee:
        serving["knee"] = knee
        doubts.insert(0, knee["sentence"])
    return Tested({asked.model: serving}, doubts, files)


def load_count(tokenizer: Path) -> Callable[[str], int]:
    """Tokens of a text. InputError for a folder that holds no tokenizer."""
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise InputError(f"--tokenizer {tokenizer}: no tokenizer can be read: {error}") from error
    return lambda text: len(loaded.encode(text, add_special_tokens=False))


def counted_again(answers: Sequence[Said], count: Callable[[str], int]) -> list[str]:
    """What is wrong with the server's counts of output tokens, on some answers; each may have a
    token of its end that the text does not show, and a text has several ways to be cut."""
    said = counted = 0
    for answer in answers:
        if answer.sample.output_tokens is not None:
            said += answer.sample.output_tokens
            counted += count(answer.text) + 1
    if not said:
        return ["tokens could not be counted again: the server did not say how many there were"]
    apart = said / counted - 1
    if abs(apart) <= MAX_APART:
        return []
    return [
        f"the server counts {said} output tokens where its tokenizer makes {counted} of the texts"
        f" ({apart:+.0%}): rates in tokens are the server's word"
    ]


def read_prompts(path: Path) -> list[Messages]:
    """The prompts of a file in any form that a job may name. InputError where there are none."""
    spec = PromptsSpec(train=str(path))
    found: list[Messages] = []
    bad: list[str] = []
    for line, row in reading.read_prompts(path, spec, "conversation", "train"):
        if isinstance(row, Prompt):
            found.append(openai_messages(row.conversation))
        else:
            bad.append(f"line {line}: {row}")
    if not found:
        why = bad[0] if bad else "it is empty"
        raise InputError(
            f"{path}: no prompt in it ({why}); give a file with `prompt` or `messages`"
        )
    return found


def made_up_prompts(seed: int) -> list[Messages]:
    """Words without a meaning, no two alike at their beginning: a prefix cache gains nothing."""
    rng = np.random.default_rng(seed)
    made: list[Messages] = []
    for words in rng.choice(_VOCABULARY.split(), (MADE_UP, WORDS)).tolist():
        made.append([{"role": "user", "content": "Go on with this: " + " ".join(words)}])
    return made


def report_of(out: Path, test: ServerTest) -> LoadReport:
    """What is to be told of a test, from the files of its folder alone."""
    levels = read_levels(out)
    return LoadReport(
        url=test.url,
        model=test.model,
        started_at=_started_at(levels),
        levels=entries_in(out, test.slo)[test.model],
        slices=read_slices(out),
        found=dict(test.found) if test.found else None,
        peers=test.peers,
        doubts=test.doubts,
        versions=versions(),
        git_commit=git_commit(),
    )


def write_report(out: Path, report: LoadReport) -> list[Path]:
    """As JSON, Markdown and HTML. Returns the files."""
    written = []
    for name, text in build_files(report).items():
        write_atomic(out / name, text)
        written.append(out / name)
    return written


def _started_at(levels: Sequence[LoadLevel]) -> str:
    """UTC of the first level's first request."""
    if not levels:
        return ""
    began_s = levels[0].started_s - levels[0].warmup_s
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began_s))
