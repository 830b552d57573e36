"""A cluster file on disk -> Cluster: which machines to use, never which model.

`distill run` and `distill submit` get one by --cluster.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import field_validator

from engine.job.spec import Block, EnvironmentVariable, Name, placement
from engine.job.yamlfile import read_document

_SECRET = re.compile(
    r"(^|_)(\w*KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PAT|CREDENTIAL|CRED|AUTH)S?(_?\d+|_READ|_WRITE|_HEADER)?$",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"^(MAX|MIN|NUM|SORT|CACHE|PARTITION|PRIMARY)_|_MODE$", re.IGNORECASE)
# variable of a submitted job that names where its keys are (backends/ray_secrets.py)
HANDED_KEYS = "DISTILL_HANDED_KEYS"
# what `distill run --no-second-start` says before the exit code that it does not give
LAST_WORDS = "distill: another start would not help; exit code"


class Cluster(Block):
    """One running Ray cluster. Relative paths mean: beside the cluster file."""

    name: Name = placement()
    """Name shown in messages."""
    address: str = placement(pattern=r"^https?://[^\s/]+/?$")
    """Address of the Ray dashboard, where `submit` sends jobs."""
    ray_address: str | None = placement(None, pattern=r"^(auto|[^\s/:]+:\d+)$")
    """Where `distill run --cluster` connects, from a machine of the cluster: `auto` or
    host:port."""
    working_dir: str | None = placement(None)
    """Folder that `submit` uploads as the job's working directory; none: the cluster sees the same
    disk."""
    runs: str | None = placement(None)
    """Folder for runs as the cluster sees it; none: the --runs of the command."""
    python: str | None = placement(None)
    """Python interpreter on the cluster; none: `python`."""
    env: dict[EnvironmentVariable, str] = placement({})
    """Environment of the job. No secrets: their names go to `secret_env`."""
    secret_env: list[EnvironmentVariable] = placement([])
    """Environment variables that hold secrets: handed from the submitting shell to the job's
    processes, or set where the head runs."""
    wait_s: float = placement(60, gt=0)
    """Longest wait for the cluster to answer."""

    @field_validator("env")
    @classmethod
    def _no_secrets(cls, env: dict[str, str]) -> dict[str, str]:
        secrets = [name for name in env if _SECRET.search(name) and not _HARMLESS.search(name)]
        if secrets:
            raise ValueError(
                f"{', '.join(secrets)}: values of secrets do not belong in a file; list the name"
                " under secret_env"
            )
        return env


def load_cluster(path: Path) -> Cluster:
    """The cluster of a YAML file; SpecError lists every problem with its line."""
    document = read_document(Path(path))
    folder = Path(path).absolute().parent
    for name in ("working_dir", "python"):
        value = document.data.get(name)
        # An interpreter may be a bare command; only what looks like a path is one. Its links are
        # kept: a venv is a link.
        if isinstance(value, str) and value and (name == "working_dir" or "/" in value):
            document.data[name] = os.path.normpath(folder / os.path.expanduser(value))
    return document.build(Cluster)
