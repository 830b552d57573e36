"""A RayJob's manifest and a request -> what kubectl is given: the name, the job in a ConfigMap, the
command's options, and the number of nodes. Rules of KubeRay that its schema does not hold are kept
here."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from engine.errors import SpecError
from engine.machines.native_file import NativeFile
from engine.submission.hand_over import HandOver, as_yaml
from engine.submission.request import MOST_CHARACTERS, Request, slug

JOB_VOLUME = "job"  # of the head's pod: the ConfigMap that holds the job's text
JOB_KEY = "job.yaml"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def rayjob(file: NativeFile, request: Request) -> HandOver:
    """The manifest for kubectl, and the ConfigMap with the job. SpecError for names that Kubernetes
    refuses, and where the head has no place for the job."""
    require_kubernetes_names(file)
    documents = copy.deepcopy(list(file.documents))
    (job,) = [each for each in documents if each.get("kind") == "RayJob"]
    file.inside(job, "metadata")["name"] = request.id
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
    secrets = sorted(_secret_names(file.main))
    if names := request.key_names:
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
            problems.append(
                f"{file.path}: {where}: {name!r} is no name that Kubernetes takes (lower case,"
                f" digits, hyphens, 63 characters); write {slug(name, 63)}"
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
