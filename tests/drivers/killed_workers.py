"""Curate with two processes, killed for good (SIGKILL) while they work: when so many of their
results were heard.

python killed_workers.py PROMPTS GENERATED OUT SPEC RESULTS: the folders of the two stages before
and of this one, CurateSpec as JSON, and how many results. What it started is named in OUT.pids.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from engine.backends.processes import Processes, Work
from engine.job.spec import CurateSpec
from engine.run.context import Context
from engine.run.manifests import finished, publish
from engine.stages import curate


def dies_after(
    most: int, heard: Iterator[int], spread: Processes, work: Work, orders: Iterable[Any]
) -> Iterator[Any]:
    """What the processes give, up to so many results of all passes together."""
    for result in spread(work, orders):
        if next(heard) == most:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result


def main() -> None:
    """Until it is killed, or done: then the stage is published."""
    prompts, generated, out = map(Path, sys.argv[1:4])
    spec = CurateSpec.model_validate_json(sys.argv[4])
    out.mkdir(exist_ok=True)
    inputs = {"prompts": finished(prompts), "generate": finished(generated)}
    with Processes(2) as spread:
        spread._start()
        pids = [process._process.pid for process in spread._all]
        out.with_suffix(".pids").write_text(" ".join(map(str, pids)))
        dies = partial(dies_after, int(sys.argv[5]), itertools.count(), spread)
        sizes = {"group_rows": 40, "bucket_bytes": 3000}
        counts = curate.run(spec, inputs, out, Context("t", "math", 0), spread=dies, **sizes)
    publish(out, "curate", {}, counts, 0.0)


if __name__ == "__main__":
    main()
