"""The block `report`."""

from __future__ import annotations

from engine.job.spec.base import Block, identity


class ReportSpec(Block):
    """Manifests -> report.json, report.md, report.html."""

    html: bool = identity(True)
    """Also write the single-file report.html with plots."""
