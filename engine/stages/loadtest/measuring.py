"""Models behind addresses, loaded level by level with the same prompts at the same times, and
searched for the largest load within an SLO."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import StageError
from engine.job.spec import LoadtestSpec
from engine.loadgen.ceiling import measure_ceiling
from engine.loadgen.level import Spread, run_level
from engine.loadgen.observer import Observed, Observer
from engine.loadgen.plans import Closed, Load, Plan
from engine.loadgen.probe import refusal
from engine.loadgen.samples import Ceiling, Level
from engine.loadgen.sender import Progress as Sent
from engine.loadgen.target import Target
from engine.rows.records import Messages
from engine.run.progress import Progress
from engine.stages.loadtest.figures import figures_of
from engine.stages.loadtest.files import Measured
from engine.stages.loadtest.knee import Knee, Trial, search, trial_of
from engine.stages.loadtest.levels import (
    loads_of,
    name_of,
    open_load,
    plan_of,
    shape_of,
    slo_of,
)
from engine.stages.loadtest.tables import entry_of

PROBES = 3  # before a server is given up: one answer in some may fail
CEILING_S = 1.0  # of the client's own measurement


@dataclass(frozen=True)
class Loaded:
    """What was measured of one model: levels in their order, each as its server saw it; the levels
    of a search stand last, and are of `knee`."""

    measured: list[Measured]
    observed: list[Observed]
    knee: Knee | None = None

    def serving(self, spec: LoadtestSpec) -> dict[str, Any]:
        """The model's entry in report.json."""
        slo = slo_of(spec.slo)
        entry: dict[str, Any] = {"levels": []}
        for measured, observed in zip(self.measured, self.observed, strict=True):
            entry["levels"].append(entry_of(measured, observed, slo))
        knee = self.knee_fields(spec)
        if knee:
            entry["knee"] = knee
        return entry

    def knee_fields(self, spec: LoadtestSpec) -> dict[str, Any] | None:
        """What the search found, as in report.json."""
        knee = self.knee
        slo = slo_of(spec.slo)
        if knee is None or slo is None:
            return None
        unit = "requests/s" if spec.search == "rate" else "requests in flight"
        low, high = knee.interval.low, knee.interval.high
        found = f"between {_shown(low)} and {_shown(high)} {unit} ({knee.reason})"
        if knee.load is not None:
            found = f"{knee.load:.4g} {unit}, {found}"
        return {
            "search": spec.search,
            "load": knee.load,
            "interval": (low, high),
            "decided": knee.decided,
            "reason": knee.reason,
            "levels": len(knee.trials),
            "sentence": f"Within {slo} it carries {found}.",
        }


def _shown(end: float | None) -> str:
    return "?" if end is None else f"{end:.4g}"


class Loader:
    """The levels of a job, and its search. StageError without prompts."""

    def __init__(
        self,
        spec: LoadtestSpec,
        prompts: Sequence[Messages],
        seed: int,
        progress: Progress,
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
        self._progress = progress
        self._spread = spread
        self._shape = shape_of(spec)
        self._loads = loads_of(spec)
        progress.update(note="measuring what this client can do")
        self._ceiling: Ceiling = measure_ceiling(spec.processes, CEILING_S)
        self._requests = 0  # measured, of all levels so far

    def load(self, target: Target) -> Loaded:
        """Every level of one model, then the search. StageError for a server that does not answer,
        before a level is wasted on it, and where no request of the first levels succeeds."""
        self._progress.update(note=f"loading {target.model}")
        self._require_answer(target)
        loaded = Loaded([], [])
        statuses: Counter[str] = Counter()
        level_s = self._spec.warmup_seconds + self._spec.seconds
        for number, load in enumerate(self._loads):
            left_s = (len(self._loads) - number) * level_s
            plan = plan_of(load, self._spec, self._seed)
            level = self._run(target, load, plan, loaded, left_s)
            statuses.update(sample.status for sample in level.samples)
            # A level may be too short for any request; only answers that all failed condemn the
            # model.
            if statuses and "ok" not in statuses:
                raise _nothing_succeeded(target, statuses, level)
        return dataclasses.replace(loaded, knee=self._search(target, loaded))

    def _require_answer(self, target: Target) -> None:
        why_not: str | None = None
        for _ in range(PROBES):
            why_not = refusal(target, self._shape, self._prompts[0])
            if why_not is None:
                return
        raise StageError(f"loadtest: {why_not}")

    def _search(self, target: Target, loaded: Loaded) -> Knee | None:
        slo = slo_of(self._spec.slo)
        if slo is None or self._spec.search is None:
            return None
        whole = self._spec.search == "concurrency"

        def measure(size: float) -> Trial:
            load: Load = Closed(round(size)) if whole else open_load(self._spec, size)
            # The same load may be asked for twice: what is drawn must not be.
            plan = plan_of(load, self._spec, self._seed + len(loaded.measured))
            level = self._run(target, load, plan, loaded, None)
            return trial_of(size, level, slo, self._ceiling)

        return search(measure, slo, whole=whole)

    def _run(
        self, target: Target, load: Load, plan: Plan, loaded: Loaded, left_s: float | None
    ) -> Level:
        name = f"{target.model} at {name_of(load)}"
        with Observer(target) as observer:
            level = run_level(
                target,
                self._shape,
                self._prompts,
                plan,
                processes=self._spec.processes,
                spread=self._spread,
                tell=_teller(self._progress, name, left_s),
            )
        loaded.measured.append(Measured(target.model, level, self._ceiling))
        loaded.observed.append(observer.observed(level.started_s))
        figures = figures_of(level, self._ceiling)
        self._requests += figures["requests"]
        self._progress.update(
            done=self._requests,
            level=name,
            requests=figures["requests"],
            failed=figures["failed"],
            verdict=figures["verdict"],
            **{"tok/s": figures["output_tokens_per_second"]},
        )
        return level


def _teller(progress: Progress, name: str, left_s: float | None) -> Callable[[Sent], None]:
    began_s = time.monotonic()

    def tell(sent: Sent) -> None:
        left = "search" if left_s is None else f"{left_s - (time.monotonic() - began_s):.0f} s"
        progress.update(level=name, left=left, requests=sent.ended, failed=sent.failed)

    return tell


def _nothing_succeeded(target: Target, statuses: Counter[str], level: Level) -> StageError:
    words = next((sample.error for sample in level.samples if sample.error), None)
    return StageError(
        f"loadtest: every request to '{target.model}' at {target.url} failed ({dict(statuses)};"
        f" first: {words}); is it served there?"
    )
