"""What was known at one moment and is used at a later one: no row is lost, stays, or goes astray."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from lowtide.kernel.errors import Unavailable
from lowtide.kernel.http import Outlet
from lowtide.sync import download, segments, service, store
from lowtide.sync.retention import Retention
from lowtide.sync.service import HEADS
from lowtide.sync.store import QUERIES
from lowtide.sync.view import StreamRequest
from tests.sync.conftest import Engine, Open
from tests.sync.test_engine import SCHEMA, crew, join, task

pytestmark = pytest.mark.anyio

CITY = {"op": "put", "model": "city", "id": "1", "data": {"name": "Oslo"}}


def seen(lines: list[dict[str, Any]]) -> set[str]:
    """The ids of the rows that a stream sent."""
    return {e["object_id"] for line in lines for e in line.get("data", {}).get("data", []) if "data" in e}


async def test_what_was_written_after_a_revocation_is_not_sent_to_a_slow_device(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its network stands still between two pages, and the second is read when the team is not its."""
    monkeypatch.setattr(segments, "PAGE_ROWS", 2)
    monkeypatch.setattr(download, "FLUSH_BYTES", 0)
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", *(task(str(n)) for n in range(6)))
    asked = StreamRequest(client_id="bob-phone", raw_data=True)
    stream = await engine.sync.download(engine.who("bob"), asked, "json", "identity")
    lines: list[dict[str, Any]] = []
    revoked = False

    async def send(message: Any) -> None:
        nonlocal revoked
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        if not revoked and any("data" in line for line in lines):
            revoked = True
            await engine.upload("ann", {"op": "delete", "model": "membership", "id": "bob-red"})
            await engine.upload("ann", task("secret"))
        if any("checkpoint_complete" in line for line in lines):
            outlet.drain(1)

    outlet = Outlet(send)
    await stream.run(outlet)
    assert revoked
    assert 'team["red"]' in str(
        [line["checkpoint_diff"]["removed_buckets"] for line in lines if "checkpoint_diff" in line]
    )
    assert "secret" not in seen(lines)
    assert {"0", "1"} <= seen(lines)


async def test_a_deferred_bucket_that_a_device_has_is_brought_anew_on_any_network(open_engine: Open) -> None:
    """Where its name is over: after a resync, in mid-stream or before it. Else its rows would go."""
    engine = await open_engine(SCHEMA)
    await engine.upload("server", CITY, client="server")
    free = await engine.lines("ann")
    (bucket,) = free[0]["checkpoint"]["buckets"]
    held = [{"name": bucket["bucket"], "after": free[0]["checkpoint"]["last_op_id"]}]
    metered: dict[str, Any] = {"parameters": {"metered": True}}
    asked = msgspec.convert({"client_id": "ann-phone", "buckets": held, **metered}, StreamRequest)
    stream = await engine.sync.download(engine.who("ann"), asked, "json", "identity")
    lines: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        complete = sum("checkpoint_complete" in line for line in lines)
        if complete == 1:
            await engine.sync.devices.resync(engine.who("ann"), "ann-phone")
        elif complete == 2:
            outlet.drain(1)

    outlet = Outlet(send)
    await stream.run(outlet)
    assert seen(lines) == {"1"}
    again = await engine.lines("ann", buckets=held, **metered)
    assert seen(again) == {"1"}
    assert seen(await engine.lines("eve", **metered)) == set()


async def test_a_trim_that_was_overtaken_takes_no_floor_back(open_engine: Open) -> None:
    """What a later one has forgotten stays known as forgotten."""
    engine = await open_engine(SCHEMA)
    await engine.upload("server", CITY, client="server")
    await engine.upload("server", {"op": "delete", "model": "city", "id": "1"}, client="server")
    database = engine.sync.database
    ((_, bucket, *_),) = await database.read(
        lambda tx: tx.fetch(QUERIES["buckets_by_name"], '["main/cities[]"]')
    )
    engine.clock.advance(1)
    late = Retention(database, engine.clock, 0, 0)
    assert await late.trim() == 1
    ((*_, floor),) = await database.read(lambda tx: tx.fetch(QUERIES["buckets_by_name"], '["main/cities[]"]'))
    assert floor > 0
    await database.write(lambda tx: late._raise(tx, [bucket], floor - store.OPS_PER_GROUP))
    ((*_, after),) = await database.read(lambda tx: tx.fetch(QUERIES["buckets_by_name"], '["main/cities[]"]'))
    assert after == floor


async def followed(engine: Engine, *happens: Any) -> list[dict[str, Any]]:
    """A stream of ann's: a first checkpoint, what ``happens`` after it, and one more checkpoint."""
    asked = StreamRequest(client_id="ann-phone", raw_data=True)
    stream = await engine.sync.download(engine.who("ann"), asked, "json", "identity")
    lines: list[dict[str, Any]] = []
    todo = list(happens)

    async def send(message: Any) -> None:
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        if not lines or "checkpoint_complete" not in lines[-1]:
            return
        if not todo:
            outlet.drain(1)
        while todo:
            await todo.pop(0)()

    outlet = Outlet(send)
    async with asyncio.timeout(10):
        await stream.run(outlet)
    return lines


async def test_a_node_that_slept_for_longer_than_groups_are_kept_reads_everything_anew(
    open_engine: Open,
) -> None:
    """What other nodes did meanwhile is in no log any more: who listens is told to look."""
    engine = await open_engine(SCHEMA)
    await engine.upload("server", CITY, client="server")
    database, hub = engine.sync.database, engine.sync.hub

    async def elsewhere() -> None:
        asleep = hub.group
        hub.group = 1 << 40
        await engine.upload("server", {**CITY, "id": "2"}, client="server")
        await engine.upload("server", join("zoe", "blue"), client="server")
        hub.group = asleep
        await database.write(lambda tx: tx.execute(QUERIES["trim_head_log"], asleep + 2, 10))
        await engine.sync._catch_up()

    lines = await followed(engine, elsewhere)
    assert seen(lines) == {"1", "2"}
    assert hub.group == await engine.sync.head()


async def test_a_node_that_is_far_behind_tells_everybody_to_look_once(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks sees all there is by then: not once more for each part of what was missed."""
    engine = await open_engine(SCHEMA)
    hub = engine.sync.hub
    monkeypatch.setattr(service, "CATCH_UP_GROUPS", 2)
    told: list[int] = []
    tell = hub.deliver_unknown

    def noted(group: int) -> None:
        told.append(group)
        tell(group)

    monkeypatch.setattr(hub, "deliver_unknown", noted)
    # The hints of these uploads would have the node look by itself, too.
    monkeypatch.setattr(engine.sync._bus, "publish", lambda *_: None)
    asleep, hub.group = hub.group, 1 << 40
    for n in range(5):
        await engine.upload("server", {**CITY, "id": str(n)}, client="server")
    hub.group = asleep
    await asyncio.gather(engine.sync._catch_up(), engine.sync._catch_up())
    assert told == [await engine.sync.head()]


async def test_an_epoch_that_begins_under_a_node_reaches_who_listens(open_engine: Open) -> None:
    """All buckets come under new names, whatever the first group after it has changed."""
    engine = await open_engine(SCHEMA)
    await engine.upload("server", CITY, client="server")
    database = engine.sync.database

    async def restored() -> None:
        await database.write(lambda tx: store.begin_epoch(tx, "restored", engine.clock.now()))
        await engine.upload("server", join("zoe", "blue"), client="server")
        engine.sync._bus.publish(HEADS, str(await engine.sync.head()).encode())
        await engine.sync._catch_up()

    lines = await followed(engine, restored)
    diff = next(line["checkpoint_diff"] for line in lines if "checkpoint_diff" in line)
    assert [name.partition("@")[0] for name in diff["removed_buckets"]] == ["cities[]"]
    assert any(one["bucket"].startswith("cities[]@restored.") for one in diff["updated_buckets"])


async def test_a_database_that_lost_commits_is_not_asked_again_and_again(open_engine: Open) -> None:
    """A replica that was behind has taken over: a stream does not open, and says what is to be done."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    engine.sync.hub.group += 1
    with pytest.raises(Unavailable) as told:
        await engine.lines("ann")
    assert "lowtide restore" in told.value.hint
    engine.sync.hub.group -= 1
    assert seen(await engine.lines("ann")) == {"ann-red"}


class Elsewhere:
    """A database beside which something is committed, as soon as a snapshot was read."""

    def __init__(self, engine: Engine, often: int):
        self._engine = engine
        self._database = engine.sync.database
        self.left = often
        self.looks = 0

    async def read(self, work: Any) -> Any:
        found = await self._database.read(work)
        self.looks += 1
        if self.left:
            self.left -= 1
            await self._engine.upload("server", join("zoe", "blue"), client="server")
        return found


async def test_what_others_commit_while_a_stream_looks_makes_it_look_once_more_at_most(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy server something is always committed meanwhile: only what may concern it is looked at."""
    engine = await open_engine(SCHEMA)
    await engine.upload("server", CITY, client="server")
    database = Elsewhere(engine, 20)
    monkeypatch.setattr(engine.sync.downloads, "database", database)
    asked = StreamRequest(client_id="ann-phone", raw_data=True)
    stream = await engine.sync.download(engine.who("ann"), asked, "json", "identity")
    lines: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())

    async def follow() -> None:
        while stream._listener.waiting:
            await stream._follow(outlet)

    outlet = Outlet(send)
    await stream._send(outlet, None)
    await follow()
    assert (database.looks, database.left) == (2, 18)
    await engine.upload("ann", join("ann", "red"))
    await engine.upload("ann", task("1"))
    await follow()
    assert seen(lines) == {"1", "ann-red"}
    assert database.left > 10
    stream.forget()
