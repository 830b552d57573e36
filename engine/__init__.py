"""distill-engine: one job file in; a student, its synthetic data set and a report out.

from engine import JobSpec, run
"""

from engine.job.spec import JobSpec
from engine.pipeline import Run, run

__all__ = ["JobSpec", "Run", "run"]
