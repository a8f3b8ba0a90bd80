"""The bus: one contract on both adapters, and what only PostgreSQL's can do wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import StorageLost, TooLarge
from lowtide.kernel.ids import SeededIds
from lowtide.storage.bus import MAX_PAYLOAD, Buffer, Bus, DropOldest, Hint, Latest, MemoryBus, Subscription
from lowtide.storage.bus import postgres as postgres_bus
from lowtide.storage.bus.postgres import APPLICATION, CHANNEL, OUTGOING, PostgresBus

pytestmark = pytest.mark.anyio

SOON = 10.0
"""Seconds within which a loaded machine delivers a hint."""


def a_bus(dsn: str, seed: int = 0) -> PostgresBus:
    clock = SystemClock()
    return PostgresBus(dsn, clock, SeededIds(clock, seed))


@pytest.fixture(params=["memory", "postgres"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """A started bus of each kind."""
    bus: Bus = MemoryBus() if request.param == "memory" else a_bus(request.getfixturevalue("postgres_dsn"))
    await bus.start()
    yield bus
    await bus.close()


async def read(hints: Subscription, count: int) -> list[Hint]:
    """The next ``count`` hints."""
    async with asyncio.timeout(SOON):
        return [await anext(hints) for _ in range(count)]


async def settled(bus: Bus) -> None:
    """Return when everything published until now has been delivered."""
    async with bus.subscribe("settled") as hints:
        bus.publish("settled")
        await read(hints, 1)


async def nothing_more(hints: Subscription) -> bool:
    """Whether no hint waits."""
    try:
        async with asyncio.timeout(0.05):
            await anext(hints)
    except TimeoutError:
        return True
    return False


class TestContract:
    async def test_a_hint_reaches_every_subscriber_of_its_topic(self, bus: Bus) -> None:
        """Everyone who listens to a topic hears what is published on it, and nobody else does."""
        async with (
            bus.subscribe("heads") as one,
            bus.subscribe("heads") as two,
            bus.subscribe("headshot") as other,
        ):
            bus.publish("heads", b"57")
            assert await read(one, 1) == await read(two, 1) == [Hint(b"57")]
            assert await nothing_more(one)
            assert await nothing_more(other)

    @pytest.mark.parametrize("payload", [b"", b"\0", b"\xff\xfe\x00'\"\\ \n", bytes(range(256))])
    async def test_a_payload_is_any_bytes(self, bus: Bus, payload: bytes) -> None:
        """Bytes arrive as they were sent, whatever they are."""
        async with bus.subscribe("bytes") as hints:
            bus.publish("bytes", payload)
            assert await read(hints, 1) == [Hint(payload)]

    async def test_hints_of_a_topic_keep_their_order(self, bus: Bus) -> None:
        """One publisher's hints of one topic arrive in the order of publication."""
        payloads = [str(number).encode() for number in range(500)]
        async with bus.subscribe("order", DropOldest(500)) as hints:
            for payload in payloads:
                bus.publish("order", payload)
            assert await read(hints, 500) == [Hint(payload) for payload in payloads]

    async def test_latest_keeps_the_newest(self, bus: Bus) -> None:
        """A full ``Latest`` holds the newest hint and calls nothing missed."""
        async with bus.subscribe("heads", Latest()) as hints:
            for number in range(50):
                bus.publish("heads", str(number).encode())
            await settled(bus)
            assert await read(hints, 1) == [Hint(b"49")]
            assert await nothing_more(hints)

    async def test_a_full_buffer_drops_the_oldest_and_says_so(self, bus: Bus) -> None:
        """``DropOldest(3)`` holds the last three of many, and only the first one read tells of the loss."""
        async with bus.subscribe("log", DropOldest(3)) as hints:
            for number in range(20):
                bus.publish("log", str(number).encode())
            await settled(bus)
            assert await read(hints, 3) == [Hint(b"17", missed=True), Hint(b"18"), Hint(b"19")]
            assert await nothing_more(hints)
            bus.publish("log", b"20")
            assert await read(hints, 1) == [Hint(b"20")]

    async def test_a_slow_subscriber_holds_up_nobody(self, bus: Bus) -> None:
        """A subscriber that never reads stays within its buffer, and its neighbour misses nothing."""
        async with (
            bus.subscribe("log", DropOldest(2)) as slow,
            bus.subscribe("log", DropOldest(500)) as quick,
        ):
            for number in range(500):
                bus.publish("log", str(number).encode())
            heard = await read(quick, 500)
            assert [int(hint.payload) for hint in heard] == list(range(500))
            assert not any(hint.missed for hint in heard)
            assert await read(slow, 2) == [Hint(b"498", missed=True), Hint(b"499")]
            assert await nothing_more(slow)

    async def test_who_left_hears_nothing(self, bus: Bus) -> None:
        """After its block a subscription gets no hints, and its iteration ends."""
        async with bus.subscribe("heads") as hints:
            pass
        bus.publish("heads", b"1")
        await settled(bus)
        assert [hint async for hint in hints] == []

    async def test_a_cancelled_wait_loses_nothing(self, bus: Bus) -> None:
        """A wait that is given up leaves the next hint for the next wait."""
        async with bus.subscribe("heads") as hints:
            assert await nothing_more(hints)
            bus.publish("heads", b"1")
            assert await read(hints, 1) == [Hint(b"1")]

    async def test_closing_ends_the_iterations(self, bus: Bus) -> None:
        """After ``close`` a reader gets what is buffered and then the end; a later one the end at once."""
        async with bus.subscribe("heads") as waiting, bus.subscribe("heads") as full:
            bus.publish("heads", b"1")
            await settled(bus)
            assert await read(waiting, 1) == [Hint(b"1")]
            reader = asyncio.create_task(_all(waiting))
            await asyncio.sleep(0)
            await bus.close()
            async with asyncio.timeout(SOON):
                assert await reader == []
                assert await _all(full) == [Hint(b"1")]
                async with bus.subscribe("heads") as late:
                    assert await _all(late) == []

    async def test_a_large_payload_is_refused(self, bus: Bus) -> None:
        """The largest payload arrives on the longest topic; one byte more is ``TooLarge`` and is not sent."""
        topic = "t" * 200
        async with bus.subscribe(topic, DropOldest(2)) as hints:
            with pytest.raises(TooLarge, match=str(MAX_PAYLOAD)):
                bus.publish(topic, b"\xff" * (MAX_PAYLOAD + 1))
            bus.publish(topic, b"\xff" * MAX_PAYLOAD)
            assert await read(hints, 1) == [Hint(b"\xff" * MAX_PAYLOAD)]
            assert await nothing_more(hints)

    @pytest.mark.parametrize("topic", ["", "a b", "a\n", "t" * 201, "ä", "a\0", "a*"])
    async def test_a_malformed_topic_is_refused(self, bus: Bus, topic: str) -> None:
        """A topic that one of the adapters could not carry is refused by all, on both sides."""
        with pytest.raises(ValueError, match="a topic is"):
            bus.publish(topic)
        with pytest.raises(ValueError, match="a topic is"):
            bus.subscribe(topic)

    def test_a_buffer_has_a_slot(self) -> None:
        """A buffer that could hold nothing is refused."""
        with pytest.raises(ValueError, match="at least one slot"):
            DropOldest(0)


async def _all(hints: Subscription) -> list[Hint]:
    return [hint async for hint in hints]


class TestPostgres:
    @pytest.fixture
    async def admin(self, postgres_dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A connection beside the bus."""
        connection = await asyncpg.connect(postgres_dsn)
        yield connection
        await connection.close()

    @pytest.fixture
    async def two(self, postgres_dsn: str) -> AsyncIterator[tuple[PostgresBus, PostgresBus]]:
        """The buses of two nodes."""
        async with AsyncExitStack() as stack:
            nodes = a_bus(postgres_dsn, 1), a_bus(postgres_dsn, 2)
            for node in nodes:
                await node.start()
                stack.push_async_callback(node.close)
            yield nodes

    async def test_nodes_hear_each_other(self, two: tuple[PostgresBus, PostgresBus]) -> None:
        """A hint that one node publishes reaches the subscribers of the other and its own."""
        here, there = two
        async with here.subscribe("heads") as near, there.subscribe("heads") as far:
            here.publish("heads", b"57")
            assert await read(far, 1) == await read(near, 1) == [Hint(b"57")]

    @pytest.mark.parametrize("buffer", [Latest(), DropOldest(5)])
    async def test_a_lost_connection_is_told_and_healed(
        self, two: tuple[PostgresBus, PostgresBus], admin: asyncpg.Connection[Any], buffer: Buffer
    ) -> None:
        """After the listening backend was ended, all subscribers hear ``missed``, and then what comes."""
        here, there = two
        for round in range(2):
            async with here.subscribe("heads", buffer) as hints, here.subscribe("quiet") as quiet:
                assert await _end_backends(admin) == 2
                assert await read(hints, 1) == [Hint(missed=True)], round
                assert await read(quiet, 1) == [Hint(missed=True)]
                there.publish("heads", b"57")
                assert await read(hints, 1) == [Hint(b"57")]
                assert await nothing_more(quiet)

    async def test_no_hint_falls_between_reconnecting_and_missed(
        self, two: tuple[PostgresBus, PostgresBus], admin: asyncpg.Connection[Any]
    ) -> None:
        """When ``missed`` is heard the bus listens again: whatever is notified from then on arrives."""
        here, _ = two
        async with here.subscribe("heads", DropOldest(9)) as hints:
            await _end_backends(admin)
            assert await read(hints, 1) == [Hint(missed=True)]
            await admin.execute("SELECT pg_notify($1, $2)", CHANNEL, "heads NTg=")
            assert await read(hints, 1) == [Hint(b"58")]

    async def test_what_was_published_meanwhile_is_sent_afterwards(
        self, two: tuple[PostgresBus, PostgresBus], admin: asyncpg.Connection[Any]
    ) -> None:
        """Publishing without a connection neither waits nor fails; the hint leaves when there is one."""
        here, _ = two
        async with here.subscribe("heads", DropOldest(5)) as hints:
            await _end_backends(admin)
            here.publish("heads", b"57")
            assert await read(hints, 2) == [Hint(missed=True), Hint(b"57")]

    async def test_what_waits_to_be_sent_is_bounded(self, postgres_dsn: str) -> None:
        """A bus that cannot send keeps the newest hints, a thousand of them, and loses the oldest."""
        bus = a_bus(postgres_dsn)
        for number in range(OUTGOING + 5):
            bus.publish("log", str(number).encode())
        async with bus.subscribe("log", DropOldest(2 * OUTGOING)) as hints:
            await bus.start()
            heard = await read(hints, OUTGOING)
            assert [int(hint.payload) for hint in heard] == list(range(5, OUTGOING + 5))
            assert await nothing_more(hints)
            await bus.close()

    async def test_strange_notifications_are_ignored(
        self, bus_and_log: tuple[PostgresBus, pytest.LogCaptureFixture], admin: asyncpg.Connection[Any]
    ) -> None:
        """What someone else notifies on the channel is logged, and the bus goes on."""
        bus, caplog = bus_and_log
        async with bus.subscribe("heads", DropOldest(9)) as hints:
            for text in ["", "heads", "heads ?", "heads NT", "x" * 7_999, "heads ÄÖ", " NTc="]:
                await admin.execute("SELECT pg_notify($1, $2)", CHANNEL, text)
            bus.publish("heads", b"57")
            assert await read(hints, 1) == [Hint(b"57")]
        assert caplog.text.count("is not of this bus") == 6

    @pytest.fixture
    async def bus_and_log(
        self, postgres_dsn: str, caplog: pytest.LogCaptureFixture
    ) -> AsyncIterator[tuple[PostgresBus, pytest.LogCaptureFixture]]:
        caplog.set_level(logging.WARNING)
        bus = a_bus(postgres_dsn)
        await bus.start()
        yield bus, caplog
        await bus.close()

    async def test_an_absent_server_is_told_at_the_start(self) -> None:
        """``start`` raises ``StorageLost`` when nobody answers, and the password is not in the message."""
        bus = a_bus("postgresql://someone:s3cret@127.0.0.1:1/nowhere")
        with pytest.raises(StorageLost) as failure:
            await bus.start()
        assert "s3cret" not in failure.value.message
        await bus.close()

    async def test_it_never_gives_up(
        self, postgres_dsn: str, admin: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that refuses again and again is tried again and again, until it accepts."""
        monkeypatch.setattr(postgres_bus, "BACKOFF_MOST", 0.01)
        bus = a_bus(postgres_dsn)
        await bus.start()
        connect, refused = bus._connect, 0

        async def refuse() -> asyncpg.Connection[Any]:
            nonlocal refused
            refused += 1
            if refused <= 20:
                raise ConnectionRefusedError("not now") if refused % 2 else RuntimeError("a defect")
            return await connect()

        monkeypatch.setattr(bus, "_connect", refuse)
        async with bus.subscribe("heads") as hints:
            await _end_backends(admin)
            assert await read(hints, 1) == [Hint(missed=True)]
        assert refused == 21
        await bus.close()

    async def test_closing_does_not_wait_for_an_absent_server(
        self, postgres_dsn: str, admin: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``close`` ends the pause between two attempts."""

        async def refuse() -> asyncpg.Connection[Any]:
            raise ConnectionRefusedError("not now")

        monkeypatch.setattr(postgres_bus, "BACKOFF_FIRST", 1_000.0)
        bus = a_bus(postgres_dsn)
        await bus.start()
        monkeypatch.setattr(bus, "_connect", refuse)
        await _end_backends(admin)
        async with asyncio.timeout(2.0):
            await bus.close()

    async def test_a_silent_connection_is_asked_whether_it_lives(
        self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In silence the bus makes a round trip; one that is not answered in time counts as a loss."""
        monkeypatch.setattr(postgres_bus, "HEARTBEAT", 0.05)
        bus = a_bus(postgres_dsn)
        broken = asyncio.Event()
        connect = bus._connect

        async def connect_once_deaf() -> Any:
            connection = await connect()
            return connection if broken.is_set() else _Deaf(connection, broken)

        monkeypatch.setattr(bus, "_connect", connect_once_deaf)
        await bus.start()
        async with bus.subscribe("heads") as hints:
            assert await read(hints, 1) == [Hint(missed=True)]
            bus.publish("heads", b"57")
            assert await read(hints, 1) == [Hint(b"57")]
        await bus.close()

    async def test_closing_leaves_no_connection(
        self, postgres_dsn: str, admin: asyncpg.Connection[Any]
    ) -> None:
        """What was published before ``close`` is sent, and then the server has one connection less."""
        listener, bus = a_bus(postgres_dsn, 1), a_bus(postgres_dsn, 2)
        await listener.start()
        await bus.start()
        async with listener.subscribe("heads") as hints:
            bus.publish("heads", b"57")
            await bus.close()
            assert await read(hints, 1) == [Hint(b"57")]
        await listener.close()
        await _become(lambda: _backends(admin), 0)


class _Deaf:
    """A connection whose next round trip times out, as through a network that went silent."""

    def __init__(self, connection: Any, broken: asyncio.Event):
        self._connection, self._broken = connection, broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: str, *args: Any) -> None:
        assert query == "SELECT 1"
        self._broken.set()
        raise TimeoutError


async def _backends(admin: asyncpg.Connection[Any]) -> int:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()"
    )
    return int(await admin.fetchval(query, APPLICATION))


async def _end_backends(admin: asyncpg.Connection[Any]) -> int:
    """Terminate the connections of all buses of this database; how many there were."""
    rows = await admin.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = $1 AND datname = current_database()",
        APPLICATION,
    )
    return len(rows)


async def _become(read: Callable[[], Awaitable[int]], value: int) -> None:
    async with asyncio.timeout(SOON):
        while await read() != value:
            await asyncio.sleep(0.02)
