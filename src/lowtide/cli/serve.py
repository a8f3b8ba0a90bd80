"""``lowtide serve``: the app in production, and the one way in which a server is run."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Callable

import uvloop

from lowtide.api import server
from lowtide.api.logs import JsonLines
from lowtide.app import Lowtide, build
from lowtide.cli.listener import listen, url
from lowtide.cli.project import open_project
from lowtide.settings import Settings


def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted, and return.

    The log is JSON, a line an event, on stdout.
    """
    settings, app = open_project()
    log_to(JsonLines())
    if settings.allowed_hosts == Settings().allowed_hosts and settings.host not in settings.allowed_hosts:
        logging.warning("only requests for localhost are answered: name your address in 'allowed_hosts'")
    with listen(settings.host, settings.port) as listener:
        address = url(settings.host, listener.getsockname()[1])
        how = server.Serving(proxies=settings.trusted_proxies)
        serve(build(settings, app), listener, how, lambda: logging.info("listening on %s", address))


def serve(
    lowtide: Lowtide, listener: socket.socket, how: server.Serving, started: Callable[[], None]
) -> None:
    """Start ``lowtide``, answer on ``listener`` until a signal comes, stop ``lowtide``.

    ``started`` is called once requests are answered. Whatever the start raises is raised here.
    """
    uvloop.run(_serve(lowtide, listener, how, started))


async def _serve(
    lowtide: Lowtide, listener: socket.socket, how: server.Serving, started: Callable[[], None]
) -> None:
    await lowtide.start()
    try:
        await server.serve(lowtide.asgi, listener, serving=how, started=started)
    finally:
        await lowtide.stop()


def log_to(lines: logging.Formatter) -> None:
    """Send the process's log to stdout, a line an event."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(lines)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
