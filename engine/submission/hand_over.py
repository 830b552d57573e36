"""A native cluster file and a request -> exactly what is handed over, filled in structurally.

The files are complete by themselves (clusters/): what is put in is the name, the job with its
command's options, and the number of nodes. Nothing here runs a command; RayJobs are in rayjob.py.
"""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from engine.errors import SpecError
from engine.machines.native_file import NativeFile
from engine.submission.request import Request

# Text that PyYAML writes without quotes, and kubectl takes for a number or for yes and no.
_READ_OTHERWISE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|0o[0-7]+|[yYnN]")


@dataclass(frozen=True)
class HandOver:
    """A command and what it reads: on its standard input, or from a file behind it, as the platform
    will have it. `notes` are for the user."""

    id: str
    command: tuple[str, ...]
    text: str = ""
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What `--dry-run` prints: notes and command as comments where a text follows, so that the
        whole can be given to the platform as it is."""
        notes = [f"# {note}" for note in self.notes]
        if not self.text:
            return "\n".join([*notes, shlex.join(self.command)])
        return "\n".join([*notes, f"# {shlex.join(self.command)}", self.text])


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such: people read it in a dry run."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None
    if "\n" in text:
        style = "|"
    elif _READ_OTHERWISE.fullmatch(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(*documents: dict[str, Any]) -> str:
    """The documents as any YAML reader takes them."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140)


def slurm(file: NativeFile, request: Request) -> HandOver:
    """sbatch's command line; the script is as it lies there."""
    words = ["sbatch", "--parsable", f"--job-name={request.id}", f"--nodes={request.nodes}"]
    words += [str(file.path), str(request.job.resolve())]
    for setting in request.sets:
        words += ["--set", setting]
    return HandOver(request.id, (*words, *request.options))


def sky(file: NativeFile, request: Request) -> HandOver:
    """The task for `sky jobs launch`, with the job in a variable."""
    task = copy.deepcopy(file.main)
    task["name"] = request.id
    task["num_nodes"] = request.nodes
    envs = dict(task.get("envs") or {})
    if "JOB" not in envs:
        raise SpecError(
            f"{file.path}: envs.JOB is missing, the variable in which the job travels; take it over"
            " from clusters/sky.yaml"
        )
    task["envs"] = envs | {"JOB": request.text, "OPTIONS": " ".join(request.plain_options)}
    secrets = dict(task.get("secrets") or {})
    task["secrets"] = secrets | dict.fromkeys(request.key_names)
    command = ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", request.id]
    for name in task["secrets"]:
        command += ["--secret", name]
    return HandOver(request.id, tuple(command), as_yaml(task))
