"""The errors that a user can meet. Each message says what was given, what is allowed and what to do
next.

    EngineError
    ├── SpecError       the job file, or a file that it names, is wrong; found before anything runs
    (exit 2) ├── InputError      a row or file of the user's data is wrong
    (exit 1) ├── CapacityError   the job wants more than the cluster has
    (exit 1) └── StageError      a stage could not do its work; what it finished is kept
    (exit 1)
        ├── Preempted   a node is about to be taken away; the work is saved, to go on without it
        └── Stopped     the user interrupted it; the work is saved

They carry one string and no other constructor argument, so that they survive pickling between Ray
processes.
"""

import errno


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    exit_code = 1


class SpecError(EngineError):
    """The job description cannot be run as written."""

    exit_code = 2


class InputError(EngineError):
    """The user's data cannot be used as they are."""


class CapacityError(EngineError):
    """The cluster, node or port cannot hold what the job asks for."""


class StageError(EngineError):
    """A stage stopped; the same command resumes it."""


class Preempted(StageError):
    """Work was saved and left because a node is about to be taken away; it can go on at once on
    what remains."""


class Stopped(StageError):
    """Ctrl-C or SIGTERM: what was open was waited for, and is kept."""


def remedy_of(error: BaseException) -> str:
    """What to do about an error of the machine that is nobody's mistake, as the end of a sentence;
    "" where nothing can be said."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "; make room there, and the same command goes on: what is committed is kept"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "; give a folder that is yours to write, e.g. --runs ~/runs, or ask its owner for the"
            " right"
        )
    return ""
