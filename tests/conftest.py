"""What every test may ask for.

``database`` runs a test once on SQLite and once on PostgreSQL. ``sqlite_database`` and ``postgres_dsn``
are for what only one of them does; ``make_database`` opens one with options of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from blockbuster import BlockBuster
from hypothesis import settings

from lowtide.cli import main
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database, Dialect
from lowtide.storage.db.postgres import PostgresDatabase
from lowtide.storage.db.sqlite import SqliteDatabase
from tests.memory import memory
from tests.postgres_server import PostgresServer
from tests.s3_server import S3Server

# The same examples every time, on a slow machine too: what fails, fails again. 'make soak' looks for others.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("exploring", deadline=None)
settings.load_profile("steady")


def pytest_configure() -> None:
    """What this run's surroundings say must not decide what its programs do.

    A run in the background is deaf to SIGINT, and so would be the servers that it stops with one; what
    programs print is compared, and has no colours, whoever wants some.
    """
    if (folder := memory()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))
    os.environ.pop("FORCE_COLOR", None)
    os.environ["NO_COLOR"] = "1"
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run asynchronous tests on uvloop, as servers do")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What hostile text put into the log must not stop a report on its way between processes."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the app that 'lowtide new' writes, which is the current one."""
    monkeypatch.chdir(tmp_path)
    assert main(["new", "todo"]) == 0
    monkeypatch.chdir(tmp_path / "todo")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "todo"
    sys.modules.pop("app", None)  # the next test's app is another


@pytest.fixture
def told(project: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command there: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Lowtide runs on asyncio; its tests do too."""
    return "asyncio", {"use_uvloop": bool(request.config.getoption("--uvloop"))}


@pytest.fixture(scope="session", autouse=True)
def no_blocking() -> Iterator[None]:
    """Lowtide's code that blocks an event loop fails its test."""
    guard = BlockBuster("lowtide")
    for function in guard.functions.values():
        # asyncpg looks for password and certificate files when it connects: once a connection.
        function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
        # A command has its loop for itself: nobody waits while it blocks.
        function.can_block_in("lowtide/cli/opened.py", {"with_reader", "with_backend"})
    guard.activate()
    yield
    guard.deactivate()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when it is told to."""
    return ManualClock()


@pytest.fixture
def ids(clock: ManualClock) -> SeededIds:
    """The same ids in every run."""
    return SeededIds(clock)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run, without fsync. A test that stops servers starts its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of an empty database."""
    dsn = postgres_server.create_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One object storage for the whole run; a test takes a prefix of its own."""
    with S3Server() as server:
        yield server


class MakeDatabase(Protocol):
    """Opens a started database; two calls of one test open the same files, or the same server."""

    async def __call__(self, dialect: Dialect, **options: Any) -> Database: ...


@pytest.fixture
async def make_database(
    anyio_backend: object, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[MakeDatabase]:
    """``await make_database("sqlite", queue_limit=1)``; all are closed at the end."""
    opened: list[Database] = []

    async def make(dialect: Dialect, **options: Any) -> Database:
        options.setdefault("clock", SystemClock())
        database: Database
        if dialect == "sqlite":
            database = SqliteDatabase(tmp_path / "data.db", **options)
        else:
            database = PostgresDatabase(request.getfixturevalue("postgres_dsn"), **options)
        await database.start()
        opened.append(database)
        return database

    yield make
    for database in reversed(opened):
        await database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each test that asks for it runs on both."""
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
async def database(dialect: Dialect, make_database: MakeDatabase) -> Database:
    """A started, empty database."""
    return await make_database(dialect)


@pytest.fixture
async def sqlite_database(make_database: MakeDatabase) -> Database:
    """A started, empty SQLite database."""
    return await make_database("sqlite")
