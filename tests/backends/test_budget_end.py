"""A budget that is nearly used up refuses what it does not hold, instead of waiting for what is settled already."""

import asyncio

from engine.backends.admission import Budget
from engine.spec import PriceSpec


def test_what_sums_of_dollars_leave_over_is_no_open_request():
    assert 0.1 + 0.2 - 0.1 - 0.2 > 0  # the crumb that this is about

    async def ask():
        budget = Budget(PriceSpec(input=1000.0, output=0.0), 1.0, 0.0)
        held = [await budget.reserve([7] * tokens, 0) for tokens in (100, 200)]
        for reserved in held:
            await budget.settle(reserved, 300, 0)
        return await asyncio.wait_for(budget.reserve([7] * 500, 0), 5), budget.is_spent

    assert asyncio.run(ask()) == (None, True)
