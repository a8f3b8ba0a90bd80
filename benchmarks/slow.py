"""A phone's network between a client and a server: slow, lossy, cut. A relay of TCP, in this process.

What crosses it is cut into segments of 1,400 bytes. A segment takes its time at the link's rate, then the
delay; one that is lost is sent again after a round trip, and holds up those behind it, as TCP's order does.
A new connection costs a round trip before its first byte; TLS, which is not spoken here, would cost another.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Literal

import msgspec

SEGMENT = 1_400
OVERHEAD = 40
"""Bytes of the headers of IP and TCP, of each segment."""
WINDOW = 64 * 1024
"""Bytes under way in one direction, before the sender is held up."""
BURST = 5.0
"""Seconds without a byte after which a radio sleeps: what comes then wakes it."""

Way = Literal["up", "down"]


class Network(msgspec.Struct, frozen=True):
    """What lies between a phone and a server."""

    name: str
    rate: float
    """Bytes a second, in each direction."""
    delay: float
    """Seconds, one way."""
    loss: float = 0.0
    """The share of segments that are lost."""
    up_for: float = 0.0
    """Seconds between two cuts, about; 0: it is never cut."""
    cut_for: tuple[float, float] = (0.0, 0.0)
    """Seconds that a cut takes."""


EDGE = Network("EDGE: 240 kbit/s, 800 ms, 2 % lost", rate=30_000, delay=0.4, loss=0.02)
TRAIN = Network("train: cut for 5 to 60 s", rate=500_000, delay=0.05, up_for=10.0, cut_for=(5.0, 60.0))
SOON = 0.25
"""Seconds from a departure to its first cut: in the middle of what is being done."""
BASEMENT = Network("basement: 10 % lost", rate=60_000, delay=0.15, loss=0.1)


class Traffic(msgspec.Struct):
    """What crossed a link, as the phone's radio saw it."""

    up: int = 0
    down: int = 0
    """Bytes, headers too."""
    connections: int = 0
    turns: int = 0
    """Times that an answer came to something sent, or a connection was opened: round trips waited for."""
    wakes: int = 0
    """Times that a byte crossed after ``BURST`` seconds of silence."""

    def since(self, before: Traffic) -> Traffic:
        return Traffic(
            **{name: getattr(self, name) - getattr(before, name) for name in self.__struct_fields__}
        )


class Link:
    """A phone's way to a server, at ``port`` of this machine."""

    def __init__(self, network: Network, target: int, seed: int):
        self.network = network
        self.traffic = Traffic()
        self.port = 0
        self._target = target
        self._random = random.Random(seed)
        self._free = {"up": 0.0, "down": 0.0}
        self._asked = False
        self._last = 0.0
        self._cut_from = 0.0
        self._cut_to = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=WINDOW)
        self.port = self._server.sockets[0].getsockname()[1]
        self._next_cut(time.monotonic())

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def depart(self) -> None:
        """Begin anew on ``network``: where it is cut, the first cut comes soon."""
        self._cut_from = time.monotonic() + SOON
        self._cut_to = self._cut_from + self._random.uniform(*self.network.cut_for)

    def snapshot(self) -> Traffic:
        return msgspec.structs.replace(self.traffic)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pass(self._arrival("up", OVERHEAD))  # SYN
            await self._pass(self._arrival("down", OVERHEAD))
            self.traffic.connections += 1
            self.traffic.turns += 1
            there = await asyncio.open_connection("127.0.0.1", self._target, limit=WINDOW)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump("up", reader, there[1]))
                    both.create_task(self._pump("down", there[0], writer))
            finally:
                there[1].close()
        except* OSError:
            pass  # either end hung up: so does the other
        finally:
            writer.close()

    async def _pump(self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=WINDOW // SEGMENT)

        async def deliver() -> None:
            before = 0.0
            while True:
                due, segment = await under_way.get()
                # In the order of sending, whatever was sent again.
                before = max(before, due)
                await self._pass(before)
                self._count(way, len(segment))
                if not segment:
                    with contextlib.suppress(OSError):
                        sink.write_eof()
                    return
                sink.write(segment)
                await sink.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while True:
                segment = await source.read(SEGMENT)
                await under_way.put((self._arrival(way, len(segment) + OVERHEAD), segment))
                if not segment:
                    break

    def _arrival(self, way: Way, size: int) -> float:
        """When a segment that is sent now is there."""
        network, now = self.network, time.monotonic()
        self._free[way] = max(now, self._free[way]) + size / network.rate
        arrives = self._free[way] + network.delay
        again = 2 * network.delay + 0.05
        while self._random.random() < network.loss:
            arrives += again
            again *= 2  # RFC 6298: each timeout doubles the next
        return arrives

    async def _pass(self, due: float) -> None:
        while True:
            now = time.monotonic()
            if self.network.up_for:
                if now > self._cut_to:
                    self._next_cut(now)
                if now >= self._cut_from:
                    due = max(due, self._cut_to + 0.2)
            if due <= now:
                return
            await asyncio.sleep(min(due - now, 0.5))

    def _next_cut(self, now: float) -> None:
        self._cut_from = now + self._random.uniform(0.5, 1.5) * self.network.up_for
        self._cut_to = self._cut_from + self._random.uniform(*self.network.cut_for)

    def _count(self, way: Way, size: int) -> None:
        traffic, now = self.traffic, time.monotonic()
        if size:
            if now - self._last > BURST:
                traffic.wakes += 1
            self._last = now
        if way == "up":
            traffic.up += size + OVERHEAD
            self._asked = self._asked or size > 0
        else:
            traffic.down += size + OVERHEAD
            if self._asked and size:
                traffic.turns += 1
                self._asked = False
