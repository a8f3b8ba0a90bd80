"""A download moves forwards from one head to the next, and a request costs what it is worth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from lowtide import App, Model, Text, anyone, everyone, me, parameter
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import TooManyBuckets
from lowtide.kernel.http import Outlet
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db import Database, Query, Row
from lowtide.storage.jobs import Jobs
from lowtide.sync import Sync, buckets, segments, store, streams
from lowtide.sync.routes import routes
from lowtide.sync.store import QUERIES
from lowtide.sync.streams import MAX_BUCKETS, bucket_topic
from lowtide.sync.view import StreamRequest
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("download")


@app.model
class Membership(Model):
    """Who is in which team."""

    user_id = Text()
    team_id = Text()
    write = anyone


@app.model
class Task:
    """A team's task."""

    team_id = Text()
    title = Text()
    write = anyone


@app.model
class City:
    """Everyone's."""

    name = Text()
    write = anyone


app.stream("team", carries={Task: "team_id"}, keys=Membership.where(user_id=me).team_id)
app.stream("cities", carries=[City], keys=everyone)
app.stream("some", carries={Task: "team_id"}, keys=parameter("team"), default=False)
SCHEMA = app.compile()


def task(id: str, title: str = "t", team: str = "red") -> dict[str, Any]:
    """A task."""
    return {"op": "put", "model": "task", "id": id, "data": {"team_id": team, "title": title}}


def city(id: str, name: str = "Oslo") -> dict[str, Any]:
    """A city."""
    return {"op": "put", "model": "city", "id": id, "data": {"name": name}}


def join(user: str, team: str = "red") -> dict[str, Any]:
    """A membership."""
    data = {"user_id": user, "team_id": team}
    return {"op": "put", "model": "membership", "id": f"{user}-{team}", "data": data}


class Interrupted:
    """A database whose next read is preceded by something else."""

    def __init__(self, database: Database):
        self._database = database
        self.before: Callable[[], Awaitable[Any]] | None = None

    async def read(self, work: Any) -> Any:
        before, self.before = self.before, None
        if before is not None:
            await before()
        return await self._database.read(work)


class Live:
    """A stream under way."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.lines: list[dict[str, Any]] = []
        self._outlet: Outlet | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()

    async def open(self, user: str) -> None:
        asked = StreamRequest(client_id=f"{user}-phone", raw_data=True)
        download = await self.engine.sync.download(self.engine.who(user), asked, "json", "identity")

        async def send(message: Any) -> None:
            self.lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
            self._heard.set()

        self._outlet = Outlet(send)
        self._task = asyncio.create_task(download.run(self._outlet))

    async def until(self, done: Callable[[list[dict[str, Any]]], bool]) -> None:
        async with asyncio.timeout(10):
            while not done(self.lines):
                assert self._task is not None
                if self._task.done():
                    await self._task
                    raise AssertionError("the stream has ended")
                self._heard.clear()
                await asyncio.wait([self._task, asyncio.ensure_future(self._heard.wait())], timeout=0.2)

    async def close(self) -> None:
        if self._outlet is not None and self._task is not None:
            self._outlet.drain(1)
            await self._task


def heads(lines: list[dict[str, Any]]) -> list[int]:
    """Every head that a stream named, in order."""
    return [int(value["last_op_id"]) for line in lines for value in line.values() if "last_op_id" in value]


def complete(lines: list[dict[str, Any]]) -> int:
    """The head of the last whole checkpoint."""
    return max(heads([line for line in lines if "checkpoint_complete" in line]))


@pytest.fixture
async def other_node(
    database: Database, clock: ManualClock, ids: SeededIds
) -> AsyncIterator[Callable[[], Awaitable[Sync]]]:
    """A second node on the same database, which the first hears of late."""
    opened: list[tuple[Sync, MemoryBus]] = []

    async def start() -> Sync:
        bus = MemoryBus()
        await bus.start()
        sync = Sync(SCHEMA, database, bus, Jobs(database, bus, clock, ids), clock, ids)
        await sync.start()
        opened.append((sync, bus))
        return sync

    yield start
    for sync, bus in opened:
        await sync.close()
        await bus.close()


async def test_news_that_a_look_has_overtaken_never_move_a_device_back(
    open_engine: Open, other_node: Callable[[], Awaitable[Sync]]
) -> None:
    """Our commit is told while another node's later one is read already: heads only rise, and each whole
    checkpoint has all that its head has."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", join("ann"), city("1"), task("1"))
    node = await other_node()
    live = Live(engine)
    await live.open("ann")
    await live.until(lambda lines: any("checkpoint_complete" in line for line in lines))
    interrupted = Interrupted(engine.sync.database)
    engine.sync.downloads.database = interrupted  # type: ignore[assignment]

    async def overtake() -> None:
        # Ours is told to the stream that looks; the other node's is not, but its rows are read.
        await engine.upload("bob", city("2"))
        other = Engine(node, engine.jobs, engine.worker, engine.clock, {})
        await other.upload("eve", task("2"), client="eve-phone")

    interrupted.before = overtake
    await engine.upload("ann", join("ann", "blue"))
    head = (await engine.sync.head() << 20) | 0xFFFFF
    await live.until(lambda lines: complete(lines) >= head)
    await asyncio.sleep(0.05)
    await live.close()
    assert heads(live.lines) == sorted(heads(live.lines))
    seen = {e.get("object_id") for line in live.lines for e in line.get("data", {}).get("data", [])}
    assert {"1", "2"} <= seen


async def test_news_of_a_bucket_that_was_just_revoked_do_not_cut_the_stream(open_engine: Open) -> None:
    """They came between the look's beginning and its snapshot: the device no longer holds the bucket."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", join("ann"), join("bob"), task("1"))
    live = Live(engine)
    await live.open("bob")
    await live.until(lambda lines: any("checkpoint_complete" in line for line in lines))
    interrupted = Interrupted(engine.sync.database)
    engine.sync.downloads.database = interrupted  # type: ignore[assignment]

    async def meanwhile() -> None:
        await engine.upload("ann", task("2", "not for bob"))

    interrupted.before = meanwhile
    await engine.upload("ann", {"op": "delete", "model": "membership", "id": "bob-red"})
    await live.until(lambda lines: any("checkpoint_diff" in line for line in lines))
    await engine.upload("ann", city("later"))
    head = (await engine.sync.head() << 20) | 0xFFFFF
    await live.until(lambda lines: complete(lines) >= head)
    await live.close()
    assert "not for bob" not in str(live.lines)


async def test_a_stream_ends_when_its_token_does_however_much_there_is_to_send(open_engine: Open) -> None:
    """What is left is sent to who comes back with a new token."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", join("ann"))
    for i in range(6):
        many = [task(f"{i}-{j}", "x" * 400) for j in range(900)]
        await engine.upload("ann", *many)
    who = Principal(user="ann", expires_at=engine.clock.now() + 60_000)
    asked = StreamRequest(client_id="ann-phone", raw_data=True)
    download = await engine.sync.download(who, asked, "json", "identity")
    lines: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        engine.clock.advance(25)

    await download.run(Outlet(send))
    assert {"token_expires_in": 0} in lines
    assert not [line for line in lines if "checkpoint_complete" in line]
    assert len([line for line in lines if "data" in line]) < 5


@pytest.mark.parametrize(
    "body",
    [
        {"streams": {"subscriptions": [{"stream": "some"}] * 1_001}},
        {"buckets": [{"name": "x", "after": "1"}] * 10_001},
    ],
)
def test_a_request_has_a_bounded_number_of_parts(body: dict[str, Any]) -> None:
    """Beyond it the request is not read at all."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"client_id": "phone", **body}, StreamRequest)


@pytest.mark.parametrize("shape", ["one long list", "many lists"])
async def test_keys_that_a_device_names_are_counted_before_they_cost(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """A million of them are an answer, not a second of everybody's time: few were looked at."""
    topics: list[str] = []

    def noted(space: str, stream: str, key: str) -> str:
        topics.append(bucket_topic(space, stream, key))
        return topics[-1]

    engine = await open_engine(SCHEMA)
    lists = [list(range(300_000))] if shape == "one long list" else [list(range(999))] * 999
    asked = [{"stream": "some", "parameters": {"team": values}} for values in lists]
    monkeypatch.setattr(streams, "bucket_topic", noted)
    with pytest.raises(TooManyBuckets):
        await engine.lines("ann", streams={"subscriptions": asked})
    assert len(topics) < 2 * MAX_BUCKETS


async def test_a_floor_with_thousands_of_digits_is_not_ours(open_engine: Open) -> None:
    """A bucket's name with the right epoch and number may still be nonsense."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", join("ann"), task("1"))
    lines = await engine.lines("ann")
    names = {bucket["bucket"] for bucket in lines[0]["checkpoint"]["buckets"]}
    forged = [{"name": name.rpartition(".")[0] + "." + "9" * 5_000, "after": "9"} for name in names]
    again = await engine.lines("ann", buckets=forged)
    assert {bucket["bucket"] for bucket in again[0]["checkpoint"]["buckets"]} == names


@pytest.mark.parametrize(("asked", "given"), [(-7, 0), (0, 0), (2, 2), (1_000_000, 3)])
async def test_a_subscription_has_one_of_the_four_priorities(
    open_engine: Open, asked: int, given: int
) -> None:
    """What a device asks for beyond them is the nearest."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", task("1"))
    wanted = {"stream": "some", "parameters": {"team": "red"}, "override_priority": asked}
    lines = await engine.lines("eve", streams={"subscriptions": [wanted]})
    (bucket,) = (b for b in lines[0]["checkpoint"]["buckets"] if b["bucket"].startswith("some"))
    assert bucket["priority"] == given


class Counting:
    """A transaction that counts the bytes of the pages that are read."""

    def __init__(self, tx: Any):
        self._tx = tx
        self.dialect = tx.dialect
        self.read = 0
        self.statements = 0

    async def fetch(self, query: Query, *params: Any) -> list[Row]:
        rows: list[Row] = await self._tx.fetch(query, *params)
        if query is QUERIES["page"]:
            self.statements += 1
            self.read += sum(len(row[4] or "") for row in rows)
        return rows


@pytest.mark.parametrize(("size", "count"), [(100_000, 120), (10, 1_000)])
async def test_a_page_of_large_rows_reads_little_more_than_it_sends(
    open_engine: Open, size: int, count: int
) -> None:
    """Memory is bounded by bytes and not by rows; small rows come in two statements."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", join("ann"))
    for first in range(0, count, 40):
        await engine.upload("ann", *(task(f"{i:04}", "x" * size) for i in range(first, first + 40)))
    lines = await engine.lines("ann")
    sent = [e for line in lines for e in line.get("data", {}).get("data", []) if e["op"] == "PUT"]
    assert len({e["object_id"] for e in sent if e["object_type"] == "task"}) == count

    async def read(tx: Any) -> tuple[int, int, int]:
        counting = Counting(tx)
        (bucket,) = (await store.read_buckets(tx, ['main/team["red"]'])).values()
        place = buckets.BucketPlace("n", 0, 0)
        segment = await segments.read_segment(
            counting,  # type: ignore[arg-type]
            segments.Want("main", bucket.id, bucket.last, place, "json", True),
        )
        return counting.read, len(segment.piece.raw), counting.statements

    got, given, statements = await engine.sync.database.read(read)
    assert got < 4 * given
    assert statements <= 2


async def test_a_pull_takes_every_cursor_that_it_has_given_out(open_engine: Open) -> None:
    """Of as many buckets as a user may hold, with keys as long as they may be."""
    engine = await open_engine(SCHEMA)
    longest = '"' * 100 + "k" * 600
    await engine.upload(
        "server",
        *(
            change
            for n in range(MAX_BUCKETS - 2)
            for change in (
                {
                    "op": "put",
                    "model": "membership",
                    "id": str(n),
                    "data": {"user_id": "ann", "team_id": f"{longest}{n}"},
                },
                {
                    "op": "put",
                    "model": "task",
                    "id": str(n),
                    "data": {"team_id": f"{longest}{n}", "title": "t"},
                },
            )
        ),
    )
    first = await engine.pull("ann", limit=1)
    assert not first.complete
    rest = await engine.pull("ann", first.cursor, limit=1)
    assert len(rest.rows) == 1
    assert rest.removed_buckets == []
    body = msgspec.json.encode({"cursor": first.cursor})
    pull = next(
        route for route in routes(engine.sync, *[cast(Any, None)] * 2) if route.path == "/v1/sync/pull"
    )
    assert len(body) <= pull.max_body


async def test_a_pull_of_large_rows_is_bounded_in_bytes_too(open_engine: Open) -> None:
    """It says that there is more, and all of it comes."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", join("ann"))
    for i in range(100):
        await engine.upload("ann", task(f"{i:04}", "x" * 200_000))
    seen: set[str] = set()
    cursor = None
    for _ in range(100):
        answer = await engine.pull("ann", cursor, limit=1_000)
        assert sum(len(bytes(row.data or b"")) for row in answer.rows) < 8_000_000
        seen |= {row.id for row in answer.rows if row.model == "task"}
        cursor = answer.cursor
        if answer.complete:
            break
    assert len(seen) == 100
