"""A load test without a job: somebody's server, measured, and the report of it.

Levels and figures come from the loadtest stage, pages from the report stage, which know nothing of
each other; prompts are read as the prompts stage reads them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError, SpecError
from engine.job.spec import LoadtestSpec, PromptsSpec
from engine.loadgen.target import Target
from engine.rows.records import LoadLevel, Messages, Prompt
from engine.run.identity import git_commit, versions
from engine.run.progress import Progress
from engine.stages import prompts as prompts_stage
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.levels import slo_of
from engine.stages.loadtest.measuring import Loader
from engine.stages.loadtest.tables import entries_in, read_levels, read_slices, write_measured
from engine.stages.report.load_page import LoadReport, build_files
from engine.stages.report.peers import Peer, load_peers
from engine.store.files import write_atomic

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
    files: list[Path]


def run(
    asked: Asked,
    spec: LoadtestSpec,
    prompts: Sequence[Messages],
    out: Path,
    *,
    seed: int = 0,
    compare: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Tested:
    """Load the server and write everything to `out`. InputError for a file to compare with that is
    none, before anything is sent; StageError for a server that does not answer."""
    target = asked.target()
    peers = load_peers(compare)
    found = Loader(spec, prompts, seed, progress or Progress()).load(target)
    write_measured(out, found.measured, found.observed)
    slo = slo_of(spec.slo)
    knee = found.knee_fields(spec)
    files = write_report(out, ServerTest(asked.url, asked.model, slo, knee, peers=peers))
    serving: dict[str, Any] = {"levels": entries_in(out, slo)[asked.model]}
    if knee:
        serving["knee"] = knee
    return Tested({asked.model: serving}, files)


def read_prompts(path: Path) -> list[Messages]:
    """The prompts of a file in any form that a job may name. InputError where there are none."""
    spec = PromptsSpec(train=str(path))
    found: list[Messages] = []
    bad: list[str] = []
    for line, row in prompts_stage.read_prompts(path, spec, "conversation", "train"):
        if isinstance(row, Prompt):
            found.append(row.messages)
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


def write_report(out: Path, test: ServerTest) -> list[Path]:
    """From the files of a folder alone: the report as JSON, Markdown and HTML. Returns its
    files."""
    levels = read_levels(out)
    report = LoadReport(
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
