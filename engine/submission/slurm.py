"""Batch jobs of a Slurm cluster, through sbatch, scontrol, squeue and scancel."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

from engine.machines.native_file import NativeFile
from engine.submission.follow import Log, State, follow
from engine.submission.hand_over import slurm
from engine.submission.request import Request
from engine.submission.tool import ToolFailed, call

_WAITING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "RESIZING")
_FIELD = re.compile(r"(\w+)=(\S*)")
_UNKNOWN = "Invalid job id"  # of scontrol, some minutes after the end


class SlurmJobs:
    """The jobs of this user. A handle is the number that sbatch gave."""

    def __init__(self, file: NativeFile) -> None:
        self._file = file
        self._log: Path | None = None
        self._read = 0  # bytes of the log that were shown

    def shown(self, request: Request) -> str:
        """The command line."""
        return slurm(self._file, request).shown

    def start(self, request: Request, on_log: Log) -> str:
        """Queue it; one of that name that waits or runs is joined."""
        handed = slurm(self._file, request)
        if running := self._running(handed.id):
            on_log(f"joined Slurm job {running}, which is there already\n")
            return running
        request.require_keys()
        number = call(handed.command).strip().partition(";")[0]  # `number;cluster`
        on_log(f"submitted Slurm job {number}\n")
        return number

    def follow(self, handle: str, on_log: Log) -> None:
        """The job's output file, from its start."""
        follow(self, handle, on_log)

    def _running(self, name: str) -> str | None:
        words = ["squeue", "--noheader", f"--user={getpass.getuser()}", f"--name={name}"]
        numbers = call([*words, "--format=%i"]).split()
        return numbers[0] if numbers else None

    def find(self, handle: str) -> State | None:
        """As scontrol tells it, which forgets a job some minutes after its end."""
        try:
            text = call(["scontrol", "show", "job", "--oneliner", handle])
        except ToolFailed as error:
            if _UNKNOWN in str(error):
                return None
            raise
        fields = dict(_FIELD.findall(text))
        if out := fields.get("StdOut"):
            self._log = Path(out)
        word = fields.get("JobState", "")
        if word in _WAITING:
            return State(word)
        code, _, signal = fields.get("ExitCode", "1:0").partition(":")
        return State(word, int(code) or (1 if word != "COMPLETED" or signal != "0" else 0))

    def more(self, handle: str) -> str:
        """What was written to the output file since; it lies where the job was submitted."""
        if self._log is None or not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        return new.decode(errors="replace")

    def stop(self, handle: str) -> None:
        """SIGTERM to all of it, and no more: it saves, and ends by itself."""
        call(["scancel", "--signal=TERM", "--full", handle])
