"""From the bytes of a download to its lines, as the SDKs do it: JSON lines or BSON documents."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from backports import zstd


class Frames:
    """Takes bytes as a network hands them over, cut anywhere; gives whole lines."""

    def __init__(self, media_type: str, encoding: str = ""):
        """``media_type`` and ``encoding`` as in the headers Content-Type and Content-Encoding."""
        self._bson = media_type.startswith("application/vnd.powersync.bson-stream")
        self._inflate: Callable[[bytes], bytes]
        if encoding == "gzip":
            self._inflate = zlib.decompressobj(wbits=31).decompress
        elif encoding == "zstd":
            self._inflate = _Zstd().decompress
        elif not encoding:
            self._inflate = bytes
        else:
            raise ValueError(f"no client asked for {encoding!r}")
        self._buffer = b""

    def feed(self, data: bytes) -> list[str | bytes]:
        """The lines that ``data`` completes."""
        self._buffer += self._inflate(data)
        return self._documents() if self._bson else self._lines()

    def rest(self) -> str | bytes | None:
        """What is left when a stream ends inside a line; the SDKs hand a text on as if it were whole."""
        rest, self._buffer = self._buffer.strip(), b""
        if not rest or self._bson:
            return None
        return rest.decode("utf-8", "replace")

    def _lines(self) -> list[str | bytes]:
        *lines, self._buffer = self._buffer.split(b"\n")
        return [line.decode() for line in lines if line.strip()]

    def _documents(self) -> list[str | bytes]:
        documents: list[str | bytes] = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "little")
            if len(self._buffer) < size:
                break
            documents.append(self._buffer[:size])
            self._buffer = self._buffer[size:]
        return documents


class _Zstd:
    """Frames one after the other, as RFC 8878 section 3 allows."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()

    def decompress(self, data: bytes) -> bytes:
        out = b""
        while data:
            out += self._frame.decompress(data)
            data = b""
            if self._frame.eof:
                data = self._frame.unused_data
                self._frame = zstd.ZstdDecompressor()
        return out
