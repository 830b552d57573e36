"""RayJobs on Kubernetes, through kubectl."""

from __future__ import annotations

import json

from engine.machines.native_file import NativeFile
from engine.submission.follow import Log, State, follow
from engine.submission.rayjob import namespaced, rayjob
from engine.submission.request import Request
from engine.submission.tool import ToolFailed, call

SUBMITTER = "ray-job-submitter"  # KubeRay's name of the head's second container in SidecarMode
# Of status.jobDeploymentStatus; Retrying is none of them, and Suspended is what `stop` leaves.
_ENDED = ("Complete", "Failed", "Suspended")


class KubernetesJobs:
    """The RayJobs of the namespace that the file, or kubectl's context, names."""

    def __init__(self, file: NativeFile) -> None:
        self._file = file
        self._kubectl = ["kubectl", *namespaced(file)]
        self._cluster = ""
        self._last = ""  # time stamp of the newest line that was shown

    def shown(self, request: Request) -> str:
        """The command, and the manifest that it reads."""
        return rayjob(self._file, request).shown

    def start(self, request: Request, on_log: Log) -> str:
        """Make the ConfigMap and the RayJob. One of that name that has ended is made anew, one that
        has not is joined."""
        handed = rayjob(self._file, request)
        state = self.find(handed.id)
        if state and state.exit_code is None:
            on_log(f"joined RayJob {handed.id}, which is there already ({state.word})\n")
            return handed.id
        if state:
            call([*self._kubectl, "delete", "rayjob", handed.id, "--wait=true"])
        for note in handed.notes:
            on_log(f"{note}\n")
        call(handed.command, handed.text)
        on_log(f"submitted RayJob {handed.id}\n")
        return handed.id

    def follow(self, handle: str, on_log: Log) -> None:
        """The driver's log, through all attempts."""
        follow(self, handle, on_log)

    def find(self, handle: str) -> State | None:
        """As `kubectl get rayjob` tells it."""
        words = [*self._kubectl, "get", "rayjob", handle, "--ignore-not-found", "--output=json"]
        text = call(words)
        if not text.strip():
            return None
        status = json.loads(text).get("status") or {}
        cluster = status.get("rayClusterName", "")
        if cluster != self._cluster:  # another attempt: its log starts anew
            self._last = ""
        self._cluster = cluster
        word = status.get("jobDeploymentStatus") or "New"
        if word not in _ENDED:
            return State(word)
        has_succeeded = word == "Complete" and status.get("jobStatus") in ("SUCCEEDED", None)
        return State(word, 0 if has_succeeded else 1)

    def more(self, handle: str) -> str:
        """Lines since the last one shown; kubectl knows seconds, the lines their own times."""
        if not self._cluster:
            return ""
        labels = f"ray.io/cluster={self._cluster},ray.io/node-type=head"
        words = [*self._kubectl, "logs", f"--selector={labels}", f"--container={SUBMITTER}"]
        words += ["--timestamps", "--tail=-1"]
        if self._last:
            words.append(f"--since-time={self._last}")
        try:
            text = call(words)
        except ToolFailed:  # no pod yet, or none any more: `find` tells whether Kubernetes is away
            return ""
        shown = []
        for line in text.splitlines():
            stamp, _, said = line.partition(" ")
            if stamp > self._last:
                shown.append(f"{said}\n")
                self._last = stamp
        return "".join(shown)

    def stop(self, handle: str) -> None:
        """Suspend it: KubeRay takes its cluster away, pods end by SIGTERM, the RayJob stays."""
        patch = json.dumps({"spec": {"suspend": True}})
        call([*self._kubectl, "patch", "rayjob", handle, "--type=merge", f"--patch={patch}"])
