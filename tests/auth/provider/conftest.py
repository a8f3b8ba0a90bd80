"""A provider on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database
from tests.auth.provider.world import House, housed


@pytest.fixture
async def house(database: Database, clock: ManualClock, ids: SeededIds) -> AsyncIterator[House]:
    """A provider at work."""
    async with housed(database, clock, ids) as house:
        yield house
