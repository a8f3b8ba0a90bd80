"""One RSocket connection: its SETUP, the stream that it carries, and how both end.

A stream is an ordinary request to the edge, a POST with the token of the SETUP: every check, limit and log
of HTTP holds, and what the handler writes is only framed differently. A document of the answer is a payload
of the stream, and is written when the device has asked for it (REQUEST_N); until then the handler waits.

An error ends a stream or the connection as ERROR with ``code: message``, and with what the SDKs look for:
``PSYNC_S21`` where a new token is needed, ``PSYNC_`` where the one that they have is still good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

import msgspec

from lowtide.api.limits import Load
from lowtide.api.logs import ERRORS
from lowtide.api.rsocket import frames
from lowtide.api.rsocket.frames import Ask, Cancel, Failure, Frame, Keepalive, Other, Payload, RequestN, Setup
from lowtide.api.wire import SessionTimes
from lowtide.kernel.codec import decode_as, decode_bson
from lowtide.kernel.errors import Busy, LowtideError, Malformed, NotFound, TokenExpired, TooLarge
from lowtide.kernel.http import KIB, MIB

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Callable[[], Awaitable[Scope]], Callable[[Scope], Awaitable[None]]], Awaitable[None]]

JSON, BSON = "application/json", "application/bson"
BSON_LINES = b"application/vnd.powersync.bson-stream"

MAX_SETUP = 16 * KIB
"""Bytes of the SETUP: nobody is known before it."""
MAX_REQUEST = 4 * MIB + 64 * KIB
"""Bytes of one request, in one frame or in fragments."""
MAX_REFUSED = 32
"""Requests that one connection may be refused before it is closed."""
BATCH_BYTES = 64 * KIB
"""What is written before looking again whether the connection has room."""

NEW_TOKEN, SAME_TOKEN = "PSYNC_S21", "PSYNC_"
"""What the SDKs search an error's text for."""


class Line(Protocol):
    """The connection below: where frames go."""

    def send(self, parts: list[bytes]) -> None:
        """Write frames, one message each."""

    async def room(self) -> None:
        """Return when the other side has taken most of what was written."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye; a repeat does nothing."""


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
    user_agent: str = ""


class Where(msgspec.Struct, frozen=True):
    """A request's metadata."""

    path: str


class _Stream:
    """The stream of a connection: its request while it comes, and its credits."""

    __slots__ = ("credits", "data", "gone", "hungry", "id", "metadata", "rest", "status", "task", "waiter")

    def __init__(self, id: int, credits: int):
        self.id = id
        self.credits = credits
        self.metadata = bytearray()
        self.data = bytearray()
        self.rest = b""
        """The beginning of a document whose end was not written yet."""
        self.status = 0
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.gone = asyncio.Event()
        self.hungry: float | None = None
        """Since when it waits for credits."""


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
        self._setup: Setup | None = None
        self._authorization = b""
        self._expires: int | None = None
        self._stream: _Stream | None = None
        self._refused = 0
        self._received = 0
        self._since = self._heard = now
        self._draining = self._over = False

    # -- what the client says ---------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Bytes of a request whose end has not come."""
        stream = self._stream
        return 0 if stream is None else len(stream.metadata) + len(stream.data)

    def count(self, size: int, now: float) -> None:
        """``size`` bytes have come; the whole frames in them were ``received``."""
        self._heard = now
        self._received += size
        if self._setup is None and self._received > MAX_SETUP and not self._over:
            self.fail(frames.INVALID_SETUP, TooLarge(f"A SETUP is at most {MAX_SETUP} bytes."))

    def received(self, message: bytes, now: float) -> None:
        """Act upon one frame."""
        if self._over:
            return
        if self._setup is None and len(message) > MAX_SETUP:
            self.fail(frames.INVALID_SETUP, TooLarge(f"A SETUP is at most {MAX_SETUP} bytes."))
            return
        try:
            frame = frames.decode(message)
        except Malformed as error:
            self.fail(frames.CONNECTION_ERROR if self._setup else frames.INVALID_SETUP, error)
            return
        if self._setup is None:
            self._begin(frame, now)
            return
        match frame:
            case Keepalive():
                if frame.respond:
                    self._say(Keepalive(False, 0, frame.data))
            case RequestN():
                self._more(frame)
            case Payload():
                self._continue(frame, now)
            case Ask():
                self._ask(frame, now)
            case Cancel() | Failure():
                if self._stream is not None and frame.stream == self._stream.id:
                    self._end(self._stream, now)
                elif isinstance(frame, Failure) and frame.stream == 0:
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
            self._expires = self._door.greet(self._request("", 0))
        except LowtideError as error:
            self.fail(frames.REJECTED_SETUP, error)
            return
        self._setup = frame
        self._wait_again(now)

    def _more(self, frame: RequestN) -> None:
        stream = self._stream
        if stream is None or frame.stream != stream.id:
            return
        if frame.count <= 0:
            self._stop(stream, frames.INVALID, Malformed("REQUEST_N asks for one or more."))
            return
        stream.credits = min(stream.credits + frame.count, frames.MAX_CREDITS)
        if stream.waiter is not None and not stream.waiter.done():
            stream.waiter.set_result(None)

    def _ask(self, frame: Ask, now: float) -> None:
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
        stream = self._stream = _Stream(frame.stream, frame.initial or 0)
        self._gather(stream, frame, now)

    def _continue(self, frame: Payload, now: float) -> None:
        stream = self._stream
        if stream is not None and frame.stream == stream.id and stream.task is None:
            self._gather(stream, frame, now)

    def _gather(self, stream: _Stream, frame: Ask | Payload, now: float) -> None:
        size = len(frame.metadata or b"") + len(frame.data)
        try:
            if len(stream.metadata) + len(stream.data) + size > MAX_REQUEST:
                raise TooLarge(f"A request is at most {MAX_REQUEST} bytes.", limit=MAX_REQUEST)
            stream.metadata += frame.metadata or b""
            stream.data += frame.data
            if frame.follows and not frame.complete:
                return
            self._start(stream)
        except LowtideError as error:
            self._end(stream, now)
            self._refuse(stream.id, frames.INVALID if error.status < 500 else frames.REJECTED, error)

    def _start(self, stream: _Stream) -> None:
        setup = self._setup
        assert setup is not None  # noqa: S101 - nothing is asked before the SETUP
        path = _read(Where, bytes(stream.metadata), setup.metadata_type).path
        if path not in self._paths:
            raise NotFound("No stream is served at this path.")
        body = bytes(stream.data)
        if setup.data_type == BSON:
            body = msgspec.json.encode(decode_bson(body, max_bytes=MAX_REQUEST))
        stream.metadata, stream.data = bytearray(), bytearray()
        stream.task = asyncio.create_task(self._run(stream, self._request(path, len(body)), body))

    def _other(self, frame: Other) -> None:
        if frame.type == frames.RESUME:
            self.fail(frames.REJECTED_RESUME, Malformed("This server does not resume connections."))
        elif frame.type in (frames.LEASE, frames.METADATA_PUSH, frames.SETUP, frames.KEEPALIVE):
            pass  # says nothing to a server that asks for nothing
        elif not frame.ignorable:
            self.fail(
                frames.CONNECTION_ERROR, Malformed(f"RSocket frames of type {frame.type} are not known.")
            )

    # -- what the server answers ------------------------------------------------------------------

    def _request(self, path: str, size: int) -> Scope:
        own = {"authorization", "content-type", "content-length", "accept"}
        headers = [pair for pair in self._scope["headers"] if pair[0].decode("latin-1") not in own]
        headers += [
            (b"authorization", self._authorization),
            (b"content-type", JSON.encode()),
            (b"content-length", b"%d" % size),
            (b"accept", BSON_LINES),
        ]
        path = path or self._scope["path"]
        asked = {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        return {**self._scope, **asked, "method": "POST"}

    async def _run(self, stream: _Stream, scope: Scope, body: bytes) -> None:
        told = False
        failed = bytearray()

        async def receive() -> Scope:
            nonlocal told
            if not told:
                told = True
                return {"type": "http.request", "body": body, "more_body": False}
            await stream.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Scope) -> None:
            if message["type"] == "http.response.start":
                stream.status = message["status"]
                return
            part = message.get("body", b"")
            if stream.status != 200:
                failed.extend(part)
            elif part:
                await self._emit(stream, part)
            if not message.get("more_body", False):
                self._finish(stream, bytes(failed))

        try:
            await self._app(scope, receive, send)
        except Exception as error:
            # Nobody awaits this task: what is not said here is never said.
            ERRORS.error("unexpected error", exc_info=error)
        finally:
            if self._stream is stream:
                # The edge has cut it: what was sent is not whole, and the client is to come back.
                self._say(
                    Failure(stream.id, frames.CANCELED, _text("unavailable", "The stream was cut.", 503))
                )
                self._end(stream, asyncio.get_running_loop().time())

    async def _emit(self, stream: _Stream, part: bytes) -> None:
        """Write the documents in ``part``, each when it is asked for."""
        if stream.gone.is_set():
            await asyncio.sleep(0)  # whoever waits for the client to leave comes next
            return
        data = stream.rest + part if stream.rest else part
        at = 0
        ready: list[bytes] = []
        size = 0
        while at + 4 <= len(data):
            end = at + int.from_bytes(data[at : at + 4], "little")
            if end > len(data):
                break
            if stream.credits == 0 or size > BATCH_BYTES:
                self._line.send(ready)
                ready, size = [], 0
                await self._line.room()
                while stream.credits == 0:
                    await self._credit(stream)
            stream.credits -= 1
            ready += frames.item(stream.id, data[at:end])
            size += end - at
            at = end
        stream.rest = data[at:]
        self._line.send(ready)
        await self._line.room()

    async def _credit(self, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        stream.hungry = loop.time()
        stream.waiter = loop.create_future()
        try:
            await stream.waiter
        finally:
            stream.waiter = stream.hungry = None

    def _finish(self, stream: _Stream, failed: bytes) -> None:
        if self._stream is not stream:
            return
        if stream.status == 200 and self._door.passed(self._expires):
            # Upon a completion the SDK forgets the lines that it has not read, which say the same.
            error = TokenExpired()
            self._say(Failure(stream.id, frames.CANCELED, _text(error.code, error.message, error.status)))
        elif stream.status == 200:
            self._say(Payload(stream=stream.id, complete=True))
        else:
            code, text = _problem(failed, stream.status)
            self._say(Failure(stream.id, code, text))
        self._end(stream, asyncio.get_running_loop().time())

    # -- ends -------------------------------------------------------------------------------------

    def _end(self, stream: _Stream, now: float) -> None:
        """``stream`` is over for the client; what runs for it is told, as if a client of HTTP had left."""
        self._stream = None
        stream.gone.set()
        self._wait_again(now)
        if self._draining:
            self.close(1012, f"{SAME_TOKEN} the server is stopping")

    def _stop(self, stream: _Stream, code: int, error: LowtideError) -> None:
        self._end(stream, asyncio.get_running_loop().time())
        self._refuse(stream.id, code, error)

    def _refuse(self, stream: int, code: int, error: LowtideError) -> None:
        self._refused += 1
        if self._refused > MAX_REFUSED:
            self.fail(frames.CONNECTION_ERROR, Busy("Too many requests were refused on this connection."))
            return
        self._say(Failure(stream, code, _text(error.code, error.message, error.status)))

    def fail(self, code: int, error: LowtideError) -> None:
        """End the connection, saying why."""
        text = _text(error.code, error.message, error.status)
        self._say(Failure(0, code, text))
        self.close(1008, text)

    def close(self, code: int, reason: str) -> None:
        """End the connection, and what runs on it."""
        self._line.close(code, reason)
        self.lost()

    def lost(self) -> None:
        """The connection is gone. A repeat does nothing."""
        if not self._over:
            self._over = True
            if self._stream is not None:
                self._end(self._stream, 0.0)

    def drain(self) -> None:
        """The server is stopping: end with the stream, or now when there is none."""
        self._draining = True
        if self._stream is None:
            self.close(1012, f"{SAME_TOKEN} the server is stopping")

    def check(self, now: float) -> None:
        """End a connection that has been silent for too long."""
        times, stream = self._times, self._stream
        if self._setup is None:
            if now - self._since > times.setup:
                self.close(1008, f"{SAME_TOKEN} no SETUP came in time")
            return
        if stream is None or stream.task is None:
            limits = self._door.load.limits
            allowed = min(times.request + self._received / limits.body_rate, limits.body_time)
            if now - self._since > allowed:
                self.close(1008, f"{SAME_TOKEN} no request came in time")
        elif now - self._heard > min(self._setup.lifetime / 1000, times.lifetime):
            self.close(1008, f"{SAME_TOKEN} no sign of life came in time")
        elif stream.hungry is not None and now - stream.hungry > times.starved:
            self.close(1008, f"{SAME_TOKEN} nothing was asked for in time")

    def _wait_again(self, now: float) -> None:
        self._since, self._received = now, 0

    def _say(self, frame: Frame) -> None:
        if not self._over:
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


def _problem(body: bytes, status: int) -> tuple[int, str]:
    """What the edge answered, as an ERROR of the stream: its code and its text."""
    said = msgspec.json.decode(body) if body else {}
    text = _text(said.get("code", "internal"), said.get("detail") or said.get("title", ""), status)
    if status in (401, 403, 404, 421, 426, 429, 503):
        return frames.REJECTED, text
    return (frames.INVALID if status < 500 else frames.APPLICATION_ERROR), text


def _text(code: str, message: str, status: int) -> str:
    return f"{code}: {message} [{NEW_TOKEN if status == 401 else SAME_TOKEN}]"
