"""BSON, with pymongo's implementation as the judge."""

from __future__ import annotations

import math
import struct
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.kernel.bson import EntryTuple, decode_bson, encode_bson, encode_data_line_bson
from lowtide.kernel.errors import Malformed, TooLarge
from tests.kernel.test_codec import LIMIT, documents, same, texts


@given(documents)
@settings(max_examples=80, deadline=None)
def test_bson_is_what_another_implementation_writes_and_reads(document: dict[str, Any]) -> None:
    """Our bytes equal pymongo's, and each reads the other's."""
    encoded = encode_bson(document)
    assert encoded == bson.encode(document)
    assert same(bson.decode(encoded), document)
    assert same(decode_bson(encoded, max_bytes=LIMIT), document)


def test_bson_integers_take_the_smallest_place() -> None:
    """32 bits where they fit, else 64, else ValueError; bytes are a generic binary."""
    edges = [0, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)]
    document = {str(edge): edge for edge in edges} | {"raw": b"\0\xff", "empty": b""}
    assert encode_bson(document) == bson.encode(document)
    assert same(decode_bson(encode_bson(document), max_bytes=LIMIT), document)
    for bad in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="64 bits"):
            encode_bson({"a": bad})
    with pytest.raises(ValueError, match="U\\+0000"):
        encode_bson({"a\0b": 1})
    with pytest.raises(TypeError):
        encode_bson({"a": object()})


entries = st.tuples(
    st.integers(0, 2**63 - 1).map(str),
    st.sampled_from(["PUT", "REMOVE", "MOVE", "CLEAR"]),
    st.sampled_from(["task", "nöte", ""]),
    texts | st.text("x", min_size=250, max_size=300),
    st.integers(-(2**31), 2**32 - 1),
    st.none() | texts | st.text("y", min_size=200, max_size=400),
)


def line(bucket: str, rows: list[EntryTuple]) -> dict[str, Any]:
    names = ("op_id", "op", "object_type", "object_id", "checksum", "data")
    return {"data": {"bucket": bucket, "data": [dict(zip(names, row, strict=True)) for row in rows]}}


@given(texts, st.lists(entries, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_data_line_is_the_same_bytes_as_the_generic_encoder(bucket: str, rows: list[EntryTuple]) -> None:
    """The fast path differs in speed only."""
    assert encode_data_line_bson(bucket, rows) == bson.encode(line(bucket, rows))


def test_a_data_line_may_be_longer_than_the_prepared_keys() -> None:
    """Entry 1024 and later have right keys too, and checksums at the edges of 32 bits their right type."""
    rows: list[EntryTuple] = [
        (str(n), "PUT", "task", f"id{n}", n * 4_000_000 % 2**32, "{}") for n in range(1500)
    ]
    rows += [("1", "PUT", "t", "i", edge, None) for edge in (0, 2**31 - 1, 2**31, 2**32 - 1, -1, -(2**31))]
    assert encode_data_line_bson("b", rows) == bson.encode(line("b", rows))


def framed(content: bytes) -> bytes:
    return struct.pack("<i", len(content) + 5) + content + b"\0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\5\0\0",
        b"\5\0\0\0",
        b"\5\0\0\0\1",
        b"\4\0\0\0",
        b"\6\0\0\0\0",
        b"\5\0\0\0\0\0",
        b"\xff\xff\xff\xff\0",
        b"\xff\xff\xff\x7f\0",
        b"\0\0\0\x80\0",
        framed(b"\x02a\0\0\0\0\0"),  # a text of length 0 has no end
        framed(b"\x02a\0\xff\xff\xff\xff"),
        framed(b"\x02a\0\xff\xff\xff\x7f"),
        framed(b"\x02a\0\2\0\0\0xy"),
        framed(b"\x02a\0\3\0\0\0x\0\0"),  # U+0000 inside
        framed(b"\x02a\0\2\0\0\0\xff\0"),
        framed(b"\x02a\0\4\0\0\0\xed\xa0\x80\0"),
        framed(b"\x02a\0\2\0"),
        framed(b"\x02\xff\0\2\0\0\0x\0"),
        framed(b"\x0aa"),
        framed(b"\x08a\0\2"),
        framed(b"\x08a\0"),
        framed(b"\x10a\0\1\0\0"),
        framed(b"\x12a\0\1\0\0\0"),
        framed(b"\x01a\0" + struct.pack("<d", math.nan)),
        framed(b"\x01a\0" + struct.pack("<d", math.inf)),
        framed(b"\x07a\0" + b"x" * 12),  # ObjectId
        framed(b"\x09a\0" + b"x" * 8),  # datetime
        framed(b"\x13a\0" + b"x" * 16),  # decimal128
        framed(b"\x06a\0"),
        framed(b"\xffa\0"),
        framed(b"\x05a\0\1\0\0\0\4x"),  # UUID subtype
        framed(b"\x05a\0\xff\xff\xff\xff\0"),
        framed(b"\x05a\0\x7f\0\0\0\0x"),
        framed(b"\x03a\0\6\0\0\0\0"),
        framed(b"\x03a\0\5\0\0\0\1"),
        framed(b"\x04a\0\xff\xff\xff\x7f\0"),
    ],
)
def test_broken_bson_is_refused(data: bytes) -> None:
    """Every lie about a length, type or text is Malformed, with an offset inside the data."""
    with pytest.raises(Malformed) as refusal:
        decode_bson(data, max_bytes=LIMIT)
    assert 0 <= refusal.value.details["offset"] <= len(data)


def test_bson_depth_and_size_are_bounded() -> None:
    """max_depth levels are read, one more is not, and a bomb ends before the stack does."""
    document: dict[str, Any] = {}
    for _ in range(31):
        document = {"a": document}
    assert decode_bson(encode_bson(document), max_bytes=LIMIT) == document
    with pytest.raises(Malformed):
        decode_bson(encode_bson({"a": document}), max_bytes=LIMIT)
    with pytest.raises(TooLarge):
        decode_bson(encode_bson(document), max_bytes=20)
    bomb = b"".join(b"%b\x03a\0" % struct.pack("<i", 8 * (100_000 - n)) for n in range(90_000)) + bytes(
        100_000
    )
    with pytest.raises(Malformed):
        decode_bson(bomb, max_bytes=len(bomb))


@given(st.binary(max_size=80) | st.binary(max_size=60).map(framed), documents, st.data())
@settings(max_examples=120, deadline=None)
def test_no_bytes_break_the_bson_reader(noise: bytes, document: dict[str, Any], data: st.DataObject) -> None:
    """Noise, and good documents with one byte changed or cut short, are read or Malformed; never else."""
    good = bytearray(encode_bson(document))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    for body in (noise, bytes(good), cut):
        try:
            found = decode_bson(body, max_bytes=LIMIT)
        except Malformed:
            continue
        assert same(decode_bson(encode_bson(found), max_bytes=LIMIT), found)
