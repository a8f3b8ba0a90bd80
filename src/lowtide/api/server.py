"""Running the edge: uvicorn on a socket that is already bound, and the order in which it stops.

Stopping, at SIGTERM, SIGINT or ``stop``: readiness fails; after ``notice`` seconds, so that a load
balancer has seen it, no connection is accepted any more; every stream is told to end, with a time to
return; requests finish; what is left after ``grace`` is cut. Then ``serve`` returns, and its caller
closes the services. A second signal ends all of that at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

import msgspec
import uvicorn

from lowtide.api.edge import Edge
from lowtide.api.rsocket.times import SessionTimes
from lowtide.api.wire import RESERVE, WireConfig, WireLimits

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FILES = 128
"""File descriptors for everything but connections."""
KEEP_ALIVE = 60
"""Seconds that a connection may be idle between two requests."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How a process serves."""

    grace: float = 10.0
    """Seconds that requests and streams may take to end."""
    notice: float = 0.0
    """Seconds between failing readiness and refusing connections."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-For and -Proto are believed; none by default."""
    wire: WireLimits = WireLimits()
    sockets: SessionTimes = SessionTimes()


async def serve(
    edge: Edge,
    listener: socket.socket,
    *,
    started: Callable[[], None] = lambda: None,
    stop: asyncio.Event | None = None,
    serving: Serving | None = None,
) -> None:
    """Answer on ``listener``, which is closed in the end, until a signal comes or ``stop`` is set.

    ``started`` is called once connections are answered. Run it on uvloop (``uvloop.run``): it works on
    any asyncio loop, at three times the cost. Signals are only heard in the main thread.
    """
    server = _Server(edge, serving or Serving(), started)
    waiting = None if stop is None else asyncio.create_task(server.stop_at(stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        if waiting is not None:
            waiting.cancel()


def _affordable(limits: WireLimits) -> WireLimits:
    # A process out of file descriptors can neither accept nor write: keep some for the database.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + RESERVE + FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = max(16, soft - RESERVE - FILES)
    return msgspec.structs.replace(limits, connections=min(limits.connections, room))


def _unknown(record: logging.LogRecord) -> bool:
    # Cutting an answer is how a stream fails, and the edge has already said why.
    return "without completing response" not in record.getMessage()


class _Server(uvicorn.Server):
    def __init__(self, edge: Edge, serving: Serving, started: Callable[[], None]):
        config = WireConfig(
            edge,
            _affordable(serving.wire),
            edge=edge,
            sockets=serving.sockets,
            lifespan="off",
            log_config=None,
            # Its warnings are one line for each malformed request: a stranger could fill the disk.
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(serving.grace)),
            proxy_headers=bool(serving.proxies),
            forwarded_allow_ips=list(serving.proxies),
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_unknown)
        self._edge = edge
        self._serving = serving
        self._started = started

    async def stop_at(self, event: asyncio.Event) -> None:
        await event.wait()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._edge.load.draining = True
        waited = 0.0
        while waited < self._serving.notice and not self.force_exit:
            await asyncio.sleep(0.1)
            waited += 0.1
        self._edge.drain(within=self._serving.grace / 2)
        # Just before uvicorn's own end, which would log every one of them as an error.
        cut = asyncio.get_running_loop().call_later(self._serving.grace * 0.9, self._edge.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()
            await self._end_tasks()

    async def _end_tasks(self) -> None:
        # Whoever called serve() closes the services next: nobody may be using them.
        self._edge.cut()
        await asyncio.sleep(0)
        left = list(self.server_state.tasks)
        for task in left:
            if not task.cancelling():
                task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)

    def handle_exit(self, sig: int, frame: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal ends ``serve`` and not the process: the caller has services to close."""
        loop = asyncio.get_running_loop()
        heard: Sequence[signal.Signals] = SIGNALS
        try:
            for number in SIGNALS:
                loop.add_signal_handler(number, self.handle_exit, number, None)
        except (RuntimeError, ValueError):
            heard = ()  # not the main thread
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)
