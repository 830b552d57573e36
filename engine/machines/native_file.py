"""Tell by its own fields which platform a cluster file is of.

Files are native: what kubectl, sbatch, `ray up` and sky read themselves. What machines they start
is read by cluster_file.py; what a job puts into them is the business of engine/submission.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from engine.errors import SpecError

Platform = Literal["rayjob", "raycluster", "rayservice", "launcher", "slurm", "sky", "running"]

# Top-level fields by which a file says whose it is. `name` and `setup` are several platforms'.
MARKS: dict[str, frozenset[str]] = {
    "Kubernetes": frozenset({"apiVersion", "kind"}),
    "Ray's launcher": frozenset({"available_node_types", "head_node_type", "provider"}),
    "SkyPilot": frozenset({"resources", "run", "num_nodes", "job_recovery"}),
    "a running cluster": frozenset({"address", "ray_address"}),
}
PLATFORMS: dict[str, Platform] = {
    "Ray's launcher": "launcher",
    "SkyPilot": "sky",
    "a running cluster": "running",
}
RAY_KINDS: dict[str, Platform] = {
    "RayJob": "rayjob",
    "RayCluster": "raycluster",
    "RayService": "rayservice",
}
KNOWN_FILES = (
    "a KubeRay manifest (kind: RayJob, RayCluster or RayService), a file of Ray's launcher"
    " (available_node_types), a Slurm script (#SBATCH lines), a SkyPilot task (resources and run),"
    " or a running cluster (address)"
)


# libyaml's, where PyYAML has it: ten times as fast, and as safe.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class NativeFile:
    """A cluster file as read: plain data, one mapping per YAML document; none of a script."""

    path: Path
    platform: Platform
    text: str
    documents: tuple[dict[str, Any], ...]

    @property
    def main(self) -> dict[str, Any]:
        """The document that makes the file what it is: of a manifest Ray's own object."""
        for document in self.documents:
            if document.get("kind") in RAY_KINDS:
                return document
        return self.documents[0]

    def inside(self, document: Mapping[str, Any], *steps: str | int) -> Any:
        """The value at `steps` of the document; SpecError with the first step that is missing."""
        here: Any = document
        for count, step in enumerate(steps, 1):
            try:
                here = here[step]
            except (LookupError, TypeError):
                missing = ".".join(map(str, steps[:count]))
                raise SpecError(
                    f"{self.path}: {missing} is missing; compare it with the file of this platform"
                    " in clusters/"
                ) from None
        return here

    def ray_cluster(self) -> dict[str, Any]:
        """The cluster's own block in a manifest of any of the three kinds."""
        blocks: dict[str, tuple[str, ...]] = {
            "rayjob": ("rayClusterSpec",),
            "rayservice": ("rayClusterConfig",),
            "raycluster": (),
        }
        block: dict[str, Any] = self.inside(self.main, "spec", *blocks[self.platform])
        return block


def read_native_file(path: Path) -> NativeFile:
    """The file and its platform, by its own fields; SpecError where it is of none or of two."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not UTF-8; save the file as UTF-8") from None
    if text.startswith("#!"):
        if "\n#SBATCH " not in text:
            raise SpecError(
                f"{path}: a script without #SBATCH lines; a cluster file is {KNOWN_FILES}"
            )
        return NativeFile(path, "slurm", text, ())
    documents = _documents(path, text)
    return NativeFile(path, _platform(path, documents), text, documents)


def _documents(path: Path, text: str) -> tuple[dict[str, Any], ...]:
    try:
        read = yaml.load_all(text, Loader=_LOADER)
        documents = [each for each in read if each is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", error)
        raise SpecError(f"{path}:{line}: not valid YAML: {problem}") from None
    if not documents or not all(isinstance(each, dict) for each in documents):
        raise SpecError(f"{path}: it must hold fields; a cluster file is {KNOWN_FILES}")
    return tuple(documents)


def _platform(path: Path, documents: Sequence[dict[str, Any]]) -> Platform:
    marks: dict[str, list[str]] = {}
    for document in documents:
        for whose, fields in MARKS.items():
            if here := sorted(fields & document.keys()):
                marks.setdefault(whose, here)
    if len(marks) > 1:
        told = "; ".join(f"{', '.join(fields)}: {whose}" for whose, fields in marks.items())
        raise SpecError(
            f"{path}: a file of two kinds ({told}); keep one, and put the other into a file of its"
            " own"
        )
    if not marks:
        raise SpecError(f"{path}: of no platform that is known; a cluster file is {KNOWN_FILES}")
    (whose,) = marks
    if whose == "Kubernetes":
        return _ray_kind(path, documents)
    if len(documents) > 1:
        raise SpecError(f"{path}: {len(documents)} YAML documents; a file of {whose} is one")
    return PLATFORMS[whose]


def _ray_kind(path: Path, documents: Sequence[dict[str, Any]]) -> Platform:
    kinds = [str(document.get("kind")) for document in documents]
    ours = [kind for kind in kinds if kind in RAY_KINDS]
    if len(ours) > 1:
        raise SpecError(
            f"{path}: a file of two kinds ({' and '.join(ours)}); keep one, and put the other into"
            " a file of its own"
        )
    if not ours:
        raise SpecError(
            f"{path}: kind: {', '.join(kinds)} is no cluster; give kind: {', '.join(RAY_KINDS)}"
        )
    return RAY_KINDS[ours[0]]
