"""Every address asked by everybody: the whole table of routes, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from lowtide.app import Lowtide
from lowtide.storage.db import Query, Tx
from tests.api.client import Client
from tests.contract.conftest import Whole, build, running
from tests.contract.matrix import ASKING, ROWS, Row, Sample
from tests.contract.people import SECRET, People
from tests.contract.shop import app as shop
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

QUIET = 0.1
"""Seconds without a word after which the beginning of a stream is over."""

_RECORDS = (
    "SELECT space, model, id, data, deleted FROM record WHERE model <> 'lowtide_rejections'"
    " ORDER BY space, model, id"
)
EVERYTHING = Query("everything", _RECORDS, _RECORDS)
"""What is refused comes back to its sender as a row of the sender's own: that is no change."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database for the whole table: each request has a sample of its own."""
    if request.param == "sqlite":
        yield str(tmp_path_factory.mktemp("matrix") / "data.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    dsn = server.create_database()
    yield dsn
    server.drop_database(dsn)


@pytest.fixture(scope="module")
def built(address: str) -> Lowtide:
    """The shop, not started."""
    return build(shop, address)


@pytest.fixture(scope="module")
async def people(built: Lowtide) -> AsyncIterator[People]:
    """Everybody, in a shop at work."""
    async with running(built):
        everybody = People(built)
        await everybody.join()
        yield everybody


async def records(lowtide: Lowtide) -> list[tuple[object, ...]]:
    """Every record, as it is stored."""

    async def read(tx: Tx) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await tx.fetch(EVERYTHING)]

    return await lowtide.database.read(read)


async def ask(client: Client, method: str, sample: Sample, token: str | None) -> tuple[int, bytes]:
    """The status, and what was shown."""
    options = {"json": sample.json, "body": sample.body, "headers": sample.headers, "token": token}
    if not sample.stream:
        answer = await client.request(method, sample.target, **options)
        return answer.status, answer.body
    async with client.open(method, sample.target, **options) as call:
        start = await call.next()
        shown = b""
        try:
            while (message := await call.next(QUIET))["type"] != "end":
                shown += message["body"]
        except TimeoutError:
            pass
        call.leave()
        return start["status"], shown


def test_every_address_has_a_row(whole: Whole) -> None:
    """A new address is refused until somebody has said who may have it; so is a row without an address."""
    assert sorted((row.method, row.path) for row in ROWS) == sorted((r.method, r.path) for r in whole.routes)


@pytest.mark.parametrize("who", ASKING)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
async def test_everybody_gets_what_the_table_says(built: Lowtide, people: People, row: Row, who: str) -> None:
    """The status is the expected one; who may not see shows nothing, who may not write changes nothing."""
    sample = await row.sample(people)
    assert msgspec.json.encode(sample.json).find(SECRET.encode()) < 0, "the question must not hold the answer"
    before = await records(built)
    status, shown = await ask(people.client, row.method, sample, people.token(who))
    after = await records(built)
    cell = row.cells[who]
    assert str(status) == cell.rstrip("+!"), shown
    assert ("+" in cell) == (SECRET.encode() in shown), shown
    assert ("!" in cell) == (before != after)
