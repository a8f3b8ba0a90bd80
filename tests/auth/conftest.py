"""Accounts on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lowtide.app import Lowtide
from lowtide.declare.app import App
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.ids import SeededIds, SystemIds
from lowtide.settings import Settings
from lowtide.storage.db import Database, Dialect
from tests.api.client import Client
from tests.auth.shop import app as shop
from tests.auth.world import World, opened
from tests.server_process import SECRET_KEY


@pytest.fixture
async def world(database: Database, clock: ManualClock, ids: SeededIds) -> AsyncIterator[World]:
    """Accounts at work."""
    async with opened(database, clock, ids) as world:
        yield world


def built(app: App, database: str) -> Lowtide:
    """A backend, not started: compiling an app reads its source, which is not for a loop."""
    clock = SystemClock()
    return Lowtide(Settings(database=database, secret_key=SECRET_KEY), app, clock, SystemIds(clock))


@pytest.fixture
def backend(dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest) -> Lowtide:
    address = str(tmp_path / "data.db") if dialect == "sqlite" else request.getfixturevalue("postgres_dsn")
    return built(shop, address)


@pytest.fixture
async def lowtide(backend: Lowtide) -> AsyncIterator[Lowtide]:
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
def client(lowtide: Lowtide) -> Client:
    return Client(lowtide.asgi)
