"""From RSocket frames to the bytes of WebSocket messages, compressed where that was agreed upon.

A server's messages carry no mask, and each is compressed on its own (RFC 7692, ``no_context_takeover``). So
what a thousand devices are told at a time is framed and compressed once, and a connection keeps no window:
30 KiB and more where it would.
"""

from __future__ import annotations

import functools

import msgspec
from websockets.exceptions import PayloadTooBig
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import BINARY, Frame

from lowtide.api.rsocket import frames
from lowtide.kernel.http import KIB

SHARED_BYTES = 16 * KIB
"""What is larger is framed for each connection: it is a first download's, and theirs come at other times."""
SHARED = 64
WORTH = 256
"""Bytes below which compressing gains nothing."""
WINDOW = 15

OFFER = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Packed(msgspec.Struct, frozen=True):
    """Documents as they go over the wire."""

    count: int
    wire: bytes


class Inflate(PerMessageDeflate):
    """Inflates what a client compressed, within what is left of ``budget``; beyond it ``PayloadTooBig``."""

    budget = 0

    @classmethod
    def agreed(cls, deflate: PerMessageDeflate) -> Inflate:
        """With the parameters of ``deflate``."""
        return cls(
            deflate.remote_no_context_takeover,
            deflate.local_no_context_takeover,
            deflate.remote_max_window_bits,
            deflate.local_max_window_bits,
            {},
        )

    @property
    def compresses(self) -> bool:
        """May we compress? A client that wants a smaller window gets what we send as it is."""
        return self.local_max_window_bits == WINDOW

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """As the library's, which takes a ``max_size`` of 0 for none."""
        if not (frame.rsv1 or self.decode_cont_data):
            return super().decode(frame, max_size=max_size)
        most = self.budget if max_size is None else min(max_size, self.budget)
        if most <= 0:
            raise PayloadTooBig(None, most)
        decoded = super().decode(frame, max_size=most)
        self.budget -= len(decoded.data)
        return decoded


class Deflate(Extension):
    """Compresses a whole message that we send."""

    def encode(self, frame: Frame) -> Frame:
        """``frame``, compressed, with the bit that says so."""
        from isal import isal_zlib

        packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -WINDOW)
        # RFC 7692 section 7.2.1: the empty block that a flush ends with is left out.
        whole: bytes = packer.compress(frame.data) + packer.flush(isal_zlib.Z_SYNC_FLUSH)
        return Frame(frame.opcode, whole[:-4], rsv1=True)


_DEFLATE = (Deflate(),)


def message(frame: bytes, deflate: bool) -> bytes:
    """One message. About 3 µs; compressed 1 µs more for each 300 bytes."""
    extensions = _DEFLATE if deflate and len(frame) >= WORTH else ()
    return bytes(Frame(BINARY, frame).serialize(mask=False, extensions=extensions))


@functools.lru_cache(SHARED)
def pack(stream: int, part: bytes, deflate: bool) -> Packed | None:
    """The messages that carry the documents of ``part``; None when it does not end with one."""
    made = []
    at = 0
    while at < len(part):
        end = at + int.from_bytes(part[at : at + 4], "little")
        if end > len(part) or end < at + 5:
            return None
        made.append(b"".join([message(frame, deflate) for frame in frames.item(stream, part[at:end])]))
        at = end
    return Packed(len(made), b"".join(made))
