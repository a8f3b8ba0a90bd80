"""Is the process alive, and should it be sent requests? Asked by load balancers, without a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from lowtide.api.limits import Load
from lowtide.api.logs import ERRORS
from lowtide.kernel.errors import LowtideError, Unavailable
from lowtide.kernel.http import Request, Route

DEADLINE = 2.0
"""Seconds in which each part must answer."""

Check = Callable[[], Awaitable[object]]
"""Returns when the part works, raises when not."""


class Health(msgspec.Struct, frozen=True):
    """Alive, or ready."""

    status: str


def health_routes(checks: Mapping[str, Check], load: Load) -> list[Route]:
    """``GET /health/live``: the loop runs. ``GET /health/ready``: every one of ``checks`` passes.

    Ready is 503 while ``load.draining``, with ``failing`` naming the parts that do not work; why they do
    not is in the log. The checks run side by side, each with two seconds.
    """

    async def live(_: Request[None, None]) -> Health:
        """The process runs and answers. Restart it when this fails."""
        return Health("live")

    async def ready(_: Request[None, None]) -> Health:
        """The process can work on requests. Send it none while this fails."""
        if load.draining:
            raise Unavailable("The server is stopping.", failing=[])
        names = list(checks)
        passed = await asyncio.gather(*(_passes(name, checks[name]) for name in names))
        failing = [name for name, good in zip(names, passed, strict=True) if not good]
        if failing:
            raise Unavailable(f"Not working: {', '.join(failing)}.", failing=failing)
        return Health("ready")

    return [
        Route(
            "GET",
            "/health/live",
            live,
            response=Health,
            auth="none",
            vital=True,
            summary="Is the process alive?",
            tags=("health",),
        ),
        Route(
            "GET",
            "/health/ready",
            ready,
            response=Health,
            auth="none",
            vital=True,
            summary="Can the process work on requests?",
            errors=(Unavailable,),
            tags=("health",),
        ),
    ]


async def _passes(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(DEADLINE):
            await check()
    except (LowtideError, TimeoutError, OSError) as error:
        ERRORS.warning("not ready: %s: %r", name, error)
        return False
    return True
