"""A network between Lowtide and a PostgreSQL server that fails when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit


class Wire:
    """Forwards TCP to the server of a DSN: ``async with Wire(dsn) as wire: connect(wire.dsn)``.

    ``cut_after(b"COMMIT")`` lets the next message with these bytes pass and then cuts the connection, so that
    the answer is lost. ``hush_after`` loses the answer too, but nobody learns of it: from then on the wire is
    ``silent`` and swallows everything in both directions.
    """

    def __init__(self, dsn: str):
        self._target = urlsplit(dsn)
        self._trap: tuple[bytes, bool] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.silent = False
        self.cuts = 0
        self.dsn = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://postgres@127.0.0.1:{port}{self._target.path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_after(self, message: bytes) -> None:
        self._trap = message, False

    def hush_after(self, message: bytes) -> None:
        self._trap = message, True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
            pumps = [
                asyncio.create_task(self._pump(reader, server_writer, watch=True)),
                asyncio.create_task(self._pump(server_reader, writer, watch=False)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                writer.transport.abort()
                server_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: bool) -> None:
        while data := await reader.read(65536):
            if self.silent:
                continue
            writer.write(data)
            await writer.drain()
            if watch and self._trap is not None and self._trap[0] in data:
                self.silent = self._trap[1]
                self._trap = None
                self.cuts += 1
                if not self.silent:
                    return
