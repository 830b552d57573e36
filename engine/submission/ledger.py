"""Where a job was submitted to: one small file per job beside the runs, so that `logs` and `stop`
find it again."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import SpecError
from engine.store.paths import Folder, run_folder


@dataclass(frozen=True)
class Submission:
    """The last one of a job: our id, what the platform knows it by, and the cluster file."""

    id: str
    handle: str
    cluster: str
    submitted: str

    @classmethod
    def now(cls, name: str, handle: str, cluster: Path) -> Submission:
        """The submission `name`, made now."""
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(name, handle, str(cluster.resolve()), moment)


def write_submission(runs: str, job: str, submission: Submission) -> None:
    """Keep it for `job`, in place of an earlier one."""
    path = _path(runs, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(submission), indent=1) + "\n")


def read_submission(runs: str, job: str) -> Submission:
    """The last submission of `job`; SpecError where there is none."""
    path = _path(runs, job)
    if not path.exists():
        raise SpecError(
            f"{job} was not submitted from here ({path} is not there); give the --runs of that"
            " `distill submit`, or submit it"
        )
    return Submission(**json.loads(path.read_text()))


def _path(runs: str, job: str) -> Folder:
    return run_folder(runs) / ".submissions" / f"{job}.json"
