"""Forgetting, while devices come and go: no removal is missed, nobody waits long, nothing stays for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from lowtide import App, Text, anyone, everyone
from lowtide.kernel.http import Outlet
from lowtide.storage.db import Query
from lowtide.sync.retention import Retention
from lowtide.sync.view import StreamRequest
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("retention")
DAY = 86_400


@app.model
class City:
    """Everyone's, in several buckets."""

    name = Text()
    write = anyone


for name in "abcdef":
    app.stream(name, carries=[City], keys=everyone)
SCHEMA = app.compile()


def city(id: str) -> dict[str, Any]:
    """A city."""
    return {"op": "put", "model": "city", "id": id, "data": {"name": "Oslo"}}


def gone(id: str) -> dict[str, Any]:
    """Its deletion."""
    return {"op": "delete", "model": "city", "id": id}


def of(engine: Engine, days: int = 30) -> Retention:
    """What trims."""
    return Retention(engine.sync.database, engine.clock, removals_days=days, journal_days=days)


class Device:
    """What a client core would hold: rows by bucket, and the buckets' names."""

    def __init__(self) -> None:
        self.rows: dict[str, set[str]] = {}
        self.sums: dict[str, int] = {}
        self.after = "0"
        self.held: set[str] = set()

    def request(self) -> list[dict[str, str]]:
        return [{"name": name, "after": self.after} for name in self.held]

    def take(self, lines: list[dict[str, Any]]) -> None:
        wanted: dict[str, int] = {}
        for line in lines:
            if "checkpoint" in line:
                wanted = {b["bucket"]: b["checksum"] for b in line["checkpoint"]["buckets"]}
            elif "checkpoint_diff" in line:
                for bucket in line["checkpoint_diff"]["updated_buckets"]:
                    wanted[bucket["bucket"]] = bucket["checksum"]
                for name in line["checkpoint_diff"]["removed_buckets"]:
                    wanted.pop(name)
            elif "data" in line:
                rows = self.rows.setdefault(line["data"]["bucket"], set())
                for entry in line["data"]["data"]:
                    total = self.sums.get(line["data"]["bucket"], 0) + entry["checksum"]
                    self.sums[line["data"]["bucket"]] = total & 0xFFFFFFFF
                    if entry["op"] == "PUT":
                        rows.add(entry["object_id"])
                    elif entry["op"] == "REMOVE":
                        rows.discard(entry["object_id"])
            elif "checkpoint_complete" in line:
                self.after = line["checkpoint_complete"]["last_op_id"]
                assert {name: self.sums.get(name, 0) for name in wanted} == wanted
                self.held = set(wanted)
                self.rows = {name: self.rows.get(name, set()) for name in wanted}


async def test_a_floor_that_rises_under_a_download_loses_no_removal(open_engine: Open) -> None:
    """A device comes back just in time; before it has had the removals, they are forgotten."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", city("1"), city("2"), city("3"))
    device = Device()
    device.take(await engine.lines("bob"))
    assert set(map(frozenset, device.rows.values())) == {frozenset({"1", "2", "3"})}
    await engine.upload("ann", gone("1"))
    await engine.upload("ann", city("4"))
    engine.clock.advance(40 * DAY)

    asked = msgspec.convert(
        {"client_id": "bob-phone", "raw_data": True, "buckets": device.request()}, StreamRequest
    )
    download = await engine.sync.download(engine.who("bob"), asked, "json", "identity")
    # Beyond the few segments that were read with the look, the rest is read now: after the trim.
    assert await of(engine).trim() == 6
    lines: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        if any("checkpoint_complete" in line for line in lines):
            outlet.drain(1)

    outlet = Outlet(send)
    await download.run(outlet)
    device.take(lines)
    assert {name.partition("[")[0] for name in device.rows} == set("abcdef")
    assert all(rows == {"2", "3", "4"} for rows in device.rows.values())


@pytest.mark.parametrize("others", [0, 1])
async def test_a_floor_that_rises_while_a_device_is_told_loses_no_removal(
    open_engine: Open, others: int
) -> None:
    """Its network takes the last checkpoint for so long that what follows is forgotten meanwhile.

    Also where others listen, to whom the same would be told.
    """
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", city("1"), city("2"), city("3"))
    asked = StreamRequest(client_id="bob-phone", raw_data=True)
    lines: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        new = [msgspec.json.decode(line) for line in message["body"].splitlines()]
        first = not any("checkpoint_complete" in line for line in lines)
        lines.extend(new)
        if first and any("checkpoint_complete" in line for line in new):
            await engine.upload("ann", gone("1"))
            await engine.upload("ann", city("4"))
            engine.clock.advance(40 * DAY)
            assert await of(engine).trim() == 6
            await engine.upload("ann", city("5"))
        if any(
            entry["object_id"] == "5" for line in lines if "data" in line for entry in line["data"]["data"]
        ):
            outlet.drain(1)

    opened = [
        await engine.sync.download(
            engine.who("eve"), StreamRequest(client_id="eve-phone"), "json", "identity"
        )
        for _ in range(others)
    ]
    download = await engine.sync.download(engine.who("bob"), asked, "json", "identity")
    outlet = Outlet(send)
    async with asyncio.timeout(10):
        await download.run(outlet)
    device = Device()
    device.take(lines)
    assert {name.partition("[")[0] for name in device.rows} == set("abcdef")
    assert all(rows == {"2", "3", "4", "5"} for rows in device.rows.values())
    assert device.after == lines[-1]["checkpoint_complete"]["last_op_id"]
    for other in opened:
        other.forget()


@pytest.mark.parametrize("years", [-50, 50], ids=["1976", "2076"])
async def test_a_clock_that_was_wrong_for_a_moment_forgets_nothing_and_keeps_nothing_for_ever(
    open_engine: Open, years: int
) -> None:
    """A machine without a battery starts in another time: what is young stays, what is old goes."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", city("1"), city("2"))
    await engine.upload("ann", gone("1"))
    engine.clock.advance(years * 365 * DAY)
    await engine.upload("ann", city("3"))
    engine.clock.advance(-years * 365 * DAY)
    await engine.upload("ann", city("4"))
    assert await of(engine).trim() == 0
    engine.clock.advance(40 * DAY)
    await engine.upload("ann", city("5"))
    assert await of(engine).trim() == 6


async def test_what_a_clock_that_was_ahead_wrote_first_is_not_old(open_engine: Open) -> None:
    """A machine starts in another time, writes, and is put right: what it wrote is young all the same."""
    engine = await open_engine(SCHEMA)
    engine.clock.advance(50 * 365 * DAY)
    await engine.upload("ann", city("1"), city("2"))
    await engine.upload("ann", gone("1"))
    engine.clock.advance(-50 * 365 * DAY)
    await engine.upload("ann", city("3"))
    assert await of(engine).trim() == 0
    engine.clock.advance(40 * DAY)
    await engine.upload("ann", city("4"))
    assert await of(engine).trim() > 0


async def test_a_first_download_goes_on_under_a_rising_floor(open_engine: Open) -> None:
    """It needs no removals of the time before it began, so it does not begin anew every hour."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", city("1"), city("2"))
    await engine.upload("ann", gone("1"))
    await engine.upload("ann", city("3"))
    engine.clock.advance(40 * DAY)
    asked = StreamRequest(client_id="bob-phone", raw_data=True)
    download = await engine.sync.download(engine.who("bob"), asked, "json", "identity")
    assert await of(engine).trim() == 6
    lines: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        lines.extend(msgspec.json.decode(line) for line in message["body"].splitlines())
        if any("checkpoint_complete" in line for line in lines):
            outlet.drain(1)

    outlet = Outlet(send)
    await download.run(outlet)
    names = {bucket["bucket"] for bucket in lines[0]["checkpoint"]["buckets"]}
    assert {line["data"]["bucket"] for line in lines if "data" in line} == names
    assert not [line for line in lines if "checkpoint_diff" in line]


class Seen:
    """A database that notes how many rows each statement of a write took."""

    def __init__(self, database: Any):
        self._database = database
        self.writes: list[list[str]] = []
        self.locked_reads: list[str] = []

    async def read(self, work: Any) -> Any:
        return await self._database.read(work)

    async def write(self, work: Any) -> Any:
        names: list[str] = []

        class Tx:
            def __init__(self, tx: Any):
                self._tx = tx
                self.dialect = tx.dialect

            async def fetch(self, query: Query, *params: Any) -> Any:
                names.append(query.name)
                return await self._tx.fetch(query, *params)

            async def execute(self, query: Query, *params: Any) -> None:
                names.append(query.name)
                await self._tx.execute(query, *params)

            async def execute_many(self, query: Query, rows: Any) -> None:
                names.append(query.name)
                await self._tx.execute_many(query, rows)

        result = await self._database.write(lambda tx: work(Tx(tx)))
        self.writes.append(names)
        return result


async def test_whatever_there_is_to_forget_is_forgotten_in_short_transactions(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year's worth is many small deletions: a single one would outlast every statement's deadline, hold
    up all writers, and be tried again for ever."""
    monkeypatch.setattr("lowtide.storage.purge.AT_ONCE", 10)
    engine = await open_engine(SCHEMA)
    for first in range(0, 60, 20):
        await engine.upload("ann", *(city(str(i)) for i in range(first, first + 20)))
    for i in range(60):
        await engine.upload("ann", gone(str(i)))
    for i in range(35):
        change = {"op": "patch", "model": "city", "id": "0", "data": {"name": str(i)}}
        await engine.upload("ann", change)
    await engine.upload("ann", city("last"))
    engine.clock.advance(40 * DAY)
    await engine.upload("ann", city("later"))
    seen = Seen(engine.sync.database)
    await Retention(seen, engine.clock, removals_days=30, journal_days=30).trim()  # type: ignore[arg-type]

    async def counts(tx: Any) -> list[int]:
        return [
            (await tx.fetch(Query("c", sql, sql)))[0][0]
            for sql in (
                "SELECT count(*) FROM record WHERE deleted = 1",
                "SELECT count(*) FROM bucket_entry WHERE removed = 1",
                "SELECT count(*) FROM journal",
                "SELECT count(*) FROM head_log",
                "SELECT count(*) FROM bucket_history",
            )
        ]

    tombstones, removals, losses, heads, history = await engine.sync.database.read(counts)
    assert (tombstones, removals, losses) == (0, 0, 0)
    assert heads == 2
    assert history == 12
    for statement, least in (("trim_tombstones", 6), ("trim_head_log", 9), ("trim_journal", 3)):
        assert sum(names.count(statement) for names in seen.writes) >= least
    assert max(len(names) for names in seen.writes) <= 8
    # Who looks for what to forget does not hold the head meanwhile.
    assert not [names for names in seen.writes if "buckets_to_trim" in names]


async def test_trimming_and_reviving_at_the_same_time_keep_the_revived(open_engine: Open) -> None:
    """A record that is written again is no tombstone any more."""
    engine = await open_engine(SCHEMA)
    for i in range(50):
        await engine.upload("ann", city(str(i)), gone(str(i)))
    await engine.upload("ann", city("last"))
    engine.clock.advance(40 * DAY)
    await asyncio.gather(
        of(engine).trim(),
        *(engine.upload("ann", city(str(i)), client=f"c{i}") for i in range(50)),
        of(engine).trim(),
    )
    rows = await engine.rows("bob")
    assert {id for _, id in rows} == {*map(str, range(50)), "last"}
