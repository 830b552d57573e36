"""A native cluster file and a request -> exactly what is handed over, filled in structurally.

The files are complete by themselves (clusters/): what is put in is the name, the job with its
command's options, and the number of nodes. Nothing here runs a command.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from engine.errors import SpecError
from engine.machines.native_file import NativeFile
from engine.submission.request import MOST_CHARACTERS, Request

JOB_VOLUME = "job"  # of the head's pod: the ConfigMap that holds the job's text
JOB_KEY = "job.yaml"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class HandOver:
    """A command and what it reads: on its standard input, or (`as_file`) from a file behind it.
    `notes` are for the user."""

    id: str
    command: tuple[str, ...]
    text: str = ""
    as_file: bool = False
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What `--dry-run` prints: notes and command as comments where a text follows, so that the
        whole can be given to the platform as it is."""
        notes = [f"# {note}" for note in self.notes]
        if not self.text:
            return "\n".join([*notes, shlex.join(self.command)])
        return "\n".join([*notes, f"# {shlex.join(self.command)}", self.text])


def rayjob(file: NativeFile, request: Request) -> HandOver:
    """The manifest for kubectl, and the ConfigMap with the job. SpecError for names that Kubernetes
    refuses, and where the head has no place for the job."""
    require_kubernetes_names(file)
    documents = copy.deepcopy(list(file.documents))
    (job,) = [each for each in documents if each["kind"] == "RayJob"]
    job["metadata"]["name"] = request.id
    words = file.inside(job, "spec", "entrypoint").split()
    job["spec"]["entrypoint"] = " ".join([*words, *request.plain_options])
    cluster = job["spec"]["rayClusterSpec"]
    _mount_job(file, cluster, request.id)
    for group in cluster.get("workerGroupSpecs") or []:
        _set_nodes(group, request.nodes)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": request.id},
        "data": {JOB_KEY: request.text},
    }
    namespace = job["metadata"].get("namespace")
    if namespace:
        config["metadata"] = {"name": request.id, "namespace": namespace}
    command = ["kubectl", *namespaced(file), "apply", "--validate=strict", "-f", "-"]
    text = as_yaml(config, *documents)
    return HandOver(request.id, tuple(command), text, notes=tuple(_key_notes(file, request)))


def namespaced(file: NativeFile) -> list[str]:
    """kubectl's option for the namespace of the file, where it names one."""
    namespace = file.main.get("metadata", {}).get("namespace")
    return ["--namespace", namespace] if namespace else []


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such: people read it in a dry run."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(*documents: dict[str, Any]) -> str:
    """The documents as any YAML reader takes them."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140)


def _mount_job(file: NativeFile, cluster: dict[str, Any], name: str) -> None:
    volumes = file.inside(cluster, "headGroupSpec", "template", "spec").get("volumes") or []
    for volume in volumes:
        if volume.get("name") == JOB_VOLUME:
            volume["configMap"] = {"name": name}
            return
    raise SpecError(
        f"{file.path}: the head has no volume named {JOB_VOLUME} (configMap: {{name: distill-job}})"
        " through which it would see the job; take it over from clusters/kuberay-rayjob.yaml"
    )


def _set_nodes(group: dict[str, Any], nodes: int) -> None:
    """As many as the job can use, at most what the file allows and at least what it always has."""
    fewest = group.get("minReplicas", 0)
    most = min(group.get("maxReplicas", nodes), max(nodes, fewest))
    group["maxReplicas"] = most
    group["replicas"] = min(group.get("replicas", fewest), most)


def _key_notes(file: NativeFile, request: Request) -> Iterator[str]:
    """Where the keys that the job names must be: the values never leave this shell."""
    names = sorted(set(request.spec.key_variables().values()))
    secrets = sorted(_secret_names(file.main))
    if names:
        where = " or ".join(secrets) or "a Secret under envFrom"
        yield f"{', '.join(names)}: must be in the Secret {where} (kubectl create secret generic)"


def _secret_names(block: Any) -> set[str]:
    """Secrets whose variables some container gets."""
    found: set[str] = set()
    if isinstance(block, dict):
        for name, value in block.items():
            if name == "secretRef":
                found.add(value["name"])
            else:
                found |= _secret_names(value)
    elif isinstance(block, list):
        for value in block:
            found |= _secret_names(value)
    return found


def require_kubernetes_names(file: NativeFile) -> None:
    """SpecError for names in the file that Kubernetes or KubeRay would refuse, with one that they
    take."""
    problems = []
    for where, name in _names(file.documents, ()):
        if not _LABEL.fullmatch(name) or len(name) > 63:
            fixed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63]
            problems.append(
                f"{file.path}: {where}: {name!r} is no name that Kubernetes takes (lower case,"
                f" digits, hyphens, 63 characters); write {fixed or 'another'}"
            )
    own = str(file.main.get("metadata", {}).get("name", ""))
    if len(own) > MOST_CHARACTERS:
        problems.append(
            f"{file.path}: metadata.name has {len(own)} characters; KubeRay takes"
            f" {MOST_CHARACTERS}: write {own[:MOST_CHARACTERS].rstrip('-')}"
        )
    if problems:
        raise SpecError("\n".join(problems))


_NAMED = ("metadata", "containers", "initContainers", "volumes", "volumeMounts")


def _names(block: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(place, name) of objects, groups, containers and volumes, whose names are labels."""
    items: Any = ()
    if isinstance(block, dict):
        items = block.items()
    elif isinstance(block, list | tuple):
        items = enumerate(block)
    parents = [part for part in path if not part.isdigit()]
    for key, value in items:
        is_label = key == "groupName" or (key == "name" and parents[-1:] and parents[-1] in _NAMED)
        if is_label and isinstance(value, str):
            yield ".".join([*path, key]), value
        else:
            yield from _names(value, (*path, str(key)))


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
    keys = sorted(set(request.spec.key_variables().values()))
    secrets = dict(task.get("secrets") or {})
    task["secrets"] = secrets | dict.fromkeys(keys)
    command = ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", request.id]
    for name in task["secrets"]:
        command += ["--secret", name]
    return HandOver(request.id, tuple(command), as_yaml(task), as_file=True)
