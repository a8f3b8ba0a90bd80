"""Edges to test with: a handful of routes, tokens that are names, clocks that stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from lowtide.api.edge import Edge
from lowtide.api.health import health_routes
from lowtide.api.limits import Limits, Load
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts, Origins
from lowtide.api.problems import problem_routes
from lowtide.api.rates import Rates
from lowtide.api.versions import Versions
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.codec import Int64
from lowtide.kernel.errors import TokenExpired, Unauthorized
from lowtide.kernel.http import Outlet, Request, Response, Route, StreamAnswer
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal


class Note(msgspec.Struct):
    title: str
    stars: Int64 = 0


class Page(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    after: str | None = None
    tag: list[str] = []
    deep: bool = False


def authenticate(token: str) -> Principal:
    """``ann`` is a user, ``app`` the app's own server, ``old`` has expired, ``late`` just now."""
    if token == "ann":
        return Principal(user="ann")
    if token == "late":
        return Principal(user="ann", expires_at=1)  # a clock that is a little behind believes it
    if token == "app":
        return Principal(user="app", server=True)
    if token == "old":
        raise TokenExpired
    raise Unauthorized("The token is not valid.")


class Handlers:
    """What the test routes do, and what they were told."""

    def __init__(self) -> None:
        self.requests: list[Request[Any, Any]] = []
        self.gate = asyncio.Event()
        self.ended: list[str] = []

    async def echo(self, request: Request[Any, Any]) -> Any:
        self.requests.append(request)
        return request.body

    async def page(self, request: Request[None, Page]) -> Page:
        self.requests.append(request)
        return request.query

    async def params(self, request: Request[None, None]) -> dict[str, str]:
        self.requests.append(request)
        return dict(request.params)

    async def nothing(self, request: Request[Any, Any]) -> None:
        self.requests.append(request)

    async def wait(self, request: Request[None, None]) -> dict[str, str]:
        self.requests.append(request)
        try:
            await self.gate.wait()
        finally:
            self.ended.append("wait")
        return {"user": request.principal.user}

    async def raw(self, request: Request[bytes, None]) -> Response:
        return Response(body=request.body, media_type="application/octet-stream")

    async def ticks(self, request: Request[None, None]) -> StreamAnswer:
        """A line at once, another whenever ``gate`` is set; a last one when the server stops."""

        async def run(outlet: Outlet) -> None:
            wake = asyncio.Event()
            outlet.on_drain(wake.set)
            try:
                await outlet.write(b'{"hello":true}\n')
                await wake.wait()
                await outlet.write(b'{"retry_after":%.1f}\n' % (outlet.retry_after or 0))
                self.ended.append("drained")
            except asyncio.CancelledError:
                self.ended.append("left")
                raise

        return StreamAnswer(run=run, headers={"content-encoding": "identity"})

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/notes", self.echo, body=Note, response=Note, status=201, max_body=64 * 1024),
            Route("GET", "/notes", self.page, query=Page, response=Page),
            Route("GET", "/notes/{note}/parts/{part}", self.params),
            Route("GET", "/files/{path:rest}", self.params),
            Route("DELETE", "/notes/{note}", self.nothing),
            Route("POST", "/any", self.echo, body=Any, max_body=4 * 1024 * 1024),
            Route("POST", "/raw", self.raw, body=bytes, consumes=("*/*",), max_body=4 * 1024 * 1024),
            Route("GET", "/wait", self.wait, deadline=1.0),
            Route("GET", "/open", self.nothing, auth="none"),
            Route("GET", "/internal", self.nothing, auth="server"),
            Route("GET", "/ticks", self.ticks),
        ]


def build(
    handlers: Handlers,
    *more: Route,
    limits: Limits | None = None,
    hosts: Hosts | None = None,
    origins: Iterable[str] = (),
    sample: float = 1.0,
    checks: dict[str, Any] | None = None,
    rates: float = 0.0,
    versions: Versions | None = None,
) -> Edge:
    """An edge over ``handlers`` and ``more``."""
    clock = ManualClock()
    ids = SeededIds(clock)
    load = Load(limits)
    return Edge(
        [*handlers.routes(), *more, *health_routes(checks or {}, load), *problem_routes()],
        authenticate=authenticate,
        clock=clock,
        ids=ids,
        hosts=hosts or Hosts(["localhost"]),
        origins=Origins(origins),
        access=AccessLog(clock, ids, sample=sample),
        load=load,
        rates=Rates(clock, rates) if rates else None,
        versions=versions,
    )
