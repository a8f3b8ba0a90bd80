"""The WebSocket below an RSocket connection: an asyncio protocol around the ``websockets`` library.

The library reads frames (RFC 6455) and has its say in the handshake; here are the bounds. What is read and
not yet understood counts as a body does, before the SETUP as one of nobody's and no more than a SETUP may be;
what is inflated is a request, and from there on so much a second; while the client takes nothing of what we
write, nothing is read from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from lowtide.api.limits import FIRST, LAST
from lowtide.api.rsocket.frames import CONNECTION_ERROR, INVALID_SETUP
from lowtide.api.rsocket.packing import OFFER, SHARED_BYTES, Inflate, message, pack
from lowtide.api.rsocket.session import MAX_SETUP, Door, Session
from lowtide.api.rsocket.stream import MAX_REQUEST, Asgi, Scope
from lowtide.api.rsocket.times import SessionTimes
from lowtide.kernel.errors import LowtideError, TooLarge
from lowtide.kernel.http import KIB, MIB

KEPT = (b"host", b"origin", b"x-app-version")
"""Headers of the upgraded request that its streams are asked with."""
SMALL = 16 * KIB
"""Bytes in wait that are not worth counting."""
INFLATED = MIB
"""Bytes a second that a connection may have inflated, besides one request at once."""
REASON = 123
"""Bytes of a closing's reason (RFC 6455 section 5.5)."""


_log = logging.getLogger("websockets.server")
_log.setLevel(logging.ERROR)  # it would have a line for every connection


class Handshake(msgspec.Struct, frozen=True):
    """What was agreed upon."""

    answer: bytes
    inflate: Inflate | None
    """None: nothing is compressed."""


def handshake(url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Handshake | None:
    """What turns a GET into a WebSocket; None when the request is no proper one for that."""
    sent = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
    protocol = ServerProtocol(extensions=[OFFER])
    answer: Response = protocol.accept(Request(url.decode("latin-1"), sent))
    if answer.status_code != 101:
        return None
    agreed = [one for one in protocol.extensions if isinstance(one, PerMessageDeflate)]
    return Handshake(answer.serialize(), Inflate.agreed(agreed[0]) if agreed else None)


class Messages(Protocol):
    """The library's reader, which hands over each frame before it looks at the next.

    So what a frame says about who is there holds for the one behind it, also in the same packet.
    """

    def __init__(self, take: Callable[[Frame], None]):
        super().__init__(SERVER, state=OPEN, max_size=MAX_REQUEST + KIB)
        self._take = take

    def recv_frame(self, frame: Frame) -> None:
        """As the library's."""
        super().recv_frame(frame)
        self.events_received()  # they are taken here
        self._take(frame)


class RSocket(asyncio.Protocol):
    """One connection, from the handshake on. About 15 KiB with its download (``docs/benchmarks.md``)."""

    def __init__(
        self,
        transport: asyncio.Transport,
        state: ServerState,
        app: Asgi,
        door: Door,
        scope: Scope,
        paths: frozenset[str],
        times: SessionTimes,
        stall: float,
        inflate: Inflate | None = None,
    ):
        """``scope``: of the request that was upgraded. ``stall``: seconds to take what we send."""
        self._loop = asyncio.get_running_loop()
        self.transport = transport
        self._state = state
        self._times = times
        self._stall_time = stall
        self._load = door.load
        self._counted = 0
        self._parts = bytearray()
        self._paused = False
        self._room: asyncio.Future[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._protocol = Messages(self._take)
        self._inflate = inflate
        self._deflate = inflate is not None and inflate.compresses
        if inflate is not None:
            self._protocol.extensions = [inflate]
            inflate.budget = MAX_SETUP + KIB
        kept = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] in KEPT]}
        self._now = self._loop.time()
        self._session = Session(self, app, door, kept, paths, times, self._now)
        self._look = self._loop.call_later(times.look, self._check)
        state.connections.add(self)  # type: ignore[arg-type]

    # -- asyncio's calls --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        if self._session.over and not self._session.known and self._session.sent > MAX_SETUP:
            self.transport.abort()  # nobody's, told so, and still sending
            return
        if self._inflate is not None and self._session.known:
            more = int((now - self._now) * INFLATED)
            self._inflate.budget = min(self._inflate.budget + more, MAX_REQUEST + KIB)
        self._now = now
        self._protocol.receive_data(data)
        self._session.count(len(data), now)
        self._account()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        self._stop_stall()
        self._state.connections.discard(self)
        self._load.buffered -= self._counted
        self._counted = 0
        self._session.lost()

    def pause_writing(self) -> None:
        self._paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self._stop_stall()
        self._stall = self._loop.call_later(self._stall_time, self.transport.abort)

    def resume_writing(self) -> None:
        self._paused = False
        self._stop_stall()
        if not self.transport.is_closing():
            self.transport.resume_reading()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- uvicorn's --------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server is stopping."""
        self._session.drain()

    # -- the session's ----------------------------------------------------------------------------

    def send(self, parts: list[bytes]) -> None:
        """Write frames, one message each."""
        self._write(b"".join([message(part, self._deflate) for part in parts]))

    def share(self, stream: int, part: bytes, most: int) -> int:
        """Write all documents of ``part`` if they are at most ``most``: how many; 0: none was written."""
        packed = pack(stream, part, self._deflate) if len(part) <= SHARED_BYTES else None
        if packed is None or packed.count > most:
            return 0
        self._write(packed.wire)
        return packed.count

    async def room(self) -> None:
        """Return when the client has taken most of what was written."""
        while self._paused:
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None

    def close(self, code: int, reason: str) -> None:
        """Say goodbye, and hang up when that is answered, or is not in time."""
        if self._protocol.state is OPEN:
            short = reason.encode()[:REASON].decode(errors="ignore")
            self._protocol.send_close(code, short)
            self._flush()
            self._loop.call_later(self._times.goodbye, self.transport.abort)

    # -- the rest ---------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        if self._session.over:
            return
        if frame.opcode is Opcode.TEXT:
            self._session.close(1003, "RSocket frames are binary")
        elif frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
            if frame.fin and not self._parts:
                self._receive(bytes(frame.data))
                return
            self._parts += frame.data
            if frame.fin:
                message, self._parts = bytes(self._parts), bytearray()
                self._receive(message)
            elif not self._session.known and len(self._parts) > MAX_SETUP:
                self._parts = bytearray()
                self._session.fail(INVALID_SETUP, TooLarge(f"A SETUP is at most {MAX_SETUP} bytes."))

    def _receive(self, message: bytes) -> None:
        known = self._session.known
        self._session.received(message, self._now)
        if self._inflate is not None and self._session.known and not known:
            self._inflate.budget = MAX_REQUEST + KIB

    def _account(self) -> None:
        held = len(self._protocol.reader.buffer) + len(self._parts) + self._session.held
        more = (held if held > SMALL else 0) - self._counted
        if more <= 0:
            self._load.buffered += more
            self._counted += more
            return
        try:
            self._load.buffer(more, LAST if self._session.known else FIRST)
            self._counted += more
        except LowtideError as error:
            self._session.fail(CONNECTION_ERROR, error)

    def _write(self, data: bytes) -> None:
        if data and self._protocol.state is OPEN and not self.transport.is_closing():
            self.transport.write(data)

    def _flush(self) -> None:
        writes = self._protocol.data_to_send()
        if not writes or self.transport.is_closing():
            return
        ended = writes[-1] == b""
        self.transport.writelines(writes)
        if ended:
            self.transport.close()
            # It waits for a client to take what was written: one that takes nothing would keep it for ever.
            self._loop.call_later(self._times.goodbye, self.transport.abort)

    def _check(self) -> None:
        self._look = self._loop.call_later(self._times.look, self._check)
        if not self._paused:  # nothing is read then, and ``stall`` has its own time
            self._session.check(self._loop.time())

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
