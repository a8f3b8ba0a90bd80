"""The HTTP edge: an ASGI app over a table of typed routes.

One coroutine takes a request from its headers to its answer, in an order that spends least on what
will be refused: host, route, token, load, rate, size, type, body, handler. There is no chain of middleware:
each layer of one costs more than the whole of this.

Answers carry ``X-Request-Id`` and the headers that keep a browser from misusing an API. Every error is
a problem (``problems.py``), answered in this one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from typing import Any

import msgspec

from lowtide.api.bodies import Body, Gone, check_head
from lowtide.api.callers import Authenticate, Callers, Prove, permit, sent_token
from lowtide.api.exchange import HSTS, Exchange, Receive, Scope, Send, answered
from lowtide.api.limits import Deadline, Deadlines, Load
from lowtide.api.logs import ERRORS, AccessLog
from lowtide.api.origins import Hosts, Origins, is_own
from lowtide.api.problems import expected, problem
from lowtide.api.rates import Rates
from lowtide.api.repeats import HEADER as REPEAT
from lowtide.api.repeats import once_only, read_key
from lowtide.api.streams import OpenStreams, drop
from lowtide.api.table import Served, Table, allowed
from lowtide.api.versions import HEADER, Versions
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_as
from lowtide.kernel.errors import (
    BadRequest,
    DeadlinePassed,
    LowtideError,
    Misdirected,
)
from lowtide.kernel.http import Handler, Request, Response, Route, StreamAnswer
from lowtide.kernel.ids import Ids
from lowtide.storage.once import Once

SINGLE = (
    b"host",
    b"authorization",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"origin",
    b"dpop",
    HEADER,
    REPEAT,
)
"""Headers that a request may carry once."""


class Edge:
    """Answers HTTP. Safe to share by every connection of one event loop.

    ``authenticate`` and ``prove`` are those of ``Callers``, ``load`` is shared with the health routes.
    Without ``rates`` nobody is told to slow down, and without ``versions`` no app to update; without
    ``once`` an Idempotency-Key means nothing.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        authenticate: Authenticate,
        clock: Clock,
        ids: Ids,
        hosts: Hosts,
        access: AccessLog,
        origins: Origins | None = None,
        load: Load | None = None,
        prove: Prove | None = None,
        rates: Rates | None = None,
        versions: Versions | None = None,
        once: Once | None = None,
    ):
        self.table = Table(routes)
        self.load = load or Load()
        self._callers = Callers(authenticate, prove, rates)
        self._rates = rates
        self._versions = versions
        self._once = once
        self._clock = clock
        self._ids = ids
        self._hosts = hosts
        self._origins = origins or Origins()
        self._access = access
        self._deadlines = Deadlines(self.load)
        self._streams = OpenStreams(self.load, ids)
        self._prefix = ids.token()[:12]
        self._count = 0
        self.socket_paths = frozenset(served.path for served in self.table.routes if served.rsocket)
        """Where a GET may become a WebSocket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        self._count += 1
        exchange = Exchange(scope, receive, send, f"{self._prefix}{self._count:08x}", self._clock.monotonic())
        try:
            answer = await self._answer(exchange)
            if isinstance(answer, StreamAnswer):
                await self._stream(exchange, answer)
            else:
                await exchange.answer(answer)
        except Gone:
            exchange.status = exchange.status or 499
        except Exception as error:
            await self._fail(exchange, error)
        finally:
            self._log(exchange)

    # -- one request ------------------------------------------------------------------------------

    async def _answer(self, exchange: Exchange) -> Response | StreamAnswer:
        scope = exchange.scope
        fields = _fields(scope["headers"])
        exchange.added = self._origins.headers(fields.get(b"origin"))
        if scope.get("scheme") == "https":
            exchange.added.append(HSTS)
        method: str = scope["method"]
        raw = scope.get("raw_path")
        path: str = raw.decode("latin-1") if raw is not None else scope["path"]
        if method == "OPTIONS":
            self._check_host(scope, fields)
            return self._options(path, fields)
        try:
            served, params = self.table.find(method, path)
        except LowtideError:
            self._check_host(scope, fields)
            raise
        route = exchange.route = served.route
        if not route.vital:
            self._check_host(scope, fields)
        if self._versions and not served.old_apps:
            self._versions.check(fields.get(HEADER))
        peer = exchange.peer
        who = None
        if route.auth != "none":
            who = exchange.who = self._callers.who(fields, method, path, peer, exchange.added)
            exchange.session = who.session
            exchange.token = sent_token(fields)
        if not route.vital:
            self.load.check(served.rank)
            if scope.get("state", {}).get("crowded"):
                self.load.refuse("connections")
            if self._rates is not None:
                self._rates.take(served.rate, who, peer, exchange.added)
        # Behind the rates: who asks for what they may not, or asks it wrongly, is counted, too.
        if who is not None:
            permit(route, who)
        raw_query = scope["query_string"]
        query = raw_query if route.raw_query else served.query.read(raw_query)
        body = None
        deadline = self._deadlines.begin(self.load.limits.body_start)
        try:
            if route.body is not None:
                body = self._expect(served, fields)
                await body.read(exchange.receive, deadline)
                if not route.vital:
                    self.load.check(served.rank)
            request = Request(
                body=None if body is None else self._decoded(route, body.bytes),
                query=query,
                params=params,
                who=who,
                headers=scope["headers"],
                method=method,
                path=path,
                client=peer,
                id=exchange.id,
            )
            key = None
            if served.repeatable:
                needed = route.key == "required"
                key = read_key(fields.get(REPEAT), needed=needed, known=who is not None)
            if key is None or self._once is None:
                return answered(await self._handle(route, route.handler, request, deadline), route)
            sent = scope["query_string"] + b"\0" + (b"" if body is None else body.bytes)
            handler = once_only(self._once, route, key, sent)
            return answered(await self._handle(route, handler, request, deadline), route)
        finally:
            self._deadlines.end(deadline)
            if body is not None:
                body.release()

    def _check_host(self, scope: Scope, fields: Mapping[bytes, bytes]) -> None:
        host = fields.get(b"host")
        if host is None:
            raise BadRequest("The request has no Host header.")
        if not self._hosts.allow(host):
            raise Misdirected

    def _expect(self, served: Served, fields: Mapping[bytes, bytes]) -> Body:
        most = served.route.max_body
        inflater = check_head(
            fields.get(b"content-length"),
            fields.get(b"content-type"),
            fields.get(b"content-encoding"),
            served.consumes,
            most,
        )
        return Body(self.load, most, inflater, served.rank)

    def _decoded(self, route: Route, data: bytes) -> Any:
        if route.body is bytes:
            return data
        return decode_as(
            route.body, data, max_bytes=route.max_body, max_depth=self.load.limits.depth, parts=route.parts
        )

    async def _handle(
        self, route: Route, handler: Handler, request: Request[Any, Any], deadline: Deadline
    ) -> Any:
        self._deadlines.again(deadline, route.deadline)
        counted = not route.vital
        self.load.requests += counted
        try:
            result = await handler(request)
        except asyncio.CancelledError:
            if not deadline.passed:
                raise
            deadline.task.uncancel()
            raise DeadlinePassed from None
        finally:
            self.load.requests -= counted
        if deadline.passed:
            # It was told to stop, and answered all the same.
            deadline.task.uncancel()
        return result

    # -- RSocket ----------------------------------------------------------------------------------

    def welcomes(self, path: str, headers: list[tuple[bytes, bytes]]) -> bool:
        """May a request for a WebSocket be granted? If not, it is answered as what it is without.

        A page of an origin that may not read our answers may not open one either; the server's own may,
        which is what the WebSockets of React Native say they are.
        """
        if path not in self.socket_paths:
            return False
        try:
            fields = _fields(headers)
            self._check_host({}, fields)
        except LowtideError:
            return False
        origin = fields.get(b"origin")
        return origin is None or is_own(origin, fields[b"host"]) or self._origins.allow(origin)

    def greet(self, scope: Scope) -> int | None:
        """Until when the token in these headers is good, in Unix milliseconds; None: for ever.

        Raises what a request with them would be refused for, before it is asked.
        """
        self._count += 1
        number = f"{self._prefix}{self._count:08x}"
        exchange = Exchange(scope, _nothing, _nowhere, number, self._clock.monotonic())
        try:
            fields = _fields(scope["headers"])
            served, _ = self.table.find(scope["method"], scope["path"])
            exchange.route = served.route
            self._check_host(scope, fields)
            who = self._callers.who(fields, scope["method"], scope["path"], exchange.peer, exchange.added)
            permit(served.route, who)
            self.load.check(served.rank)
            self.load.check_streams()
            return who.expires_at
        except LowtideError as error:
            exchange.status = error.status
            self._log(exchange)
            raise

    def passed(self, time: int | None) -> bool:
        """Is it later than ``time``, in Unix milliseconds?"""
        return time is not None and time <= self._clock.now()

    # -- answers ----------------------------------------------------------------------------------

    def _options(self, path: str, fields: Mapping[bytes, bytes]) -> Response:
        methods = [] if path == "*" else allowed(self.table.methods(path)[0])
        headers = {"allow": ", ".join(methods)} if methods else {}
        origin = fields.get(b"origin")
        if origin is not None and b"access-control-request-method" in fields:
            wanted = fields.get(b"access-control-request-headers")
            for name, value in self._origins.preflight(origin, wanted, methods):
                headers[name.decode()] = value.decode("latin-1")
        return Response(status=204, headers=headers)

    async def _fail(self, exchange: Exchange, error: Exception) -> None:
        if not expected(error):
            ERRORS.error("unexpected error", exc_info=error, extra={"fields": exchange.where()})
        if exchange.status:
            # The answer has begun: cut it, so that nobody takes it for whole.
            exchange.status = 500
            return
        answer = problem(error, exchange.id, round(self._ids.jitter(1, 4)))
        try:
            await exchange.answer(answer)
        except (TypeError, ValueError, msgspec.MsgspecError) as fault:
            # A detail of the error that JSON cannot say.
            ERRORS.error("unexpected error", exc_info=fault, extra={"fields": exchange.where()})
            await exchange.answer(problem(fault, exchange.id))

    async def _stream(self, exchange: Exchange, stream: StreamAnswer) -> None:
        bare = exchange.scope["method"] == "HEAD"
        who = exchange.who
        user = "" if who is None or who.server else f"{who.space}/{who.user}"
        try:
            self._streams.check(user)
            # nginx would otherwise keep lines back until it has a buffer full.
            own = {"x-accel-buffering": "no", **stream.headers}
            headers = exchange.headers(stream.media_type, own)
            exchange.status = 200
            exchange.streamed = True
            await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
            if bare:
                await exchange.send({"type": "http.response.body", "body": b""})
        except BaseException:
            drop(stream)
            raise
        if bare:
            drop(stream)
        else:
            await self._streams.run(
                stream,
                exchange.receive,
                exchange.send,
                exchange.session,
                lambda: self._callers.still(exchange.token),
                user,
            )

    def drain(self, within: float = 0.0) -> None:
        """Stop: say "not ready", and ask every stream to end, ``within`` seconds."""
        self.load.draining = True
        self._streams.drain(within)

    def end_sessions(self, sessions: Collection[str]) -> None:
        """End the streams of these sessions: at the next line where a stream can, soon anyway."""
        self._streams.end_sessions(sessions)

    async def end_refused(self) -> None:
        """End the streams whose token would be refused now, in the same way."""
        await self._streams.end_refused()

    def cut(self) -> None:
        """Cancel every stream that has not ended by itself."""
        self._streams.cut()

    # -- the rest ---------------------------------------------------------------------------------

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket of another server than ours is closed before it opens."""
        if scope["type"] != "websocket":
            raise RuntimeError(f"the edge does not serve {scope['type']!r}")
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    def _log(self, exchange: Exchange) -> None:
        route, status = exchange.route, exchange.status
        if route is not None and route.vital and status < 500:
            return
        seconds = self._clock.monotonic() - exchange.started
        if self._access.wants(status, 0 if exchange.streamed else seconds):
            self._access.write(exchange.where() | {"status": status, "ms": round(seconds * 1000, 2)})


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


async def _nowhere(message: MutableMapping[str, Any]) -> None:
    """Nobody is there to be told."""


def _fields(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields = dict(headers)
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        for name in SINGLE:
            if names.count(name) > 1:
                raise BadRequest(f"The header {name.decode()!r} is given twice.")
    return fields
