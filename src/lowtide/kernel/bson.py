"""BSON in and out: the part of it that JSON needs. https://bsonspec.org/spec.html, version 1.1."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from lowtide.kernel.errors import Malformed, TooLarge

_DEPTH = 32
"""Nested documents and lists, as in ``decode_json``."""

_I32 = struct.Struct("<i").pack
_I64 = struct.Struct("<q").pack
_F64 = struct.Struct("<d").pack
_read_i32 = struct.Struct("<i").unpack_from
_read_i64 = struct.Struct("<q").unpack_from
_read_f64 = struct.Struct("<d").unpack_from


def encode_bson(document: dict[str, Any]) -> bytes:
    """``document`` as BSON: JSON values and bytes. An integer takes 32 bits where it fits, else 64.

    ``ValueError`` for what BSON cannot say: an integer beyond 64 bits, U+0000 in a name, a lone
    surrogate; ``TypeError`` for other types. About 1 us a value.
    """
    parts: list[bytes] = []
    for name, value in document.items():
        key = name.encode()
        if b"\0" in key:
            raise ValueError(f"a BSON name cannot hold U+0000: {name!r}")
        parts.append(_element(key, value))
    content = b"".join(parts)
    return _I32(len(content) + 5) + content + b"\0"


def _element(key: bytes, value: Any) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return b"\x02%b\0%b%b\0" % (key, _I32(len(text) + 1), text)
    if value is None:
        return b"\x0a%b\0" % key
    if isinstance(value, bool):
        return b"\x08%b\0%b" % (key, b"\1" if value else b"\0")
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"\x10%b\0%b" % (key, _I32(value))
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"an integer does not fit 64 bits: {value}")
        return b"\x12%b\0%b" % (key, _I64(value))
    if isinstance(value, float):
        return b"\x01%b\0%b" % (key, _F64(value))
    if isinstance(value, dict):
        return b"\x03%b\0%b" % (key, encode_bson(value))
    if isinstance(value, list | tuple):
        content = b"".join([_element(b"%d" % at, inner) for at, inner in enumerate(value)])
        return b"\x04%b\0%b%b\0" % (key, _I32(len(content) + 5), content)
    if isinstance(value, bytes):
        return b"\x05%b\0%b\0%b" % (key, _I32(len(value)), value)
    raise TypeError(f"BSON has no place here for a {type(value).__name__}")


EntryTuple = tuple[str, str, str, str, int, str | None]
"""op_id, op, object_type, object_id, checksum, data."""

_ENTRY = struct.Struct("<i7si").pack
_CHECKSUM_32 = struct.Struct("<11si").pack
_CHECKSUM_64 = struct.Struct("<11sq").pack
_KEYS = tuple(b"\x03%d\0" % at for at in range(1024))
_SIZES = tuple(_I32(length + 1) for length in range(256))


def encode_data_line_bson(bucket: str, entries: Sequence[EntryTuple]) -> bytes:
    """The sync line that carries ``entries`` of ``bucket``, byte for byte what ``encode_bson`` makes of
    ``{"data": {"bucket": ..., "data": [{"op_id": ..., ...}]}}``, six times as fast.

    A checksum must fit 64 bits (``struct.error``). About 1.2 us an entry.
    """
    parts: list[bytes] = []
    middles: dict[tuple[str, str], bytes] = {}
    for at, (op_id, op, object_type, object_id, checksum, data) in enumerate(entries):
        # op and object_type repeat through a line, so the bytes between the two ids are made once.
        middle = middles.get((op, object_type))
        if middle is None:
            middle = b"\0" + _element(b"op", op) + _element(b"object_type", object_type) + b"\x02object_id\0"
            middles[op, object_type] = middle
        op_bytes, id_bytes = op_id.encode(), object_id.encode()
        if -0x80000000 <= checksum < 0x80000000:
            check = _CHECKSUM_32(b"\0\x10checksum\0", checksum)
        else:
            check = _CHECKSUM_64(b"\0\x12checksum\0", checksum)
        row = b"\x0adata\0" if data is None else _element(b"data", data)
        op_size, id_size = len(op_bytes), len(id_bytes)
        parts += (
            _KEYS[at] if at < 1024 else b"\x03%d\0" % at,
            _ENTRY(20 + op_size + len(middle) + id_size + len(check) + len(row), b"\x02op_id\0", op_size + 1),
            op_bytes,
            middle,
            _SIZES[id_size] if id_size < 256 else _I32(id_size + 1),
            id_bytes,
            check,
            row,
            b"\0",
        )
    content = b"".join(parts)
    name = _element(b"bucket", bucket)
    inner = len(name) + len(content) + 16
    return b"".join(
        (
            _I32(inner + 11),
            b"\x03data\0",
            _I32(inner),
            name,
            b"\x04data\0",
            _I32(len(content) + 5),
            content,
            b"\0\0\0",
        )
    )


def decode_bson(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """The document in ``data``: JSON values and bytes.

    Raises ``TooLarge`` beyond ``max_bytes``; ``Malformed`` with the ``offset`` for whatever is not
    one whole document of the types that ``encode_bson`` writes, with the same limits on its values as
    ``decode_json``. Of two equal names the last counts. About 1 us a value.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"The document is larger than {max_bytes} bytes.", limit=max_bytes)
    try:
        document: dict[str, Any]
        document, end = _read_document(data, 0, len(data), _DEPTH, array=False)
    except struct.error:
        raise Malformed(f"The BSON document ends too early, at byte {len(data)}.", offset=len(data)) from None
    if end != len(data):
        raise _broken("there is something behind the document", end)
    return document


def _read_document(data: bytes, start: int, limit: int, depth: int, *, array: bool) -> tuple[Any, int]:
    """The document or array at ``start``, which must end by ``limit``, and where it ends."""
    if depth == 0:
        raise _broken("lists and documents are nested too deeply", start)
    end = start + _read_i32(data, start)[0] - 1
    if not start + 4 <= end < limit or data[end]:
        raise _broken("a document's length is wrong", start)
    value: Any
    found: dict[str, Any] = {}
    items: list[Any] = []
    at = start + 4
    while at < end:
        kind = data[at]
        key_end = data.find(b"\0", at + 1, end)
        if key_end < 0:
            raise _broken("a name does not end", at + 1)
        name = _read_text(data, at + 1, key_end)
        at = key_end + 1
        if kind == 0x02:
            size = _read_i32(data, at)[0]
            after = at + 4 + size
            if size < 1 or after > end or data[after - 1]:
                raise _broken("a text's length is wrong", at)
            value = _read_text(data, at + 4, after - 1)
        elif kind == 0x10:
            value, after = _read_i32(data, at)[0], at + 4
        elif kind == 0x12:
            value, after = _read_i64(data, at)[0], at + 8
        elif kind == 0x01:
            value, after = _read_f64(data, at)[0], at + 8
            if not math.isfinite(value):
                raise _broken("a number is not finite", at)
        elif kind == 0x08:
            if at >= end or data[at] > 1:
                raise _broken("a boolean is neither 0 nor 1", at)
            value, after = data[at] == 1, at + 1
        elif kind == 0x0A:
            value, after = None, at
        elif kind in (0x03, 0x04):
            value, after = _read_document(data, at, end, depth - 1, array=kind == 0x04)
        elif kind == 0x05:
            size = _read_i32(data, at)[0]
            after = at + 5 + size
            if size < 0 or after > end or data[at + 4]:
                raise _broken("a binary's length or subtype is wrong", at)
            value = data[at + 5 : after]
        else:
            raise _broken(f"the type 0x{kind:02x} is not supported", at - 2 - len(name))
        if after > end:
            raise _broken("a value runs past its document", at)
        if array:
            items.append(value)
        else:
            found[name] = value
        at = after
    return (items if array else found), end + 1


def _read_text(data: bytes, start: int, end: int) -> str:
    raw = data[start:end]
    if b"\0" in raw:
        raise _broken("a text holds the character U+0000", start)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _broken("a text is not UTF-8", start + error.start) from None


def _broken(problem: str, offset: int) -> Malformed:
    return Malformed(f"The BSON document cannot be read: {problem}, at byte {offset}.", offset=offset)
