"""How long a connection may be idle: from its last answer on, whatever came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.server import ServerState

from lowtide.api.wire import Wire, WireConfig, WireLimits

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
SECONDS = 60


class Timer:
    def __init__(self, due: float, call: Callable[[], None]):
        self.due, self.call, self.cancelled = due, call, False

    def cancel(self) -> None:
        self.cancelled = True


class HandLoop:
    """An event loop whose time is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[..., None], *more: Any) -> Timer:
        self.timers.append(Timer(self.now + seconds, lambda: call(*more)))
        return self.timers[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def move_to(self, now: float) -> None:
        self.now = now
        for timer in [one for one in self.timers if one.due <= now]:
            self.timers.remove(timer)
            if not timer.cancelled:
                timer.call()


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.answered = asyncio.Event()
        self.closed = False

    def write(self, data: Any) -> None:
        self.answered.set()

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def ask(wire: Wire, transport: Transport) -> None:
    transport.answered.clear()
    wire.data_received(REQUEST)
    async with asyncio.timeout(5):
        await transport.answered.wait()


async def test_a_connection_is_closed_when_it_was_idle_for_its_time() -> None:
    """Not a moment sooner, however many requests came before, and with one timer for all of them."""
    loop, transport = HandLoop(), Transport()
    config = WireConfig(
        answer, WireLimits(), ws="none", lifespan="off", log_config=None, timeout_keep_alive=SECONDS
    )
    config.load()
    wire = Wire(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    wire.connection_made(transport)
    for now in (0.0, 20.0, 50.0):
        loop.move_to(now)
        await ask(wire, transport)
    assert len([timer for timer in loop.timers if not timer.cancelled]) == 1
    loop.move_to(50.0 + SECONDS - 1)
    assert not transport.closed
    loop.move_to(50.0 + SECONDS)
    assert transport.closed


async def test_a_connection_that_is_lost_leaves_no_timer() -> None:
    """A thousand phones that come and go leave nothing behind."""
    loop, transport = HandLoop(), Transport()
    config = WireConfig(
        answer, WireLimits(), ws="none", lifespan="off", log_config=None, timeout_keep_alive=SECONDS
    )
    config.load()
    wire = Wire(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    wire.connection_made(transport)
    await ask(wire, transport)
    wire.connection_lost(None)
    assert all(timer.cancelled for timer in loop.timers)
