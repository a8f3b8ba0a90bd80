"""Limits that nodes share: exact, on both databases, and forgotten when they are over."""

from __future__ import annotations

import asyncio

import pytest

from lowtide.kernel.clock import ManualClock
from lowtide.kernel.rates import Gcra, Limit
from lowtide.storage.db import Database, Query, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.purge import AT_ONCE
from lowtide.storage.rates import SharedRates
from lowtide.storage.vault import COMPONENT

pytestmark = pytest.mark.anyio

FIVE = Limit(5, 60)


@pytest.fixture
async def rates(database: Database, clock: ManualClock) -> SharedRates:
    await migrate(database, [COMPONENT], clock)
    return SharedRates(database, clock)


async def test_nodes_share_a_limit(rates: SharedRates, database: Database, clock: ManualClock) -> None:
    """Two nodes together let through what the limit says, however many ask at once."""
    elsewhere = SharedRates(database, clock)
    asked = [node.take("login", "ann", FIVE) for node in (rates, elsewhere) for _ in range(10)]
    decisions = await asyncio.gather(*asked)
    assert sum(decision.allowed for decision in decisions) == 5
    assert all(decision.retry_after == pytest.approx(12) for decision in decisions if not decision.allowed)
    assert (await rates.take("login", "bob", FIVE)).allowed
    assert (await rates.take("mail", "ann", FIVE)).allowed


async def test_it_decides_as_the_limit_in_memory_does(rates: SharedRates, clock: ManualClock) -> None:
    """Whatever the costs and pauses, the two agree."""
    local = Gcra(clock)
    limit = Limit(7, 21, burst=4)
    for pause, cost in [(0, 1), (0, 3), (0, 1), (3, 1), (2, 1), (1, 1), (0.5, 2), (30, 9), (1, 1), (12, 4)]:
        clock.advance(pause)
        here, there = await rates.take("a", "k", limit, cost), local.take("a", "k", limit, cost)
        assert (here.allowed, here.remaining) == (there.allowed, there.remaining)
        assert here.retry_after == pytest.approx(there.retry_after, abs=1e-4)
        assert here.reset == pytest.approx(there.reset, abs=1e-4)


async def test_a_rolled_back_transaction_takes_nothing(rates: SharedRates, database: Database) -> None:
    """``in_tx`` is part of the caller's transaction."""

    async def fail(tx: Tx) -> None:
        assert (await rates.in_tx(tx, "a", "k", FIVE, 5)).allowed
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await database.write(fail)
    assert (await rates.take("a", "k", FIVE)).remaining == 4


async def test_the_table_names_nobody(rates: SharedRates, database: Database) -> None:
    """Keys are kept as digests of one length, whatever text they are."""
    await rates.take("mail", "ann@example.com", FIVE)
    await rates.take("mail", "x" * 100_000 + "\ud800", FIVE)

    async def keys(tx: Tx) -> list[str]:
        return [row[0] for row in await tx.fetch(Query("q", *["SELECT key FROM rate"] * 2))]

    assert {len(key) for key in await database.read(keys)} == {32}


async def test_limits_that_are_over_are_purged(
    rates: SharedRates, database: Database, clock: ManualClock
) -> None:
    """The purge forgets what is as good as new, in short transactions, and nothing else."""

    async def fill(tx: Tx) -> None:
        for number in range(AT_ONCE + 5):
            await rates.in_tx(tx, "a", str(number), FIVE)

    await database.write(fill)
    await rates.take("b", "used up", FIVE, 5)
    clock.advance(20)
    assert await rates.purge() == AT_ONCE + 5
    assert not (await rates.take("b", "used up", FIVE, 5)).allowed
    clock.advance(60)
    assert await rates.purge() == 1
