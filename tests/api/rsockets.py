"""Phones that speak RSocket over WebSocket, frame by frame, and a stream of documents for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from lowtide.api.edge import Edge
from lowtide.api.rsocket import frames
from lowtide.api.rsocket.frames import Ask, Frame, Keepalive, Payload, Setup
from lowtide.kernel.bson import decode_bson, encode_bson
from lowtide.kernel.errors import Forbidden
from lowtide.kernel.http import Outlet, Request, Route, StreamAnswer
from tests.api.edges import Handlers, build


class Wanted(msgspec.Struct):
    """What a test asks the stream for."""

    items: int = 0
    size: int = 10
    at_once: bool = False
    refuse: bool = False
    fail: bool = False
    end: bool = False
    filling: str = ""


class Numbers(Handlers):
    """A stream of documents, and how far it came."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.bodies: list[Wanted] = []
        self.asked: list[Request[Any, Any]] = []

    async def documents(self, request: Request[Wanted, None]) -> StreamAnswer:
        self.asked.append(request)
        self.bodies.append(request.body)
        if request.body.refuse:
            raise Forbidden("Not you.")

        async def run(outlet: Outlet) -> None:
            over = asyncio.Event()
            outlet.on_drain(over.set)
            try:
                made = [
                    encode_bson({"n": n, "x": "x" * request.body.size}) for n in range(request.body.items)
                ]
                if request.body.at_once:
                    await outlet.write(b"".join(made))
                    self.written += len(made)
                else:
                    for document in made:
                        await outlet.write(document)
                        self.written += 1
                if request.body.fail:
                    raise RuntimeError("broken on purpose")
                if not request.body.end:
                    await over.wait()
            except asyncio.CancelledError:
                self.ended.append("left")
                raise

        return StreamAnswer(run=run)


def edge(handlers: Numbers, **options: Any) -> Edge:
    route = Route("POST", "/docs", handlers.documents, body=Wanted, rsocket=True, max_body=4 * 1024 * 1024)
    return build(handlers, route, Route("GET", "/docs", handlers.nothing, auth="none"), **options)


class Phone:
    """A client that says exactly what a test wants said."""

    def __init__(self, socket: ClientConnection):
        self.socket = socket

    async def say(self, *said: Frame) -> None:
        for frame in said:
            await self.socket.send(frames.encode(frame))

    async def hear(self, seconds: float = 5) -> Frame:
        async with asyncio.timeout(seconds):
            message = await self.socket.recv()
        assert isinstance(message, bytes)
        return frames.decode(message)

    async def items(self, count: int) -> list[int]:
        """The numbers of the next documents, put together from their fragments."""
        found: list[int] = []
        whole = b""
        while len(found) < count:
            frame = await self.hear()
            assert isinstance(frame, Payload)
            assert frame.next
            whole += frame.data
            if not frame.follows:
                found.append(decode_bson(whole, max_bytes=10_000_000)["n"])
                whole = b""
        return found

    async def silent(self) -> bool:
        """Nothing more comes: a sign of life is the next that is answered."""
        await self.say(Keepalive(True, 0, b"?"))
        return await self.hear() == Keepalive(False, 0, b"?")

    async def live(self) -> None:
        """Give signs of life until the connection ends."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.say(Keepalive(True))
                await asyncio.sleep(0.05)

    async def closed(self, seconds: float = 5) -> tuple[int, str]:
        """The code and the reason with which the server closes; what it says before is passed by."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(seconds):
                while True:
                    await self.socket.recv()
        return self.socket.close_code or 0, self.socket.close_reason or ""


@contextlib.asynccontextmanager
async def phone(
    port: int, path: str = "/docs", host: str = "localhost", compression: str | None = None, **options: Any
) -> AsyncIterator[Phone]:
    async with connect(
        f"ws://{host}:{port}{path}",
        proxy=None,
        max_size=None,
        compression=compression,
        close_timeout=0.5,
        **options,
    ) as socket:
        yield Phone(socket)


def setup(token: str = "Token ann", **changed: Any) -> Setup:
    said = {"keepalive": 20_000, "lifetime": 90_000, "metadata_type": "application/json"}
    said |= {"data_type": "application/json", "metadata": json.dumps({"token": token}).encode()}
    return Setup(**{**said, **changed})


def ask(initial: int = 10, stream: int = 1, path: str = "/docs", **wanted: Any) -> Ask:
    return Ask(
        kind=frames.REQUEST_STREAM,
        stream=stream,
        initial=initial,
        metadata=json.dumps({"path": path}).encode(),
        data=json.dumps(wanted).encode(),
    )
