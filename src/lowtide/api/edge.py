"""The HTTP edge: an ASGI app over a table of typed routes.

One coroutine takes a request from its headers to its answer, in an order that spends least on what
will be refused: host, route, token, load, rate, size, type, body, handler. There is no chain of middleware:
each layer of one costs more than the whole of this.

Answers carry ``X-Request-Id`` and the headers that keep a browser from misusing an API. Every error is
a problem (``problems.py``), answered in this one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec

from lowtide.api.bodies import Body, Gone, check_head
from lowtide.api.callers import Authenticate, Callers, Prove, permit, sent_token
from lowtide.api.limits import Deadline, Deadlines, Load
from lowtide.api.logs import ERRORS, AccessLog
from lowtide.api.origins import Hosts, Origins, is_own
from lowtide.api.problems import expected, problem
from lowtide.api.rates import Rates
from lowtide.api.repeats import HEADER as REPEAT
from lowtide.api.repeats import keeping, read_key, replayed, stored
from lowtide.api.streams import Streams, drop
from lowtide.api.table import Served, Table, allowed
from lowtide.api.versions import HEADER, Versions
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_as
from lowtide.kernel.errors import (
    BadRequest,
    DeadlinePassed,
    LowtideError,
    Misdirected,
    Unavailable,
)
from lowtide.kernel.http import Handler, Request, Response, Route, Stream
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal
from lowtide.storage.once import Once, Stored

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


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

NO_SNIFF = (b"x-content-type-options", b"nosniff")
SECURITY = (
    NO_SNIFF,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
NO_STORE = (b"cache-control", b"no-store")
HSTS = (b"strict-transport-security", b"max-age=31536000")
"""Said over TLS only: this host name, for a year (RFC 6797)."""

_encode = msgspec.json.Encoder().encode


class _Exchange:
    """One request and what became of it."""

    __slots__ = (
        "added",
        "id",
        "peer",
        "receive",
        "scope",
        "send",
        "session",
        "started",
        "status",
        "streamed",
        "token",
        "where",
        "who",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, number: str, started: float):
        self.scope = scope
        self.receive = receive
        self.send = send
        self.id = number
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        self.added: list[tuple[bytes, bytes]] = []
        self.where: Route | None = None
        self.who: Principal | None = None
        self.session = ""
        self.token = ""
        self.status = 0
        self.streamed = False
        self.started = started


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
        self._streams = Streams(self.load, ids)
        self._prefix = ids.token()[:12]
        self._count = 0
        self.socket_paths = frozenset(served.path for served in self.table.routes if served.rsocket)
        """Where a GET may become a WebSocket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        self._count += 1
        exchange = _Exchange(
            scope, receive, send, f"{self._prefix}{self._count:08x}", self._clock.monotonic()
        )
        try:
            answer = await self._answer(exchange)
            if isinstance(answer, Stream):
                await self._stream(exchange, answer)
            else:
                await self._send(exchange, answer)
        except Gone:
            exchange.status = exchange.status or 499
        except Exception as error:
            await self._fail(exchange, error)
        finally:
            self._log(exchange)

    # -- one request ------------------------------------------------------------------------------

    async def _answer(self, exchange: _Exchange) -> Response | Stream:
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
        route = exchange.where = served.route
        if not route.vital:
            self._check_host(scope, fields)
        if self._versions and not served.old_apps:
            self._versions.check(fields.get(HEADER))
        peer = exchange.peer
        who = None
        if route.auth != "none":
            who = exchange.who = self._callers.who(fields, method, path, peer, exchange.added)
            if who.session:
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
                return _answered(await self._handle(route, route.handler, request, deadline), route)
            sent = scope["query_string"] + b"\0" + (b"" if body is None else body.bytes)
            handler = self._repeatable(self._once, route, key, sent)
            return _answered(await self._handle(route, handler, request, deadline), route)
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
            route.body, data, max_bytes=route.max_body, max_depth=self.load.limits.depth, nul=route.nul
        )

    def _repeatable(self, once: Once, route: Route, key: str, sent: bytes) -> Handler:
        """The route's handler, run once for all requests that have this key."""

        async def handle(request: Request[Any, Any]) -> Any:
            who = request.who
            whose = "" if who is None else f"{who.space}/{who.user}/{who.client}"
            found = await once.begin(whose, request.path, key, sent, route.deadline)
            if isinstance(found, Stored):
                return replayed(found)
            request.keep = keeping(found, lambda value: _answered(value, route))
            try:
                answer = _answered(await route.handler(request), route)
                if isinstance(answer, Response) and answer.status < 400:
                    await found.finish(stored(answer))
                else:
                    await found.release()
                return answer
            except BaseException:
                with suppress(Unavailable):
                    await found.release()
                raise

        return handle

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
        exchange = _Exchange(scope, _nothing, _nowhere, number, self._clock.monotonic())
        try:
            fields = _fields(scope["headers"])
            served, _ = self.table.find(scope["method"], scope["path"])
            exchange.where = served.route
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

    async def _send(self, exchange: _Exchange, answer: Response) -> None:
        body = answer.body if type(answer.body) is bytes else _encode(answer.body)
        bare = answer.status in (204, 304)
        headers = self._headers(exchange, answer.media_type if body else None, answer.headers)
        if not bare:
            headers.append((b"content-length", b"%d" % len(body)))
        exchange.status = answer.status
        await exchange.send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if bare or exchange.scope["method"] == "HEAD":
            body = b""
        await exchange.send({"type": "http.response.body", "body": body})

    def _headers(
        self, exchange: _Exchange, media_type: str | None, own: Mapping[str, str]
    ) -> list[tuple[bytes, bytes]]:
        # A token comes in a header, which no page's address, picture, script or frame can bring: such an
        # answer is nobody's page, and what guards pages would only be bytes on a phone's network.
        guards = SECURITY if exchange.who is None else (NO_SNIFF,)
        headers = [(b"x-request-id", exchange.id.encode()), *guards, *exchange.added]
        if media_type is not None:
            headers.append((b"content-type", media_type.encode("latin-1")))
        if not own:
            headers.append(NO_STORE)
            return headers
        if "cache-control" not in own:
            headers.append(NO_STORE)
        replaced = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
        names = {name for name, _ in replaced} - {b"vary"}
        return [pair for pair in headers if pair[0] not in names] + replaced

    async def _fail(self, exchange: _Exchange, error: Exception) -> None:
        if not expected(error):
            ERRORS.error("unexpected error", exc_info=error, extra={"fields": _where(exchange)})
        if exchange.status:
            # The answer has begun: cut it, so that nobody takes it for whole.
            exchange.status = 500
            return
        answer = problem(error, exchange.id, round(self._ids.jitter(1, 4)))
        try:
            await self._send(exchange, answer)
        except (TypeError, ValueError, msgspec.MsgspecError) as fault:
            # A detail of the error that JSON cannot say.
            ERRORS.error("unexpected error", exc_info=fault, extra={"fields": _where(exchange)})
            await self._send(exchange, problem(fault, exchange.id))

    async def _stream(self, exchange: _Exchange, stream: Stream) -> None:
        bare = exchange.scope["method"] == "HEAD"
        who = exchange.who
        user = "" if who is None or who.server else f"{who.space}/{who.user}"
        try:
            self._streams.check(user)
            # nginx would otherwise keep lines back until it has a buffer full.
            own = {"x-accel-buffering": "no", **stream.headers}
            headers = self._headers(exchange, stream.media_type, own)
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

    def _log(self, exchange: _Exchange) -> None:
        route, status = exchange.where, exchange.status
        if route is not None and route.vital and status < 500:
            return
        seconds = self._clock.monotonic() - exchange.started
        if self._access.wants(status, 0 if exchange.streamed else seconds):
            self._access.write(_where(exchange) | {"status": status, "ms": round(seconds * 1000, 2)})


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


async def _nowhere(message: MutableMapping[str, Any]) -> None:
    """Nobody is there to be told."""


def _where(exchange: _Exchange) -> dict[str, Any]:
    return {
        "request_id": exchange.id,
        "method": exchange.scope["method"],
        "route": exchange.where.path if exchange.where is not None else None,
        "client": exchange.peer or None,
    }


def _fields(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields = dict(headers)
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        for name in SINGLE:
            if names.count(name) > 1:
                raise BadRequest(f"The header {name.decode()!r} is given twice.")
    return fields


def _answered(result: Any, route: Route) -> Response | Stream:
    if isinstance(result, Response | Stream):
        return result
    if result is None:
        return Response(status=204)
    return Response(status=route.status, body=_encode(result))
