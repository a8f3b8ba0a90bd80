"""The bytes below HTTP: what uvicorn's connection leaves unbounded.

httptools parses strictly (ambiguous framing is answered 400) but bounds nothing, and uvicorn times only
the pause between two requests. ``Wire`` adds: a cap on the request line and headers (431), and on what
stands around a body without being one, such as a trailer, which is dropped; a time for headers to arrive, a
time for a client to take our bytes, a cap on what is read and thrown away after a refusal, and a cap on
connections, beyond which only health checks are answered.

Where they would let two readers disagree it is stricter: no transfer coding but ``chunked``, no
body with a request for an upgrade, and what stands behind such a request is the next one.

A timer runs only while a connection is in one of those states; a request whose headers come in one
packet on a connection in use starts none.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import msgspec
import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, parse_url
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lowtide.api.problems import MEDIA_TYPE, Problem
from lowtide.api.reply import Reply
from lowtide.api.rsocket.times import SessionTimes
from lowtide.kernel.http import KIB, MIB

if TYPE_CHECKING:
    from lowtide.api.edge import Edge
    from lowtide.api.rsocket.socket import Handshake


class WireLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one connection, and of all together."""

    connections: int = 10_000
    """Above this, requests but health checks are answered 503; 256 above, connections are closed."""
    head: int = 32 * KIB
    """Bytes of the request line and all headers."""
    headers: int = 100
    head_time: float = 15.0
    """Seconds from a connection's start, or a request's first byte, to the end of its headers."""
    stall_time: float = 60.0
    """Seconds for which a client may take nothing of what we send."""
    thrown_away: int = 1 * MIB
    """Bytes of a body that nobody reads, after its request was refused."""


RESERVE = 256


class WireConfig(uvicorn.Config):
    """uvicorn's configuration, with ours for each connection."""

    def __init__(
        self,
        app: Any,
        limits: WireLimits,
        *,
        edge: Edge | None = None,
        sockets: SessionTimes | None = None,
        **options: Any,
    ):
        """``edge``: says which requests become WebSockets; None: none does."""
        super().__init__(app, http=Wire, **{"ws": "none", **options})
        self.wire = limits
        self.edge = edge
        self.sockets = sockets or SessionTimes()


class Wire(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, bounded."""

    config: WireConfig

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._limits = self.config.wire
        self._phase: Literal["idle", "head", "body"] = "idle"
        self._parsed = 0
        self._unparsed = 0
        self._bare = True
        self._refused: tuple[int, str, str] | None = None
        self._thrown = 0
        self._idle_since: float | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._handshake: Handshake | None = None

    # -- the connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections + RESERVE:
            transport.abort()
            return
        if len(self.connections) > self._limits.connections:
            self.app_state = {**self.app_state, "crowded": True}
        self._expect_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._stop_stall()
        self._stop_idle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._idle_since = None
        while data:
            within = self._phase == "head"
            rest = b""
            try:
                self.parser.feed_data(data)
            except HttpParserError:
                self.send_400_response("")
            except HttpParserUpgrade as stopped:
                # The parser stops behind a request that asks for an upgrade.
                rest = data[stopped.args[0] :]
                if self._handshake is not None:
                    self._hand_over(self._handshake, rest)
                # It is answered without one, so what follows is the next request; lost, the answer after it
                # would be taken for its own.
            if self._handshake is not None:
                return
            if self._phase == "body":
                self._measure_around(len(data))
            if self.transport.is_closing():
                break
            if self._phase == "head":
                if within:
                    # A header that has not ended is in the parser's hands, not yet in ours.
                    self._unparsed += len(data)
                    if self._unparsed > self._limits.head:
                        self._refuse_head()
                        self.send_400_response("")
                elif self._late is None:
                    self._expect_soon()
            data = rest

    def _should_upgrade(self) -> bool:
        return self._handshake is not None

    def _accept(self) -> Handshake | None:
        """The answer that makes this request a WebSocket; None: it is answered as any other."""
        edge = self.config.edge
        if edge is None or self._get_upgrade() != b"websocket" or self.parser.get_method() != b"GET":
            return None
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            return None  # an answer before it is still on its way
        path = self.url.partition(b"?")[0].decode("latin-1")
        if self.app_state.get("crowded") or not edge.welcomes(path, self.headers):
            return None
        from lowtide.api.rsocket.socket import handshake

        return handshake(self.url, self.headers)

    def _hand_over(self, agreed: Handshake, behind: bytes) -> None:
        """From now on the connection carries RSocket frames; ``behind``: what came of them already."""
        from lowtide.api.rsocket.socket import RSocket

        edge = self.config.edge
        assert edge is not None  # noqa: S101 - see _accept
        self._expect_nothing()
        self._stop_stall()
        self._stop_idle()
        self.connections.discard(self)
        limits = self._limits
        path = self.url.partition(b"?")[0].decode("latin-1")
        socket = RSocket(
            self.transport,
            self.server_state,
            edge,
            edge,
            _as_forwarded({**self.scope, "path": path}, self.app),
            edge.socket_paths,
            self.config.sockets,
            limits.stall_time,
            agreed.inflate,
        )
        self.transport.set_protocol(socket)
        self.transport.write(agreed.answer)
        # The parser and its owner hold each other.
        self.parser = self.cycle = None  # type: ignore[assignment]
        if behind:
            socket.data_received(behind)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_stall()
        self._stall = self.loop.call_later(self._limits.stall_time, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stall()
        super().resume_writing()

    # -- the parser's calls -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = "head"
        self._parsed = self._unparsed = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._measure(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == "head":
            name = name.lower()
            if name == b"transfer-encoding" and value.strip(b" \t").lower() != b"chunked":
                # The parser reads any list that ends in chunked; a proxy before us may read it otherwise.
                raise ValueError("transfer coding")
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
        # A trailer is dropped (RFC 9110 section 6.5.1): a proxy has only looked at the headers.
        self._parsed += len(name) + len(value) + 4
        if self._parsed > self._limits.head or len(self.headers) > self._limits.headers:
            self._refuse_head()
            raise ValueError("head too large")

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/") and self.url != b"*":
            # A proxy's form of address (RFC 9112 section 3.2.2): its authority would bypass Host.
            raise ValueError("absolute address")
        if self.parser.should_upgrade() and self._has_body():
            # The parser would read the body as the next request.
            raise ValueError("a body with an upgrade")
        self._phase = "body"
        self._bare = False
        self._expect_nothing()
        if self.parser.should_upgrade():
            self._handshake = self._accept()
        self._begin()

    def on_body(self, body: bytes) -> None:
        self._bare = False
        if self.cycle.response_complete:
            self._thrown += len(body)
            if self._thrown > self._limits.thrown_away:
                self.transport.abort()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._handshake is not None:
            return
        self._phase = "idle"
        self._thrown = 0
        self._expect_nothing()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()
            if self._idle is None:
                self._idle = self.loop.call_later(self.timeout_keep_alive, self._look)
        if self._phase == "body" and self.cycle.response_complete and self._late is None:
            # Answered before the body was there: what still comes is thrown away, for a while.
            self._expect_soon()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, as a problem; cut when another answer is on its way."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            busy = cycle.response_started or not cycle.more_body or len(self.pipeline) > 0
            cycle.disconnected = True
            cycle.message_event.set()
            if busy:
                self.transport.abort()
                return
        status, code, title = self._refused or (400, "bad_request", "The request is not HTTP/1.1.")
        body = msgspec.json.encode(
            Problem(f"/problems/{code}", HTTPStatus(status).phrase, status, code, title)
        )
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _begin(self) -> None:
        """What uvicorn does with a request's head, for an answer of our kind."""
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        if self._handshake is not None:
            return
        url = parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before: RequestResponseCycle | None = self.cycle
        self.cycle = Reply(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            # One after the other, in the order in which they came.
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _look(self) -> None:
        """Close the connection if it was idle long enough: one timer for it, not one for each request."""
        self._idle = None
        if self._idle_since is None or self.transport.is_closing():
            return
        rest = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if rest > 0:
            self._idle = self.loop.call_later(rest, self._look)
        else:
            self.transport.close()

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
            for name, value in self.headers
        )

    # -- bounds -----------------------------------------------------------------------------------

    def _measure(self, size: int) -> None:
        self._parsed += size
        if self._parsed > self._limits.head or len(self.headers) > self._limits.headers:
            self._refuse_head()
            raise ValueError("head too large")

    def _measure_around(self, size: int) -> None:
        """Count bytes that came for a body and are none: the parser keeps a trailer, and copies it to add."""
        self._unparsed = self._unparsed + size if self._bare else 0
        self._bare = True
        if self._unparsed <= self._limits.head or self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self.transport.abort()
        else:
            self._refuse_head()
            self.send_400_response("")

    def _refuse_head(self) -> None:
        self._refused = (431, "head_too_large", "The address or the headers are too large.")

    def _expect_soon(self) -> None:
        self._late = self.loop.call_later(self._limits.head_time, self._too_late)

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _as_forwarded(scope: dict[str, Any], app: Any) -> dict[str, Any]:
    """``scope`` with the client's address and scheme that a trusted proxy tells, where ``app`` heeds one."""
    if isinstance(app, ProxyHeadersMiddleware):
        heeding = ProxyHeadersMiddleware(_nobody)
        heeding.trusted_hosts = app.trusted_hosts
        with suppress(StopIteration):  # it awaits nothing but the app behind it
            heeding(scope, _nobody, _nobody).send(None)  # type: ignore[arg-type]
    return scope


async def _nobody(*_: object) -> None:
    """An app that answers nothing."""
