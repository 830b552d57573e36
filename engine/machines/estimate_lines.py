"""A plan as text: a table that a cluster's owner can decide by, and below each stage what is worth
knowing."""

from __future__ import annotations

from collections.abc import Iterator

from engine.machines.estimate import Estimate
from engine.machines.ground import ASSUMED
from engine.machines.prices import unknown_price
from engine.machines.stage_estimate import StageEstimate

_HEAD = f"{'stage':<9} {'GPUs':>16} {'hours':>8}  {'[low, high]':<15} {'dollars':>9} {'GB':>8}"


def estimate_lines(plan: Estimate) -> Iterator[str]:
    """The whole plan, line by line."""
    yield f"plan of {plan.job}: {plan.work.told}"
    yield from _prices(plan)
    yield f"{_HEAD}  bound by"
    for one in plan.stages:
        yield _row(one)
        for note in one.notes:
            yield f"          {note}"
        for change in one.better:
            yield f"          better: {change}"
        for warning in one.warnings:
            yield f"          warning: {warning}"
    yield from _whole(plan)
    yield from _calibrated(plan)


def _prices(plan: Estimate) -> Iterator[str]:
    named = dict.fromkeys(one.accelerator for one in plan.stages if one.accelerator)
    for name in named:
        price = plan.ground.price(plan.ground.accelerator(name))
        if price is None:
            yield unknown_price(name)
        else:
            yield f"{name}: {price} a GPU-hour"
    if plan.is_assumed:
        yield f"{ASSUMED} is assumed: nobody names an accelerator; give --gpu NAME"


def _row(one: StageEstimate) -> str:
    devices = "-"
    if one.devices:
        devices = f"{one.devices} x {one.accelerator}"
    hours = interval = "?"
    if one.hours is not None and one.interval:
        low, high = one.interval
        hours = f"{one.hours:.2f}"
        interval = f"[{low:.2f}, {high:.2f}]"
    return (
        f"{one.stage:<9} {devices:>16} {hours:>8}  {interval:<15} {_dollars(one.usd):>9}"
        f" {_size(one.size_gb):>8}  {one.bound}"
    )


def _whole(plan: Estimate) -> Iterator[str]:
    hours = plan.hours
    told = interval = "?"
    if hours:
        typical, low, high = hours
        told = f"{typical:.2f}"
        interval = f"[{low:.2f}, {high:.2f}]"
    widest = f"at most {plan.devices}" if plan.devices else "-"
    yield (
        f"{'whole':<9} {widest:>16} {told:>8}  {interval:<15} {_dollars(plan.usd):>9}"
        f" {_size(plan.size_gb):>8}"
    )
    held = plan.held_usd
    if held:
        idle = 1 - plan.gpus_usd / held
        yield (
            f"          GPUs count while a stage uses them; {plan.devices} held from beginning to"
            f" end cost {_dollars(held)}, {idle:.0%} of it idle"
        )


def _calibrated(plan: Estimate) -> Iterator[str]:
    """Whether the earlier run spoke for any stage."""
    measured = plan.ground.measured
    if measured is None:
        return
    stages = dict.fromkeys(one.stage for one in plan.stages if one.is_measured)
    if stages:
        yield f"          measured by {measured.run}: {', '.join(stages)}"
    else:
        yield (
            f"          {measured.run} says nothing of their speed: it is of another model,"
            " accelerator or layout, or its lengths differ more than four times"
        )


def _dollars(usd: float | None) -> str:
    if usd is None:
        return "-"
    if usd < 10:
        return f"${usd:.2f}"
    return f"${usd:,.0f}"


def _size(size_gb: float) -> str:
    return f"{size_gb:,.2f}" if size_gb < 1 else f"{size_gb:,.1f}"
