"""Accounts on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database
from tests.auth.world import World, opened


@pytest.fixture
async def world(database: Database, clock: ManualClock, ids: SeededIds) -> AsyncIterator[World]:
    """Accounts at work."""
    async with opened(database, clock, ids) as world:
        yield world
