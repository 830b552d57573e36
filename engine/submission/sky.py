"""Managed jobs of SkyPilot, through its own command."""

from __future__ import annotations

import re
import time

from engine.errors import CapacityError
from engine.machines.native_file import NativeFile
from engine.submission.follow import FOLLOW_S, EndOfAttempts, Log, require_success
from engine.submission.hand_over import sky
from engine.submission.request import Request
from engine.submission.tool import call, call_with_file, stream

_ALIVE = re.compile(r"\b(PENDING|SUBMITTED|STARTING|RUNNING|RECOVERING)\b")
# What `sky jobs logs` ends with: how the job ended, or that it has not.
_CODES = {0: 0, 100: 1, 103: 1}
_ATTEMPTS = 100


class SkyJobs:
    """Managed jobs by name, which is our id."""

    def __init__(self, file: NativeFile) -> None:
        self._file = file

    def shown(self, request: Request) -> str:
        """The command, and the task whose file it reads."""
        return sky(self._file, request).shown

    def start(self, request: Request, on_log: Log) -> str:
        """Launch it; one of that name that waits or runs is joined."""
        handed = sky(self._file, request)
        if self._is_running(handed.id):
            on_log(f"joined managed job {handed.id}, which is there already\n")
            return handed.id
        request.require_keys()
        call_with_file(handed.command, handed.text, ".yaml")
        on_log(f"submitted managed job {handed.id}\n")
        return handed.id

    def follow(self, handle: str, on_log: Log) -> None:
        """SkyPilot follows by itself, and is asked again where it says `not yet`."""
        ending = EndOfAttempts(on_log)
        for _ in range(_ATTEMPTS):
            ended = stream(["sky", "jobs", "logs", "--name", handle], ending)
            if ended in _CODES:
                require_success(handle, _CODES[ended] or ending.exit_code)
                return
            time.sleep(FOLLOW_S)
        raise CapacityError(
            f"sky jobs logs --name {handle} ended {_ATTEMPTS} times without the job's end; it goes"
            " on there, and distill logs asks again"
        )

    def _is_running(self, name: str) -> bool:
        for line in call(["sky", "jobs", "queue"]).splitlines():
            if name in line.split() and _ALIVE.search(line):
                return True
        return False

    def stop(self, handle: str) -> None:
        """Cancel it: SkyPilot ends its processes by SIGTERM."""
        call(["sky", "jobs", "cancel", "--yes", "--name", handle])
