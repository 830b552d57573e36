"""Models behind addresses, loaded level by level with the same prompts at the same times."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from engine.errors import StageError
from engine.job.spec import LoadtestSpec
from engine.loadgen.level import Spread, run_level
from engine.loadgen.plans import Load
from engine.loadgen.samples import Ceiling, Level
from engine.loadgen.sender import Progress as Sent
from engine.loadgen.target import Target
from engine.rows.records import Messages
from engine.run.progress import Progress
from engine.stages.loadtest.figures import figures_of
from engine.stages.loadtest.files import Measured
from engine.stages.loadtest.levels import loads_of, name_of, plan_of, shape_of


class Loader:
    """The levels of a job. StageError without prompts."""

    def __init__(
        self,
        spec: LoadtestSpec,
        prompts: Sequence[Messages],
        seed: int,
        ceiling: Ceiling,
        spread: Spread | None = None,
    ) -> None:
        if not prompts:
            raise StageError(
                "loadtest: no prompts to send; give prompts.validation, or a"
                " prompts.validation_fraction above 0"
            )
        self._spec = spec
        self._prompts = prompts
        self._seed = seed
        self._ceiling = ceiling
        self._spread = spread
        self._loads = loads_of(spec)
        self._requests = 0  # measured, of all levels so far

    def levels(self, target: Target, progress: Progress) -> list[Measured]:
        """Every level of one model; the progress is told each second. StageError if no request of
        the first levels succeeds."""
        found: list[Measured] = []
        statuses: Counter[str] = Counter()
        for number, load in enumerate(self._loads):
            left_s = (len(self._loads) - number) * self._level_s
            level = self._run(target, load, progress, left_s)
            found.append(Measured(target.model, level, self._ceiling))
            self._tell(target, load, level, progress)
            statuses.update(sample.status for sample in level.samples)
            # A level may be too short for any request; only answers that all failed condemn the
            # model.
            if statuses and "ok" not in statuses:
                raise _nothing_succeeded(target, statuses, level)
        return found

    @property
    def _level_s(self) -> float:
        return self._spec.warmup_seconds + self._spec.seconds

    def _run(self, target: Target, load: Load, progress: Progress, left_s: float) -> Level:
        plan = plan_of(load, self._spec, self._seed)
        name = f"{target.model} at {name_of(load)}"
        progress.update(level=name, left=f"{left_s:.0f} s")
        return run_level(
            target,
            shape_of(self._spec),
            self._prompts,
            plan,
            processes=self._spec.processes,
            spread=self._spread,
            tell=_teller(progress, name, left_s),
        )

    def _tell(self, target: Target, load: Load, level: Level, progress: Progress) -> None:
        figures = figures_of(level, self._ceiling)
        self._requests += figures["requests"]
        progress.update(
            done=self._requests,
            level=f"{target.model} at {name_of(load)}",
            requests=figures["requests"],
            failed=figures["failed"],
            verdict=figures["verdict"],
            **{"tok/s": figures["output_tokens_per_second"]},
        )


def _teller(progress: Progress, name: str, left_s: float) -> Callable[[Sent], None]:
    ends_s = time.monotonic() + left_s

    def tell(sent: Sent) -> None:
        left = max(0.0, ends_s - time.monotonic())
        progress.update(level=name, left=f"{left:.0f} s", **vars(sent))

    return tell


def _nothing_succeeded(target: Target, statuses: Counter[str], level: Level) -> StageError:
    words = next((sample.error for sample in level.samples if sample.error), None)
    return StageError(
        f"loadtest: every request to '{target.model}' at {target.url} failed ({dict(statuses)};"
        f" first: {words}); is it served there?"
    )
