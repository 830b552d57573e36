"""How many replicas a model should have. Serve pickles this module by value, so it imports nothing
of ours."""

from __future__ import annotations

import math
from typing import Any


def desired_replicas(ctx: Any) -> tuple[float, dict[str, Any]]:
    """A policy of Serve's autoscaler: what the replicas have open over what one should have; from
    none to one as soon as somebody waits."""
    config = ctx.config
    open_by_replica = (ctx.aggregated_metrics or {}).get("open") or {}
    if open_by_replica:
        wanted = math.ceil(sum(open_by_replica.values()) / config.target_ongoing_requests)
    elif ctx.target_num_replicas:
        wanted = ctx.target_num_replicas  # they start, or have not told yet
    else:
        wanted = int(ctx.total_num_requests > 0)
    fewest, most = ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas
    return max(fewest, min(most, wanted)), {}
