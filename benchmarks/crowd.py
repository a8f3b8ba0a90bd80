"""A crowd: many connections that listen, and one that says when all have heard."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.client import Wire, connect
from benchmarks.sockets import SocketWire, connect_socket

PATIENCE = 30.0
AT_A_TIME = 50
"""Connections that are opened at a time, where the opening is not what is measured."""


class Crowd:
    """Listeners of one server. A message is one that contains ``marker``."""

    def __init__(self, marker: bytes):
        self._marker = marker
        self._wires: list[Wire | SocketWire] = []
        self._left = 0
        self._heard = asyncio.Event()
        self._began = 0.0
        self.delays: list[float] = []
        """Seconds from ``expect`` to each arrival, of all messages."""

    def __len__(self) -> int:
        return len(self._wires)

    def ear(self, gzip: bool = False) -> Callable[[bytes], None]:
        """A sink for one listener."""
        inflate = zlib.decompressobj(wbits=31).decompress if gzip else None

        def hear(data: bytes) -> None:
            if inflate is not None:
                data = inflate(data)
            if self._marker in data:
                self.delays.append(time.perf_counter() - self._began)
                self._left -= 1
                if self._left <= 0:
                    self._heard.set()

        return hear

    def expect(self, count: int) -> None:
        """From now on ``count`` messages are waited for."""
        self._left = count
        self._heard.clear()
        self._began = time.perf_counter()

    async def heard(self) -> None:
        """Return when they are there. Raises ``TimeoutError``."""
        try:
            await asyncio.wait_for(self._heard.wait(), PATIENCE)
        except TimeoutError:
            raise TimeoutError(f"{self._left} messages did not arrive in {PATIENCE:.0f} s") from None

    async def join(
        self,
        port: int,
        tokens: Sequence[str | None],
        request: Callable[[int], tuple[str, str, bytes | None, str]],
        *,
        gzip: bool = False,
        at_a_time: int = AT_A_TIME,
    ) -> None:
        """Open a listener for each token. ``request``: its number -> method, path, body, headers."""

        async def one(i: int, token: str | None) -> None:
            wire = await connect(port, token)
            self._wires.append(wire)
            answer = await wire.listen(self.ear(gzip), *request(i))
            if answer.status != 200:
                raise RuntimeError(f"listener {i}: {answer.status} {answer.body[:500]!r}")

        for first in range(0, len(tokens), at_a_time):
            some = enumerate(tokens[first : first + at_a_time], first)
            await asyncio.gather(*(one(i, token) for i, token in some))

    async def join_sockets(self, port: int, tokens: Sequence[str], body: Callable[[int], bytes]) -> None:
        """The same over WebSockets: a download for each token."""
        for first in range(0, len(tokens), AT_A_TIME):
            some = enumerate(tokens[first : first + AT_A_TIME], first)
            self._wires += await asyncio.gather(
                *(connect_socket(port, token, body(i), self.ear()) for i, token in some)
            )

    def leave(self) -> None:
        """Close every connection."""
        for wire in self._wires:
            wire.close()
        self._wires.clear()


class Delays(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float


def percentiles(seconds: Sequence[float]) -> Delays:
    """The median, and what 99 of 100 are below."""
    ordered = sorted(seconds)
    return Delays(ordered[len(ordered) // 2] * 1e3, ordered[len(ordered) * 99 // 100] * 1e3)
