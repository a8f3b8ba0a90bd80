"""Sync lines: what the download stream says, in the formats that the SDKs read.

Written from the client side of the protocol: the sync lines that the Apache-2.0 client core accepts.
A line is one JSON object and a newline, or one BSON document.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from lowtide.kernel import zstd
from lowtide.kernel.bson import encode_bson

Format = Literal["json", "bson"]
Coding = Literal["identity", "gzip", "zstd"]

JSON_TYPE = "application/x-ndjson"
BSON_TYPE = "application/vnd.powersync.bson-stream"

_json = msgspec.json.Encoder().encode


class BucketState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bucket as a checkpoint announces it."""

    bucket: str
    checksum: int
    priority: int
    count: int
    subscriptions: list[dict[str, int]] | None = None


class StreamState(msgspec.Struct, frozen=True):
    """A stream as a checkpoint announces it."""

    name: str
    is_default: bool
    errors: list[dict[str, Any]]


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that the device is to hold at one head."""

    last_op_id: str
    buckets: Sequence[BucketState]
    streams: Sequence[StreamState]
    write_checkpoint: str | None = None


class CheckpointDiff(msgspec.Struct, frozen=True, omit_defaults=True):
    """What differs from the checkpoint before."""

    last_op_id: str
    updated_buckets: Sequence[BucketState]
    removed_buckets: Sequence[str]
    write_checkpoint: str | None = None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One operation. ``data`` is JSON text, or the object itself for clients of the first protocol."""

    op_id: str
    op: Literal["PUT", "REMOVE", "MOVE"]
    checksum: int
    object_type: str | None = None
    object_id: str | None = None
    data: str | msgspec.Raw | None = None


class DataLine(msgspec.Struct, frozen=True):
    """Operations of one bucket, in the order of their ids."""

    bucket: str
    after: str
    next_after: str
    has_more: bool
    data: Sequence[Entry]


def line(name: str, value: Any, format: Format) -> bytes:
    """One sync line: ``{name: value}``."""
    if format == "json":
        return b'{"%s":%s}\n' % (name.encode(), _json(value))
    return encode_bson({name: msgspec.to_builtins(value)})


class Coder:
    """One connection's content coding, made of pieces that many connections share.

    Each piece is compressed on its own, so that it can be compressed once for all: gzip joins raw
    deflate pieces that end in a full flush (RFC 1951 section 3.2.4, RFC 1952), zstd joins frames
    (RFC 8878 section 3.1).
    """

    def __init__(self, coding: Coding):
        self.coding = coding
        self._crc = 0
        self._size = 0

    def begin(self) -> bytes:
        """What comes before the first piece."""
        return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff" if self.coding == "gzip" else b""

    def add(self, piece: Piece) -> bytes:
        """``piece`` as it goes over the wire."""
        if self.coding == "gzip":
            self._crc = zlib.crc32(piece.raw, self._crc)
            self._size += len(piece.raw)
        return piece.coded(self.coding)

    def end(self) -> bytes:
        """What comes after the last piece, when the stream ends on purpose."""
        if self.coding != "gzip":
            return b""
        size = self._size & 0xFFFFFFFF
        return b"\x03\x00" + self._crc.to_bytes(4, "little") + size.to_bytes(4, "little")


class Piece:
    """Bytes that are compressed at most once for each coding, however many connections send them."""

    __slots__ = ("_gzip", "_zstd", "raw")

    def __init__(self, raw: bytes):
        self.raw = raw
        self._gzip: bytes | None = None
        self._zstd: bytes | None = None

    def coded(self, coding: Coding) -> bytes:
        """The piece in ``coding``."""
        if coding == "gzip":
            if self._gzip is None:
                isal = _isal()
                packer = isal.compressobj(1, isal.DEFLATED, -15)
                self._gzip = packer.compress(self.raw) + packer.flush(isal.Z_FULL_FLUSH)
            return self._gzip
        if coding == "zstd":
            if self._zstd is None:
                self._zstd = zstd.library().compress(self.raw, 1)
            return self._zstd
        return self.raw

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return len(self.raw) + len(self._gzip or b"") + len(self._zstd or b"")


# Loaded with the first device that asks for them: a quiet server is spared their memory.


@functools.cache
def _isal() -> Any:
    from isal import isal_zlib

    return isal_zlib
