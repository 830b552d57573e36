"""distill-engine: one job file in; a student, its synthetic data set and a report out.

    from engine import JobSpec, run
"""

from engine.pipeline import Run, run
from engine.spec import JobSpec

__all__ = ["JobSpec", "Run", "run"]
