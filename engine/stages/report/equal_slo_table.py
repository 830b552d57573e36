"""Two models at the same SLO, as a table."""

from __future__ import annotations

from engine.stages.report.table import UNKNOWN, Block, Table, figure

_LATENCIES = {"ttft_ms_p50": "TTFT p50", "tpot_ms_p50": "TPOT p50", "e2e_ms_p50": "E2E p50"}


def equal_slo(compared: Block) -> Table:
    """What each carries within the SLO, at what latency and cost, and by how much the second one is
    better."""
    rows = [
        _row(f"{compared['unit'] or 'load'} within the SLO", compared["load"]),
        _row("good tokens/s", compared["good_tokens_per_second"]),
        _row("USD per million good tokens", compared["usd_per_million_good_tokens"]),
    ]
    latency = compared["latency"]
    for name, shown in _LATENCIES.items():
        if name in latency:
            rows.append(_row(f"{shown}, ms", latency[name]))
    first, second = compared["first"], compared["second"]
    header = ["", first, second, "ratio", "95 % interval"]
    notes = [f"A ratio above 1: the {second} is better. Latency: {latency['how']}."]
    for pair in (compared["load"], compared["usd_per_million_good_tokens"]):
        if pair["ratio"]["value"] is None:
            notes.append(f"Unknown: {pair['ratio']['how']}.")
    return Table(
        f"Serving: {second} against {first} at the same SLO", header, rows, "\n".join(notes)
    )


def _row(name: str, pair: Block) -> list[str]:
    ratio = pair["ratio"]
    low, high = ratio["ci"]
    between = UNKNOWN
    if low is not None or high is not None:
        between = f"{figure(low)} to {figure(high)}"
    values = [figure(pair[side]["value"]) for side in ("first", "second", "ratio")]
    return [name, *values, between]
