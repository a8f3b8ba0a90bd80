"""Phones over real HTTP: the core, its loops and the server process, as a user would have them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.phones.app import SCHEMA
from tests.phones.phone import Phone
from tests.phones.session import PhoneSession
from tests.phones.users import tables_of
from tests.server_process import ServerProcess

APP = Path(__file__).parent / "phones" / "app.py"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests here; each has users of its own."""
    with ServerProcess(tmp_path_factory.mktemp("server"), APP, "crew") as process:
        yield process
        assert process.stop() == 0, process.log()[-2000:]


@pytest.fixture
def server(process: ServerProcess) -> ServerProcess:
    """The server, its keys read: a loop may not do that."""
    process.token("anybody")
    return process


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=10) as client:
        yield client


numbers = itertools.count()


def phone(*, requests: bool = False) -> Phone:
    return Phone(
        "phone",
        tables_of(SCHEMA),
        now=lambda: 1_790_000_000_000,
        token=lambda: f"session-{next(numbers)}",
        requests=requests,
    )


def tokens(server: ServerProcess, user: str, ttl: int = 3600) -> Callable[[], Awaitable[str]]:
    async def fetch() -> str:
        return server.token(user, ttl=ttl)

    return fetch


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("bson", "encoding", "requests"),
    [(False, "identity", False), (True, "gzip", False), (False, "zstd", True), (True, "identity", True)],
)
async def test_two_phones_of_a_user_follow_each_other(
    server: ServerProcess, client: httpx2.AsyncClient, bson: bool, encoding: str, requests: bool
) -> None:
    """What one phone writes, the other shows, in every format and coding; and the other way round."""
    user = f"ann-{bson}-{encoding}-{requests}"
    one, two = phone(requests=requests), phone(requests=requests)
    async with (
        PhoneSession(one, server.url, tokens(server, user), client, bson=bson, encoding=encoding) as first,
        PhoneSession(two, server.url, tokens(server, user), client, bson=bson, encoding=encoding) as second,
    ):
        await first.write(one.insert("draft", user, owner_id=user, body="é 😀"))
        await second.until(lambda: user in two.rows("draft"))
        await second.write(two.update("draft", user, body="changed"))
        await first.until(lambda: one.rows("draft")[user]["body"] == "changed")
        await first.in_step()
        await second.in_step()
        assert one.stored("draft") == two.stored("draft")
        assert first.mismatches == second.mismatches == []
        assert first.refusals == second.refusals == []


@pytest.mark.anyio
async def test_what_is_written_in_a_plane_arrives_after_landing(
    server: ServerProcess, client: httpx2.AsyncClient
) -> None:
    """Local writes work without a network, are seen at once, and are uploaded when it is back."""
    one = phone()
    async with PhoneSession(one, server.url, tokens(server, "bob"), client) as session:
        await session.until(lambda: session.applied > 0)
        session.airplane(True)
        await session.write(one.insert("draft", "p", owner_id="bob", body="over the sea"))
        assert one.rows("draft")["p"]["body"] == "over the sea"
        assert one.pending()
        with pytest.raises(TimeoutError):
            await session.in_step(seconds=0.3)
        session.airplane(False)
        await session.in_step()
        assert one.queued() == 0
        assert one.rows("draft")["p"]["body"] == "over the sea"


@pytest.mark.anyio
async def test_a_crash_of_the_server_loses_nothing_and_signs_nobody_out(
    server: ServerProcess, client: httpx2.AsyncClient
) -> None:
    """The phones come back by themselves; what was written meanwhile is there once."""
    one = phone()
    async with PhoneSession(one, server.url, tokens(server, "cat"), client) as session:
        await session.write(one.insert("draft", "before", owner_id="cat", body="x"))
        await session.in_step()
        server.kill()
        await session.write(one.insert("draft", "after", owner_id="cat", body="y"))
        server.start()
        await session.in_step(seconds=60)
        assert set(one.rows("draft")) == {"before", "after"}
        assert session.mismatches == []


@pytest.mark.anyio
async def test_a_token_that_expires_is_replaced_without_a_word(
    server: ServerProcess, client: httpx2.AsyncClient
) -> None:
    """An expired token ends a stream in order; the phone fetches another and goes on."""
    asked = 0

    async def fetch() -> str:
        nonlocal asked
        asked += 1
        return server.token("dan", ttl=1)

    one = phone()
    async with PhoneSession(one, server.url, fetch, client) as session:
        await session.until(lambda: session.applied > 0)
        await session.until(lambda: asked > 1 and session.applied > 1)
        await session.write(one.insert("draft", "t", owner_id="dan", body="x"))
        await session.in_step()
        assert all(status == 401 for status, _ in session.refusals)
