"""Server-sent events: what a stream of news writes between its opening and its end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import LowtideError, ResyncRequired, TooManyBuckets, Unavailable
from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal
from lowtide.sync.hub import Listener

log = logging.getLogger("lowtide.sync")

HEARTBEAT = 20.0
"""Seconds between signs of life on a quiet stream."""
QUIET = b":\n\n"
"""A sign of life: a comment, which clients pass over."""


async def tell(
    outlet: Outlet,
    listener: Listener,
    clock: Clock,
    principal: Principal,
    look: Callable[[], Awaitable[bytes | None]],
) -> None:
    """Write what each ``look`` at news finds, until the token expires or the server stops.

    ``look`` says None where the stream is to end. An error that the client meets again when it comes back,
    and is then told of, ends it, too; another one is raised.
    """
    outlet.on_drain(listener.close)
    try:
        while not listener.closed:
            rest = float("inf") if principal.expires_at is None else principal.expires_at - clock.now()
            if rest <= 0:
                break
            if not listener.waiting:
                await listener.wait(min(HEARTBEAT, rest / 1000))
            if listener.closed:
                break
            news = await look() if listener.waiting else QUIET
            if news is None:
                break
            if news:
                await outlet.write(news)
        if outlet.retry_after is not None:
            await outlet.write(b"retry: %d\n\n" % (outlet.retry_after * 1000))
    except LowtideError as error:
        log.warning("a stream of events ended: %s", error.message)
        if not isinstance(error, Unavailable | TooManyBuckets | ResyncRequired):
            raise
