"""What a user wants run somewhere: the job's text, its name there, and the words of its command.

Nothing here knows a platform.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.job.jobfile import job_text
from engine.job.spec import JobSpec

MOST_CHARACTERS = 47  # of a RayJob's name: KubeRay appends to it, and Kubernetes takes 63
_PLAIN = re.compile(r"[\w./:=,@%+-]+")  # words that no shell reads otherwise


@dataclass(frozen=True)
class Request:
    """A job to be run. `text` is the job file with the overrides in it, `options` the words of
    `distill run` behind the job, `sets` the overrides as words."""

    id: str
    job: Path
    spec: JobSpec
    text: str
    sets: tuple[str, ...]
    options: tuple[str, ...]
    runs: str
    nodes: int = 1

    @property
    def plain_options(self) -> tuple[str, ...]:
        """The options for a command that goes through somebody's shell. SpecError where a shell
        would read one otherwise."""
        for word in self.options:
            if not _PLAIN.fullmatch(word):
                raise SpecError(
                    f"{word!r} does not survive the shells between here and the driver; leave the"
                    " option out, or give it in the job file"
                )
        return self.options

    @property
    def key_names(self) -> list[str]:
        """The environment variables of the job's keys."""
        return sorted(set(self.spec.key_variables().values()))

    def require_keys(self) -> None:
        """SpecError where this shell, from which the platform takes them, lacks keys of the job."""
        if missing := [name for name in self.key_names if not os.environ.get(name)]:
            raise SpecError(
                f"{', '.join(missing)}: not set in this shell, from which the job gets its keys;"
                f" export {missing[0]}=<the key> before the command"
            )


def build_request(
    job: Path, spec: JobSpec, *, sets: Sequence[str], runs: str, options: Mapping[str, Any]
) -> Request:
    """The request for `distill run` with `options` by name, as the command line gives them."""
    words = option_words(options)
    text = job_text(job, sets)
    name = submission_id(spec.name, text, words)
    return Request(name, job, spec, text, tuple(sets), words, runs)


def option_words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of `distill run` by name -> words of its command line."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value:
            words += [flag, str(value)]
    return tuple(words)


def submission_id(name: str, text: str, options: Sequence[str]) -> str:
    """The same for the same job and options, so that submitting twice joins: the job's name as
    every platform takes it, and a hash."""
    content = "\0".join([text, *options])
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{slug(name, MOST_CHARACTERS - len(digest) - 1)}-{digest}"


def slug(name: str, most: int = MOST_CHARACTERS) -> str:
    """The name as a DNS-1035 label, which Kubernetes wants: lower case, digits and hyphens, a
    letter first, `most` characters."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"j-{label}".rstrip("-")
    return label[:most].rstrip("-")
