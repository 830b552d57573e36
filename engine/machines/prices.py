"""What an hour of a GPU costs: a dated table, and what the user says instead.

A price is never a fact here: it is a guess with its month, shown beside the dollars made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import SpecError

MONTH = "2026-10"  # of the table


@dataclass(frozen=True)
class Price:
    """US dollars per GPU-hour on demand: low, typical, high; `source` says whose they are."""

    low: float
    typical: float
    high: float
    source: str = f"table of {MONTH}"

    def __str__(self) -> str:
        if self.low == self.high:
            return f"${self.typical:g} ({self.source})"
        return f"${self.typical:g} ({self.low:g} to {self.high:g}, {self.source})"


# Public price lists and indexes as collected in the sizing notes, B4. MI300X, L40S, L4 and A10G are
# from memory of price lists, not from an index.
PRICES = {
    "A10G": Price(0.6, 1.0, 1.6),
    "L4": Price(0.4, 0.7, 1.0),
    "L40S": Price(0.8, 1.3, 2.0),
    "A100": Price(0.8, 1.8, 3.0),
    "A100-40G": Price(0.7, 1.3, 2.5),
    "A100-80G": Price(0.8, 1.8, 3.0),
    "A800": Price(0.8, 1.8, 3.0),
    "H20": Price(1.0, 1.8, 3.0),
    "H100": Price(1.5, 3.1, 7.0),
    "H800": Price(1.5, 2.0, 4.0),
    "H200": Price(2.5, 4.0, 7.0),
    "B200": Price(3.4, 6.0, 16.0),
    "GB200": Price(4.0, 6.0, 16.0),
    "RTX6000PRO": Price(1.0, 1.8, 2.5),
    "MI300X": Price(1.5, 2.5, 4.0),
}
_GIVEN = re.compile(r"([A-Za-z0-9][\w.-]*)=(\d+(?:\.\d+)?)")


def price_of(accelerator: str, given: Mapping[str, float]) -> Price | None:
    """The price of one hour; None where nobody knows it."""
    if accelerator in given:
        usd = given[accelerator]
        return Price(usd, usd, usd, "given")
    return PRICES.get(accelerator)


def prices_given(options: Iterable[str]) -> dict[str, float]:
    """`H200=3.5`, each an accelerator and its dollars per hour. SpecError where one is not."""
    prices = {}
    for option in options:
        found = _GIVEN.fullmatch(option)
        if found is None:
            raise SpecError(
                f"--price {option}: give an accelerator and its US dollars per GPU-hour, such as"
                " --price H200=3.5"
            )
        prices[found[1]] = float(found[2])
    return prices


def unknown_price(accelerator: str) -> str:
    """What to do where no price is known."""
    return (
        f"no price of {accelerator} is known, so no dollars are told; give --price {accelerator}="
        "<US dollars per GPU-hour>"
    )
