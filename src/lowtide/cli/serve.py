"""``lowtide serve``: the app in production, and the one way in which a server is run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from lowtide.app import Lowtide, build
from lowtide.cli.listener import listen
from lowtide.cli.project import open_project

GRACE = 5
"""Seconds that requests under way are given to end once the server was told to stop."""


def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted, and return."""
    settings, app = open_project()
    with listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        serve(
            build(settings, app),
            listener,
            lambda: print(f"Listening on {url(settings.host, port)}", flush=True),
        )


def url(host: str, port: int) -> str:
    """``http://host:port``, with an IPv6 address in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    lowtide: Lowtide, listener: socket.socket, ready: Callable[[], None], *, grace: int = GRACE
) -> None:
    """Start ``lowtide``, answer on ``listener`` until a signal comes, then stop ``lowtide``.

    ``ready`` is called once requests are answered. Whatever the start raises is raised here.
    """
    config = uvicorn.Config(
        lowtide.asgi,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(lowtide, _Server(config, ready), listener))


async def _serve(lowtide: Lowtide, server: _Server, listener: socket.socket) -> None:
    await lowtide.start()
    try:
        await server.serve(sockets=[listener])
    finally:
        await lowtide.stop()


class _Server(uvicorn.Server):
    """uvicorn, but a signal ends ``serve`` instead of the process: what was accepted is still written."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
