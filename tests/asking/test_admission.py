"""Rows that a replica holds, and dollars that it may spend."""

import asyncio
import json
import random
from contextlib import AsyncExitStack

import pytest

from engine.asking.admission import Budget, Room
from engine.job.spec import PriceSpec
from engine.rows.tools import Conversation

PRICES = PriceSpec(input=1.0, output=2.0)  # dollars per million tokens
QUESTION = Conversation([{"role": "user", "content": "x" * 84}])  # at most 100 tokens
MOST_USD = (100 * 1 + 50 * 2) / 1e6  # with 50 tokens out


async def turn():
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class Guest:
    """A group that stays in a room until it is told to leave."""

    def __init__(self, room, rows, *, alone=False):
        self.inside, self.leave = False, asyncio.Event()
        self.task = asyncio.ensure_future(self._stay(room, rows, alone))

    async def _stay(self, room, rows, alone):
        async with room.hold(rows, alone=alone) as self.give_back:
            self.inside = True
            await self.leave.wait()
        self.inside = False


def test_a_group_waits_until_its_rows_fit():
    async def work():
        room = Room(10)
        first, second = Guest(room, 6), Guest(room, 5)
        await turn()
        assert (first.inside, second.inside, room.held) == (True, False, 6)
        await first.give_back()
        await turn()
        assert (second.inside, room.held) == (True, 10), (
            "one row's place is free while the rest of its group goes on"
        )
        first.leave.set()
        await turn()
        assert room.held == 5

    asyncio.run(work())


def test_a_room_never_holds_more_than_its_size():
    async def work():
        room, most, draw = Room(16), 0, random.Random(0)

        async def visit(rows):
            nonlocal most
            async with room.hold(rows, alone=False) as give_back:
                for _ in range(rows):
                    most = max(most, room.held)
                    await asyncio.sleep(0)
                    await give_back()

        await asyncio.gather(*(visit(draw.randint(1, 16)) for _ in range(100)))
        assert (most, room.held) == (16, 0)

    asyncio.run(work())


def test_a_group_larger_than_the_room_enters_an_empty_one_and_no_other():
    async def work():
        room = Room(4)
        small, large = Guest(room, 1), Guest(room, 9)
        await turn()
        assert not large.inside
        small.leave.set()
        await turn()
        assert (large.inside, room.held) == (True, 9)
        late = Guest(room, 1)
        await turn()
        assert not late.inside

    asyncio.run(work())


def test_a_group_that_must_be_alone_comes_last_and_keeps_others_out():
    async def work():
        room = Room(10)
        before, alone = Guest(room, 2), Guest(room, 3, alone=True)
        await turn()
        assert not alone.inside
        after = Guest(room, 9)
        await turn()
        assert not after.inside
        beside = Guest(room, 1)
        await turn()
        assert beside.inside, "one long answer delays nothing, whoever waits for it to end"
        before.leave.set()
        beside.leave.set()
        await turn()
        assert (alone.inside, after.inside) == (False, True)
        after.leave.set()
        await turn()
        late = Guest(room, 1)
        await turn()
        assert (alone.inside, late.inside) == (True, False)
        for _ in range(3):
            await alone.give_back()
        await turn()
        assert not late.inside, "its answers are not committed yet"
        alone.leave.set()
        await turn()
        assert (late.inside, room.held) == (True, 1)

    asyncio.run(work())


def test_groups_that_must_be_alone_take_turns():
    async def work():
        room = Room(10)
        guests = [Guest(room, 2, alone=True) for _ in range(3)]
        for _ in guests:
            await turn()
            (inside,) = [guest for guest in guests if guest.inside]
            inside.leave.set()
        await turn()
        assert room.held == 0

    asyncio.run(work())


@pytest.mark.parametrize("alone", [False, True])
def test_an_exception_gives_every_place_back(alone):
    async def work():
        room = Room(4)

        async def fail():
            async with room.hold(4, alone=alone) as give_back:
                await give_back()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert room.held == 0
        async with AsyncExitStack() as stack:
            await asyncio.wait_for(stack.enter_async_context(room.hold(4, alone=True)), 1)

    asyncio.run(work())


def test_a_budget_is_never_passed_by_requests_that_cost_the_most_they_can():
    async def work():
        budget, spent, most = Budget(PRICES, 10.5 * MOST_USD, 0.0), 0, 0.0

        async def ask():
            nonlocal spent, most
            reserved = await budget.reserve(QUESTION, 50)
            if reserved is None:
                return
            spent += 1
            await asyncio.sleep(0)
            await budget.settle(reserved, 100, 50)
            most = max(most, budget.spent_usd)

        await asyncio.gather(*(ask() for _ in range(200)))
        assert (spent, most) == (10, pytest.approx(10 * MOST_USD))
        assert budget.is_spent

    asyncio.run(work())


def test_a_request_waits_for_open_ones_that_may_turn_out_cheaper():
    async def work():
        budget = Budget(PRICES, 1.5 * MOST_USD, 0.0)
        first = await budget.reserve(QUESTION, 50)
        second = asyncio.ensure_future(budget.reserve(QUESTION, 50))
        await turn()
        assert not second.done()
        await budget.settle(first, 40, 5)
        assert await asyncio.wait_for(second, 1) == (pytest.approx(MOST_USD), 1)
        assert not budget.is_spent

    asyncio.run(work())


def test_a_budget_is_spent_once_a_request_does_not_fit_with_nothing_open():
    async def work():
        budget = Budget(PRICES, 1.5 * MOST_USD, 0.0)
        await budget.settle(await budget.reserve(QUESTION, 50), 100, 50)
        assert not budget.is_spent
        assert await asyncio.wait_for(budget.reserve(QUESTION, 50), 1) is None
        assert budget.is_spent
        assert budget.spent_usd == pytest.approx(MOST_USD)

    asyncio.run(work())


def test_sums_that_do_not_cancel_exactly_keep_nobody_waiting():
    async def work():
        budget = Budget(PriceSpec(input=0.1, output=0.3), 100e-6, 0.0)
        reserved = [
            await budget.reserve(Conversation([{"role": "user", "content": "y" * n}]), n)
            for n in (1, 3, 5, 7, 11, 13, 17)
        ]
        for amount in reserved:
            await budget.settle(amount, 1, 1)
        assert await asyncio.wait_for(budget.reserve(QUESTION, 10_000), 1) is None

    asyncio.run(work())


def test_what_earlier_runs_spent_counts():
    async def work():
        assert await Budget(PRICES, 10 * MOST_USD, 9.5 * MOST_USD).reserve(QUESTION, 50) is None
        assert await Budget(PRICES, 10 * MOST_USD, 8.5 * MOST_USD).reserve(QUESTION, 50) == (
            pytest.approx(MOST_USD),
            1,
        )

    asyncio.run(work())


def test_token_ids_cost_what_they_are():
    async def work():
        assert await Budget(PRICES, None, 0.0).reserve([5] * 100, 50) == (
            pytest.approx(MOST_USD),
            1,
        )

    asyncio.run(work())


def test_without_prices_nothing_is_counted_or_refused():
    async def work():
        budget = Budget(None, 1e-12, 0.0)
        reserved = await budget.reserve(QUESTION, 10**9)
        await budget.settle(reserved, 10**9, 10**9)
        assert (reserved, budget.spent_usd, budget.is_spent) == ((0.0, 1), 0.0, False)

    asyncio.run(work())


def test_with_prices_and_no_limit_cost_is_counted_and_nothing_refused():
    async def work():
        budget = Budget(PRICES, None, 0.0)
        for _ in range(3):
            await budget.settle(await budget.reserve(QUESTION, 50), 100, 50)
        assert (budget.spent_usd, budget.is_spent) == (pytest.approx(3 * MOST_USD), False)

    asyncio.run(work())


def test_tries_that_came_to_nothing_count_against_the_limit():
    async def work():
        budget = Budget(PRICES, 2.5 * MOST_USD, 0.0)
        reserved = await budget.reserve(QUESTION, 50)
        await budget.settle(reserved, 100, 50, lost_usd=reserved.most_usd)
        assert budget.spent_usd == pytest.approx(2 * MOST_USD)
        assert await asyncio.wait_for(budget.reserve(QUESTION, 50), 1) is None

    asyncio.run(work())


def test_every_try_that_may_be_charged_is_set_aside_and_near_the_end_there_are_fewer():
    async def work():
        budget = Budget(PRICES, 7.5 * MOST_USD, 0.0)
        first = await budget.reserve(QUESTION, 50, 5)
        assert first == (pytest.approx(MOST_USD), 5)
        second = asyncio.ensure_future(budget.reserve(QUESTION, 50, 5))
        await turn()
        assert not second.done(), "ten tries would not fit"
        await budget.settle(first, 100, 50, lost_usd=4 * MOST_USD)
        assert (await second).tries == 2
        await budget.settle(await second, 100, 50, lost_usd=MOST_USD)
        assert await budget.reserve(QUESTION, 50, 5) is None
        assert budget.spent_usd == pytest.approx(7 * MOST_USD)

    asyncio.run(work())


def test_tools_are_part_of_what_a_request_may_cost():
    parameters = {"type": "object", "properties": {"city": {"description": "é" * 500}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}

    async def most(tools):
        reserved = await Budget(PRICES, None, 0.0).reserve(
            Conversation(QUESTION.messages, tools), 0
        )
        return reserved.most_usd * 1e6

    assert asyncio.run(most([])) == pytest.approx(100)
    written = len(json.dumps([tool], indent=4).encode())
    assert asyncio.run(most([tool])) >= 100 + written
