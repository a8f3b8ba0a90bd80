"""One RSocket connection: its SETUP, the stream that it carries, and how both end.

An error ends a stream or the connection as ERROR with ``code: message``, and with what the SDKs look for:
``PSYNC_S21`` where a new token is needed, ``PSYNC_`` where the one that they have is still good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from lowtide.api.limits import Load
from lowtide.api.rsocket import frames
from lowtide.api.rsocket.frames import Ask, Cancel, Failure, Frame, Keepalive, Other, Payload, RequestN, Setup
from lowtide.api.rsocket.stream import MAX_REQUEST, SAME_TOKEN, Asgi, Download, Line, Scope, failure
from lowtide.api.rsocket.times import SessionTimes
from lowtide.kernel.bson import decode_bson
from lowtide.kernel.codec import decode_as
from lowtide.kernel.errors import Busy, LowtideError, Malformed, NotFound, TooLarge
from lowtide.kernel.http import KIB

JSON, BSON = "application/json", "application/bson"
BSON_LINES = b"application/vnd.powersync.bson-stream"
OWN = (b"authorization", b"content-type", b"content-length", b"accept")
"""Headers that a stream's request has from the SETUP, whatever the upgraded one said."""

MAX_SETUP = 16 * KIB
"""Bytes of the SETUP: nobody is known before it."""
MAX_KEEPALIVE = KIB
"""Bytes of data of a KEEPALIVE: they are sent back."""
MAX_REFUSED = 32
"""Requests that one connection may be refused before it is closed."""


class Door(Protocol):
    """What is asked of the edge besides answering requests."""

    load: Load

    def greet(self, scope: Scope) -> int | None:
        """Until when the token in these headers is good. Raises what a request with them is refused for."""

    def passed(self, time: int | None) -> bool:
        """Is it later than that?"""


class Hello(msgspec.Struct, frozen=True):
    """The SETUP's metadata."""

    token: str
    """The value of an Authorization header."""


class Where(msgspec.Struct, frozen=True):
    """A request's metadata."""

    path: str


class Session:
    """What is said on one connection. Lives on the event loop; ``received`` never blocks."""

    def __init__(
        self,
        line: Line,
        app: Asgi,
        door: Door,
        scope: Mapping[str, Any],
        paths: frozenset[str],
        times: SessionTimes,
        now: float,
    ):
        """``scope``: the upgraded request's, in the form of ASGI. ``paths``: what may be asked for."""
        self._line = line
        self._app = app
        self._door = door
        self._scope = scope
        self._paths = paths
        self._times = times
        self.known = False
        """Has a SETUP said who is there?"""
        self._lifetime = 0.0
        self._types = (JSON, JSON)
        """Of metadata and data."""
        self._authorization = b""
        self._expires: int | None = None
        self._stream: Download | None = None
        self._refused = 0
        self._received = 0
        self._since = self._heard = now
        self._draining = False
        self.over = False
        """Nothing is heard any more."""

    # -- what the client says ---------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Bytes of a request whose end has not come."""
        return 0 if self._stream is None else self._stream.held

    @property
    def sent(self) -> int:
        """Bytes that have come since the connection's start, or the last stream's end."""
        return self._received

    def count(self, size: int, now: float) -> None:
        """``size`` bytes have come; the whole frames in them were ``received``."""
        self._heard = now
        self._received += size
        if not self.known and self._received > MAX_SETUP and not self.over:
            self.fail(frames.INVALID_SETUP, TooLarge(f"A SETUP is at most {MAX_SETUP} bytes."))

    def received(self, message: bytes, now: float) -> None:
        """Act upon one frame."""
        if self.over:
            return
        if not self.known and len(message) > MAX_SETUP:
            self.fail(frames.INVALID_SETUP, TooLarge(f"A SETUP is at most {MAX_SETUP} bytes."))
            return
        try:
            frame = frames.decode(message)
        except Malformed as error:
            self.fail(frames.CONNECTION_ERROR if self.known else frames.INVALID_SETUP, error)
            return
        if not self.known:
            self._begin(frame, now)
            return
        stream = self._stream
        match frame:
            case RequestN() if stream is not None and frame.stream == stream.id:
                self._more(stream, frame)
            case Keepalive() if len(frame.data) > MAX_KEEPALIVE:
                large = TooLarge(f"A KEEPALIVE carries at most {MAX_KEEPALIVE} bytes.", limit=MAX_KEEPALIVE)
                self.fail(frames.CONNECTION_ERROR, large)
            case Keepalive() if frame.respond:
                self._say(Keepalive(False, 0, frame.data))
            case Ask():
                self._ask(frame)
            case Payload() if stream is not None and frame.stream == stream.id and not stream.running:
                self._gather(stream, frame)
            case Cancel() | Failure() if stream is not None and frame.stream == stream.id:
                self._end(stream)
            case Failure() if frame.stream == 0:
                self.close(1000, "")
            case Other():
                self._other(frame)

    def _begin(self, frame: Frame, now: float) -> None:
        if isinstance(frame, Other) and frame.type == frames.RESUME:
            self.fail(frames.REJECTED_RESUME, Malformed("This server does not resume connections."))
            return
        if not isinstance(frame, Setup):
            self.fail(frames.INVALID_SETUP, Malformed("A connection begins with a SETUP."))
            return
        refusal = _unsupported(frame)
        if refusal is not None:
            self.fail(refusal[0], Malformed(refusal[1]))
            return
        try:
            hello = _read(Hello, frame.metadata or b"", frame.metadata_type)
            self._authorization = hello.token.encode("ascii")
        except (Malformed, UnicodeEncodeError):
            self.fail(frames.INVALID_SETUP, Malformed("The SETUP's metadata holds no token."))
            return
        try:
            self._expires = self._door.greet(self._request(self._scope["path"], 0))
        except LowtideError as error:
            self.fail(frames.REJECTED_SETUP, error)
            return
        self.known = True
        self._lifetime = min(frame.lifetime / 1000, self._times.lifetime)
        self._types = (frame.metadata_type, frame.data_type)
        self._wait_again(now)

    def _more(self, stream: Download, frame: RequestN) -> None:
        if frame.count > 0:
            stream.more(frame.count)
            return
        self._end(stream)
        self._refuse(stream.id, frames.INVALID, Malformed("REQUEST_N asks for one or more."))

    def _ask(self, frame: Ask) -> None:
        if self._stream is not None and frame.stream == self._stream.id:
            return  # "MUST be ignored"
        if frame.kind == frames.REQUEST_FNF:
            return
        if frame.stream % 2 == 0:
            self.fail(frames.CONNECTION_ERROR, Malformed("A client's streams have odd numbers."))
            return
        problem: LowtideError | None = None
        if frame.kind != frames.REQUEST_STREAM or frame.initial is None:
            problem = NotFound("Only REQUEST_STREAM is served.")
        elif frame.initial <= 0:
            problem = Malformed("REQUEST_STREAM asks for one or more.")
        elif self._stream is not None:
            problem = Busy("A connection carries one stream at a time.")
        elif self._draining:
            problem = Busy("The server is stopping.")
        if problem is not None:
            self._refuse(frame.stream, frames.REJECTED, problem)
            return
        credits = frame.initial or 0
        self._stream = Download(frame.stream, credits, self._line, self._ended, self._has_expired)
        self._gather(self._stream, frame)

    def _gather(self, stream: Download, frame: Ask | Payload) -> None:
        try:
            if stream.gather(frame):
                self._start(stream)
        except LowtideError as error:
            self._end(stream)
            self._refuse(stream.id, frames.INVALID, error)

    def _start(self, stream: Download) -> None:
        metadata_type, data_type = self._types
        path = _read(Where, bytes(stream.metadata), metadata_type).path
        if path not in self._paths:
            raise NotFound("No stream is served at this path.")
        body = bytes(stream.data)
        if data_type == BSON:
            body = msgspec.json.encode(decode_bson(body, max_bytes=MAX_REQUEST))
        stream.start(self._app, self._request(path, len(body)), body)

    def _other(self, frame: Other) -> None:
        if frame.type == frames.RESUME:
            self.fail(frames.REJECTED_RESUME, Malformed("This server does not resume connections."))
        elif frame.type in (frames.LEASE, frames.METADATA_PUSH, frames.SETUP, frames.KEEPALIVE):
            pass  # says nothing to a server that asks for nothing
        elif not frame.ignorable:
            self.fail(
                frames.CONNECTION_ERROR, Malformed(f"RSocket frames of type {frame.type} are not known.")
            )

    def _request(self, path: str, size: int) -> Scope:
        """A POST to ``path`` by whom the SETUP named, in the form of ASGI."""
        headers = [pair for pair in self._scope["headers"] if pair[0] not in OWN]
        headers += [
            (b"authorization", self._authorization),
            (b"content-type", JSON.encode()),
            (b"content-length", b"%d" % size),
            (b"accept", BSON_LINES),
        ]
        asked = {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        return {**self._scope, **asked, "method": "POST"}

    # -- ends -------------------------------------------------------------------------------------

    def _has_expired(self) -> bool:
        return self._door.passed(self._expires)

    def _ended(self, stream: Download, last: Frame) -> None:
        """``stream`` has ended by itself."""
        if self._stream is stream:
            self._say(last)
            self._end(stream)

    def _end(self, stream: Download) -> None:
        self._stream = None
        stream.leave()
        self._wait_again(asyncio.get_running_loop().time())
        if self._draining:
            self.close(1012, f"{SAME_TOKEN} the server is stopping")

    def _refuse(self, stream: int, code: int, error: LowtideError) -> None:
        self._refused += 1
        if self._refused > MAX_REFUSED:
            self.fail(frames.CONNECTION_ERROR, Busy("Too many requests were refused on this connection."))
        else:
            self._say(failure(stream, code, error))

    def fail(self, code: int, error: LowtideError) -> None:
        """End the connection, saying why."""
        last = failure(0, code, error)
        self._say(last)
        self.close(1008, last.message)

    def close(self, code: int, reason: str) -> None:
        """End the connection, and what runs on it."""
        self._line.close(code, reason)
        self.lost()

    def lost(self) -> None:
        """The connection is gone. A repeat does nothing."""
        if not self.over:
            self.over = True
            if self._stream is not None:
                self._end(self._stream)

    def drain(self) -> None:
        """The server is stopping: end with the stream, or now when there is none."""
        self._draining = True
        if self._stream is None:
            self.close(1012, f"{SAME_TOKEN} the server is stopping")

    def check(self, now: float) -> None:
        """End a connection that has been silent for too long."""
        times, stream = self._times, self._stream
        late = ""
        if not self.known:
            if now - self._since > times.setup:
                late = "no SETUP came"
        elif stream is None or not stream.running:
            limits = self._door.load.limits
            allowed = min(times.request + self._received / limits.body_rate, limits.body_time)
            if now - self._since > allowed:
                late = "no request came"
        elif now - self._heard > self._lifetime:
            late = "no sign of life came"
        elif stream.hungry is not None and now - stream.hungry > times.starved:
            late = "nothing was asked for"
        if late:
            self.close(1008, f"{SAME_TOKEN} {late} in time")

    def _wait_again(self, now: float) -> None:
        self._since, self._received = now, 0

    def _say(self, frame: Frame) -> None:
        if not self.over:
            self._line.send([frames.encode(frame)])


def _unsupported(setup: Setup) -> tuple[int, str] | None:
    """Why ``setup`` cannot be served, and its code."""
    if setup.major != 1:
        return frames.UNSUPPORTED_SETUP, "This server speaks RSocket 1.0."
    if setup.resume is not None:
        return frames.REJECTED_SETUP, "This server does not resume connections."
    if setup.lease:
        return frames.UNSUPPORTED_SETUP, "This server grants no leases."
    if not (0 < setup.keepalive <= frames.MAX_CREDITS and 0 < setup.lifetime <= frames.MAX_CREDITS):
        return frames.INVALID_SETUP, "The times of a SETUP are positive."
    if not {setup.metadata_type, setup.data_type} <= {JSON, BSON}:
        return frames.UNSUPPORTED_SETUP, f"The types of data and metadata are {JSON} or {BSON}."
    return None


def _read(kind: type[Any], data: bytes, media_type: str) -> Any:
    if media_type == JSON:
        return decode_as(kind, data, max_bytes=MAX_SETUP)
    try:
        return msgspec.convert(decode_bson(data, max_bytes=MAX_SETUP), kind)
    except msgspec.ValidationError as error:
        raise Malformed(f"The document does not fit: {error}.") from None
