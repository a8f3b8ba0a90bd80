"""A bad network: a proxy in front of the server that a phone's bytes go through."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Literal

Quality = Literal["fine", "train", "basement", "plane"]
"""fine; cut every few seconds; slow and losing answers; no network at all."""


class Network:
    """One phone's way to the server. Its quality may change at any moment."""

    def __init__(self, server_port: int, random: Random):
        self.quality: Quality = "fine"
        self.cuts = 0
        """How many connections died on the way."""
        self._server_port = server_port
        self._random = random
        self._open: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut everything and stop."""
        if self._listener is not None:
            self._listener.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    def set(self, quality: Quality) -> None:
        """Change; a plane cuts what is open."""
        self.quality = quality
        if quality == "plane":
            self.cut()

    def cut(self) -> None:
        """Cut every open connection, wherever it is."""
        for task in list(self._open):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as a task
        self._open.add(task)
        try:
            if self.quality == "plane":
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
            life = self._random.uniform(0.5, 3.0) if self.quality == "train" else None
            try:
                async with asyncio.timeout(life), asyncio.TaskGroup() as both:
                    both.create_task(self._carry(reader, back, answers=False))
                    both.create_task(self._carry(there, writer, answers=True))
            finally:
                back.close()
        except (OSError, TimeoutError, ExceptionGroup, asyncio.CancelledError):
            # Whatever ended it, to a phone it is one thing: the connection is gone.
            self.cuts += 1
        finally:
            self._open.discard(task)
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await source.read(4096):
            if self.quality == "basement":
                await asyncio.sleep(self._random.uniform(0.02, 0.15))
                if answers and self._random.random() < 0.15:
                    raise ConnectionResetError  # the server has done it, and the phone never hears
            target.write(data)
            await target.drain()
        target.close()
