"""RSocket frames: bytes to values and back. No I/O, no state.

Written from the RSocket protocol, version 1.0 (https://rsocket.io/about/protocol). Over WebSocket a frame is
one binary message, so the length prefix that other transports need is not there. What the server never
acts upon (LEASE, RESUME and their like) is kept as ``Other``.
"""

from __future__ import annotations

import struct

import msgspec

from lowtide.kernel.errors import Malformed

SETUP, LEASE, KEEPALIVE = 0x01, 0x02, 0x03
REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL = 0x04, 0x05, 0x06, 0x07
REQUEST_N, CANCEL, PAYLOAD, ERROR, METADATA_PUSH = 0x08, 0x09, 0x0A, 0x0B, 0x0C
RESUME = 0x0D

IGNORE, METADATA = 0x200, 0x100
FOLLOWS = RESPOND = RESUMABLE = 0x80
COMPLETE = LEASED = 0x40
NEXT = 0x20

INVALID_SETUP, UNSUPPORTED_SETUP, REJECTED_SETUP, REJECTED_RESUME = 0x001, 0x002, 0x003, 0x004
CONNECTION_ERROR = 0x101
APPLICATION_ERROR, REJECTED, CANCELED, INVALID = 0x201, 0x202, 0x203, 0x204

MAX_FRAME = 64 * 1024
"""Bytes of one frame that we send: what is larger goes in fragments. The SDK gives a connection up when
no whole message comes for 30 seconds; so a line of 1 MiB still arrives at 3 KiB/s."""
MAX_CREDITS = 0x7FFFFFFF
"""What 31 bits can ask for: more is as good as no bound."""

_HEADER = struct.Struct(">IH")
_SETUP = struct.Struct(">HHII")
_REQUEST = struct.Struct(">i")
_ERROR = struct.Struct(">I")
_POSITION = struct.Struct(">Q")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame of a client: how it will speak, and who it is."""

    major: int = 1
    minor: int = 0
    keepalive: int
    """Milliseconds between the client's signs of life."""
    lifetime: int
    """Milliseconds without one of ours after which the client takes us for dead."""
    resume: bytes | None = None
    """The token by which the client would resume; None: it does not want to."""
    lease: bool = False
    metadata_type: str
    data_type: str
    metadata: bytes | None = None
    data: bytes = b""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request of one of the four kinds."""

    kind: int
    stream: int
    initial: int | None = None
    """How many payloads may come; None for the kinds that have no flow control."""
    follows: bool = False
    complete: bool = False
    metadata: bytes | None = None
    data: bytes = b""


class RequestN(msgspec.Struct, frozen=True):
    """``count`` more payloads may come."""

    stream: int
    count: int


class Cancel(msgspec.Struct, frozen=True):
    """The requester wants no more."""

    stream: int


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a stream, or a part of one, or of a request."""

    stream: int
    follows: bool = False
    complete: bool = False
    next: bool = False
    metadata: bytes | None = None
    data: bytes = b""


class Failure(msgspec.Struct, frozen=True):
    """ERROR: the end of a stream, or with stream 0 of the connection."""

    stream: int
    code: int
    message: str


class Keepalive(msgspec.Struct, frozen=True):
    """A sign of life."""

    respond: bool
    position: int = 0
    data: bytes = b""


class Other(msgspec.Struct, frozen=True):
    """A frame that is not acted upon: ``ignorable`` says whether its sender can live with that."""

    type: int
    stream: int
    flags: int
    body: bytes

    @property
    def ignorable(self) -> bool:
        """May it be passed by?"""
        return bool(self.flags & IGNORE)


Frame = Setup | Ask | RequestN | Cancel | Payload | Failure | Keepalive | Other


def decode(data: bytes) -> Frame:
    """The frame in ``data``, all of it. Raises ``Malformed``, and nothing else. Costs about 2 µs."""
    try:
        return _decode(data)
    except struct.error:
        raise Malformed("An RSocket frame ends too early.") from None
    except UnicodeDecodeError:
        raise Malformed("A text of an RSocket frame cannot be read.") from None


def _decode(data: bytes) -> Frame:
    stream, head = _HEADER.unpack_from(data)
    if stream > MAX_CREDITS:
        raise Malformed("An RSocket stream id has 31 bits.")
    kind, flags = head >> 10, head & 0x3FF
    if kind == SETUP and stream == 0:
        return _setup(data, flags)
    if kind in (REQUEST_STREAM, REQUEST_CHANNEL):
        (initial,) = _REQUEST.unpack_from(data, 6)
        return _ask(kind, stream, flags, initial, data, 10)
    if kind in (REQUEST_RESPONSE, REQUEST_FNF):
        return _ask(kind, stream, flags, None, data, 6)
    if kind == REQUEST_N:
        return RequestN(stream, _REQUEST.unpack_from(data, 6)[0])
    if kind == CANCEL:
        return Cancel(stream)
    if kind == PAYLOAD:
        metadata, rest = _split(data, 6, flags)
        return Payload(
            stream=stream,
            follows=bool(flags & FOLLOWS),
            complete=bool(flags & COMPLETE),
            next=bool(flags & NEXT),
            metadata=metadata,
            data=rest,
        )
    if kind == ERROR:
        return Failure(stream, _ERROR.unpack_from(data, 6)[0], data[10:].decode())
    if kind == KEEPALIVE and stream == 0:
        return Keepalive(bool(flags & RESPOND), _POSITION.unpack_from(data, 6)[0], data[14:])
    return Other(kind, stream, flags, data[6:])


def _setup(data: bytes, flags: int) -> Setup:
    major, minor, keepalive, lifetime = _SETUP.unpack_from(data, 6)
    at = 6 + _SETUP.size
    resume = None
    if flags & RESUMABLE:
        resume, at = _sized(data, at, 2)
    metadata_type, at = _sized(data, at, 1)
    data_type, at = _sized(data, at, 1)
    metadata, rest = _split(data, at, flags)
    return Setup(
        major=major,
        minor=minor,
        keepalive=keepalive,
        lifetime=lifetime,
        resume=resume,
        lease=bool(flags & LEASED),
        metadata_type=metadata_type.decode("ascii"),
        data_type=data_type.decode("ascii"),
        metadata=metadata,
        data=rest,
    )


def _ask(kind: int, stream: int, flags: int, initial: int | None, data: bytes, at: int) -> Ask:
    metadata, rest = _split(data, at, flags)
    return Ask(
        kind=kind,
        stream=stream,
        initial=initial,
        follows=bool(flags & FOLLOWS),
        complete=bool(flags & COMPLETE),
        metadata=metadata,
        data=rest,
    )


def _sized(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    start = at + width
    if start > len(data):
        raise Malformed("An RSocket frame ends too early.")
    end = start + int.from_bytes(data[at:start])
    if end > len(data):
        raise Malformed("A part of an RSocket frame is longer than the frame.")
    return data[start:end], end


def _split(data: bytes, at: int, flags: int) -> tuple[bytes | None, bytes]:
    if not flags & METADATA:
        return None, data[at:]
    metadata, at = _sized(data, at, 3)
    return metadata, data[at:]


def encode(frame: Frame) -> bytes:
    """``frame`` as bytes. ``ValueError`` or ``struct.error`` for what no frame can say."""
    match frame:
        case Setup():
            flags = (RESUMABLE if frame.resume is not None else 0) | (LEASED if frame.lease else 0)
            parts = [_SETUP.pack(frame.major, frame.minor, frame.keepalive, frame.lifetime)]
            if frame.resume is not None:
                parts.append(_size(frame.resume, 2))
            parts += [_size(text.encode("ascii"), 1) for text in (frame.metadata_type, frame.data_type)]
            return _whole(0, SETUP, flags, frame.metadata, frame.data, parts)
        case Ask():
            flags = (FOLLOWS if frame.follows else 0) | (COMPLETE if frame.complete else 0)
            parts = [] if frame.initial is None else [_REQUEST.pack(frame.initial)]
            return _whole(frame.stream, frame.kind, flags, frame.metadata, frame.data, parts)
        case RequestN():
            return _whole(frame.stream, REQUEST_N, 0, None, _REQUEST.pack(frame.count))
        case Cancel():
            return _whole(frame.stream, CANCEL, 0, None, b"")
        case Payload():
            flags = (FOLLOWS if frame.follows else 0) | (COMPLETE if frame.complete else 0)
            flags |= NEXT if frame.next else 0
            return _whole(frame.stream, PAYLOAD, flags, frame.metadata, frame.data)
        case Failure():
            return _whole(frame.stream, ERROR, 0, None, _ERROR.pack(frame.code) + frame.message.encode())
        case Keepalive():
            flags = RESPOND if frame.respond else 0
            return _whole(0, KEEPALIVE, flags, None, _POSITION.pack(frame.position) + frame.data)
        case Other():
            return _HEADER.pack(frame.stream, frame.type << 10 | frame.flags) + frame.body


def item(stream: int, data: bytes) -> list[bytes]:
    """The frames that carry ``data`` as one item of ``stream``: one, or as many fragments as it takes."""
    if len(data) + 6 <= MAX_FRAME:
        return [_HEADER.pack(stream, PAYLOAD << 10 | NEXT) + data]
    size = MAX_FRAME - 6
    last = (len(data) - 1) // size * size
    more = _HEADER.pack(stream, PAYLOAD << 10 | NEXT | FOLLOWS)
    frames = [more + data[at : at + size] for at in range(0, last, size)]
    frames.append(_HEADER.pack(stream, PAYLOAD << 10 | NEXT) + data[last:])
    return frames


def _whole(
    stream: int, kind: int, flags: int, metadata: bytes | None, data: bytes, parts: list[bytes] | None = None
) -> bytes:
    head = [_HEADER.pack(stream, kind << 10 | flags | (0 if metadata is None else METADATA)), *(parts or ())]
    if metadata is not None:
        head.append(_size(metadata, 3))
    return b"".join((*head, data))


def _size(data: bytes, width: int) -> bytes:
    try:
        return len(data).to_bytes(width) + data
    except OverflowError:
        raise ValueError("a part of a frame is too long for it") from None
