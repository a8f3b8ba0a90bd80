"""Reading a request's body: never more than its route allows, never slower than its time.

What is refused is refused before it is read where the headers tell, and otherwise at the byte that is
one too many, compressed or not. Decompression runs a bounded step at a time and lets others run in
between.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from lowtide.api.limits import LAST, Deadline, Load
from lowtide.kernel.errors import BadRequest, Malformed, RequestTimeout, TooLarge, UnsupportedMedia
from lowtide.kernel.http import KIB
from lowtide.kernel.zstd import library

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

STEP = 256 * KIB
"""Bytes that one step of decompression yields at most: under a millisecond."""
WINDOW_LOG = 23
"""zstd windows up to 8 MiB (RFC 9659): a frame's header must not make us reserve more."""


class Gone(Exception):
    """The client left before its request was complete."""


class Inflater(Protocol):
    """Decompresses one gzip member or one zstd frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Gzip:
    """zlib with the face of zstd: input that does not fit the output yet is kept inside."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _zstd() -> Inflater:
    zstd = library()
    options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options)  # type: ignore[no-any-return]


INFLATERS: Mapping[bytes, Callable[[], Inflater]] = {b"gzip": Gzip, b"x-gzip": Gzip, b"zstd": _zstd}


def check_head(
    length: bytes | None, kind: bytes | None, encoding: bytes | None, consumes: frozenset[str], most: int
) -> Callable[[], Inflater] | None:
    """What the headers tell about a body; returns how to decompress it, None for as it is.

    Raises ``TooLarge`` when Content-Length is beyond ``most``, ``UnsupportedMedia`` for a type that
    the route does not read or an encoding that nobody does.
    """
    if length is not None and not length.isdigit():
        raise BadRequest("The Content-Length cannot be read.")
    if length is not None and (len(length) > 15 or int(length) > most):
        raise TooLarge(f"The body is larger than {most} bytes.", limit=most)
    if "*/*" not in consumes:
        media = (kind or b"").split(b";", 1)[0].strip().lower().decode("latin-1")
        if media not in consumes:
            raise UnsupportedMedia(
                f"This address reads {' or '.join(sorted(consumes))}.", accepted=sorted(consumes)
            )
    if encoding is None or (coding := encoding.strip().lower()) in (b"identity", b""):
        return None
    inflater = INFLATERS.get(coding)
    if inflater is None:
        raise UnsupportedMedia("A body may be encoded as gzip or zstd.", accepted=["gzip", "zstd"])
    return inflater


class Body:
    """One body on its way in. ``bytes`` holds it after ``read``; ``release`` gives its room back."""

    __slots__ = ("_inflate", "_load", "_most", "_parts", "_rank", "bytes", "size", "wire")

    def __init__(self, load: Load, most: int, inflater: Callable[[], Inflater] | None, rank: int = LAST):
        """``rank``: how much of the room for bodies it may use up (``Load``)."""
        self._load = load
        self._rank = rank
        self._most = most
        self._inflate = inflater() if inflater is not None else None
        self._parts: list[bytes] = []
        self.bytes = b""
        self.size = 0
        """Bytes after decompression."""
        self.wire = 0
        """Bytes as they came."""

    async def read(self, receive: Receive, deadline: Deadline) -> None:
        """Read to the end, moving ``deadline`` along with what arrives.

        Raises ``TooLarge``, ``RequestTimeout`` (slower than the limits allow), ``Malformed`` (not what its
        Content-Encoding says), ``Busy`` (no room for bodies) and ``Gone``.
        """
        limits = self._load.limits
        started = deadline.due - limits.body_start
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Gone
                more = message.get("more_body", False)
                part = message.get("body", b"")
                self.wire += len(part)
                if self.wire > self._most:
                    raise TooLarge(f"The body is larger than {self._most} bytes.", limit=self._most)
                if more:
                    allowed = min(limits.body_start + self.wire / limits.body_rate, limits.body_time)
                    deadline.due = started + allowed
                if self._inflate is None:
                    self._keep(part)
                elif part:
                    await self._expand(self._inflate, part)
        except asyncio.CancelledError:
            if not deadline.passed:
                raise
            deadline.task.uncancel()
            raise RequestTimeout(received=self.wire) from None
        if self._inflate is not None and not self._inflate.eof:
            raise Malformed("The compressed body ends too early.")
        self.bytes = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()

    def _keep(self, part: bytes) -> None:
        if self.size + len(part) > self._most:
            raise TooLarge(f"The decompressed body is larger than {self._most} bytes.", limit=self._most)
        self._load.buffer(len(part), self._rank)
        self.size += len(part)
        if part:
            self._parts.append(part)

    async def _expand(self, inflate: Inflater, part: bytes) -> None:
        # One member or frame is all we take: thousands of empty ones cost much and say nothing.
        ended = inflate.eof
        while not inflate.eof:
            try:
                out = inflate.decompress(part, STEP)
            except (zlib.error, library().ZstdError) as error:
                raise Malformed("The body is not what its Content-Encoding says.") from error
            self._keep(out)
            if len(out) < STEP:
                break
            part = b""
            await asyncio.sleep(0)
        if ended or inflate.unused_data:
            raise Malformed("Something follows the compressed body.")

    def release(self) -> None:
        """The body is not needed any more."""
        self._load.release(self.size)
        self.size = 0
