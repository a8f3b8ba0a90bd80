"""The whole backend, in this process: what the table of addresses is proved against."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lowtide.app import Lowtide
from lowtide.declare.app import App
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.http import Route
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from lowtide.storage.db import Dialect
from tests.api.client import Client
from tests.contract.shop import app as shop
from tests.server_process import SECRET_KEY


def build(app: App, database: str) -> Lowtide:
    """A backend on ``database``, not started. Compiling an app reads its source: not on a loop."""
    clock = SystemClock()
    settings = Settings(database=database, secret_key=SECRET_KEY, rate_limits=0)
    return Lowtide(settings, app, clock, SystemIds(clock))


@contextlib.asynccontextmanager
async def running(lowtide: Lowtide) -> AsyncIterator[Lowtide]:
    """Started, and stopped when the block is left."""
    await lowtide.start()
    try:
        yield lowtide
    finally:
        await lowtide.stop()


@pytest.fixture
def built(dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest) -> Lowtide:
    """The shop, on both databases, not started."""
    return build(
        shop, str(tmp_path / "data.db") if dialect == "sqlite" else request.getfixturevalue("postgres_dsn")
    )


@pytest.fixture
async def backend(built: Lowtide) -> AsyncIterator[Lowtide]:
    """The shop at work."""
    async with running(built):
        yield built


@pytest.fixture
def client(backend: Lowtide) -> Client:
    """Calls the shop."""
    return Client(backend.asgi)


class Whole(msgspec.Struct, frozen=True):
    """What a server serves, and how it describes that."""

    routes: tuple[Route, ...]
    document: dict[str, Any]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The table of a whole server, and the description that it hands out."""

    lowtide = build(shop, str(tmp_path_factory.mktemp("whole") / "data.db"))

    async def look() -> Whole:
        async with running(lowtide):
            answer = await Client(lowtide.asgi).get("/v1/openapi.json")
            assert answer.status == 200, answer.body
            return Whole(lowtide.asgi.table.routes, answer.json())

    return asyncio.run(look())
