"""Servers for the scenarios: one for each database, and fresh ones for those that break theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.acceptance import scenarios
from tests.postgres_server import PostgresServer
from tests.server_process import ServerProcess

STORE = "https://apps.apple.com/app/id1"


class Scenario(Protocol):
    """Runs a scenario and returns its report; see ``scenarios.run``."""

    def __call__(
        self,
        name: str,
        *,
        mode: str = "legacy",
        transport: str = "HTTP",
        given: dict[str, Any] | None = None,
    ) -> Any: ...


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Callable[[], str | None]]:
    """Gives a new database's address: None for a SQLite file in the server's folder."""
    if request.param == "sqlite":
        yield lambda: None
        return
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    made: list[str] = []

    def make() -> str:
        made.append(postgres.create_database())
        return made[-1]

    yield make
    for dsn in made:
        postgres.drop_database(dsn)


@pytest.fixture(scope="module")
def shared_server(
    database: Callable[[], str | None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One server for every scenario that leaves it as it is; each has a space of its own."""
    folder = tmp_path_factory.mktemp("server")
    settings = {"min_app_versions": f"ios 2.1.0 {STORE}"}
    with ServerProcess(
        folder, scenarios.APPS["crew"], "crew", postgres=database(), settings=settings
    ) as server:
        yield server
        assert server.stop() == 0, server.log()[-4000:]


@pytest.fixture
def scenario(
    shared_server: ServerProcess, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Scenario]:
    """Runs a scenario in a space of its own; the server must have nothing to complain about."""
    known = len(shared_server.faults())
    yield functools.partial(scenarios.run, server=shared_server, folder=tmp_path, space=request.node.name)
    assert shared_server.faults()[known:] == []


@pytest.fixture
def app() -> str:
    """Which version of the app a server of its own starts with."""
    return "crew"


@pytest.fixture
def own_scenario(database: Callable[[], str | None], app: str, tmp_path: Path) -> Iterator[Scenario]:
    """Runs a scenario on a server of its own, which it may kill."""
    with ServerProcess(tmp_path / "server", scenarios.APPS[app], "crew", postgres=database()) as server:
        yield functools.partial(scenarios.run, server=server, folder=tmp_path)
        assert server.stop() == 0, server.log()[-4000:]
        assert server.faults() == []
