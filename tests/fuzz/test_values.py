"""Parsers of values, given anything: JSON, BSON, bodies, cursors. A documented error, or a value."""

from __future__ import annotations

import asyncio
import gzip
import math
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.api.bodies import INFLATERS, Body, check_head
from lowtide.api.limits import Deadline, Limits, Load
from lowtide.kernel.bson import decode_bson, encode_bson
from lowtide.kernel.codec import canonical_json, decode_as, decode_json
from lowtide.kernel.errors import BadRequest, Busy, Malformed, TooLarge, UnsupportedMedia
from lowtide.sync.pull import PullRequest, _read_cursor, _write_cursor
from lowtide.sync.uploads import SentBatch
from lowtide.sync.view import StreamRequest
from tests.fuzz.bounds import answers, is_linear, thorough

MOST = 4096
integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(texts, values, max_size=5)
nearly = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\\u0000",
        b"\\ud800",
        b"1e999",
        b"NaN",
        b"-0",
        b"9" * 20,
        b"\xff",
    ]
)
"""What JSON is made of, and what it must not hold."""


def spoilt(data: bytes, draw: st.DataObject) -> bytes:
    """``data`` with a few bytes changed, removed or put in."""
    out = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(out)))
        match draw.draw(st.integers(0, 2)):
            case 0:
                out[at : at + 1] = bytes([draw.draw(st.integers(0, 255))])
            case 1:
                del out[at : at + draw.draw(st.integers(1, 8))]
            case _:
                out[at:at] = draw.draw(nearly)
    return bytes(out)


class TestJson:
    @thorough
    @given(st.binary(max_size=60) | st.lists(nearly, max_size=12).map(b"".join))
    def test_any_bytes_are_a_value_or_malformed(self, data: bytes) -> None:
        """What comes out goes through a database: no NUL, no half surrogates, no integer beyond 64 bits."""
        found = answers(lambda: decode_json(data, max_bytes=MOST), Malformed, TooLarge)
        if not isinstance(found, Exception):
            check(found)

    @thorough
    @given(values, st.data())
    def test_a_value_comes_back_and_a_spoilt_one_is_refused_or_another(
        self, value: Any, draw: st.DataObject
    ) -> None:
        """The canonical text of a value is read as that value; a spoilt text raises nothing else."""
        text = canonical_json(value).encode()
        assert canonical_json(decode_json(text, max_bytes=MOST * 16)).encode() == text
        answers(lambda: decode_json(spoilt(text, draw), max_bytes=MOST * 16), Malformed, TooLarge)

    @thorough
    @given(st.sampled_from([SentBatch, StreamRequest, PullRequest]), values, st.data())
    def test_typed_bodies(self, kind: type, value: Any, draw: st.DataObject) -> None:
        """A body is of its type or malformed, whatever stands where something else is expected."""
        fields = msgspec.structs.fields(kind)
        sent = {field.encode_name: value for field in fields if draw.draw(st.booleans())}
        found = answers(
            lambda: decode_as(kind, msgspec.json.encode(sent), max_bytes=MOST * 16), Malformed, TooLarge
        )
        assert isinstance(found, kind | Malformed | TooLarge)

    @pytest.mark.parametrize("text", [b"[", b'{"a":', b"[[]," * 3, b'"\\u0000'])
    def test_depth_costs_no_more_than_its_bytes(self, text: bytes) -> None:
        """Nested without an end, it is refused in steps that do not grow with its square."""
        assert is_linear(lambda n: lambda: decode_json(text * n, max_bytes=2**20), 500)


def check(value: Any) -> None:
    match value:
        case str():
            assert "\0" not in value
            value.encode()
        case bool():
            pass
        case int():
            assert -(2**63) <= value < 2**63
        case float():
            assert math.isfinite(value)
        case list():
            for item in value:
                check(item)
        case dict():
            for name, item in value.items():
                check(name)
                check(item)


class TestBson:
    @thorough
    @given(st.binary(max_size=60))
    def test_any_bytes_are_a_document_or_malformed(self, data: bytes) -> None:
        """Lengths that lie, types that nobody has: malformed."""
        found = answers(lambda: decode_bson(data, max_bytes=MOST), Malformed, TooLarge)
        assert isinstance(found, dict | Malformed)

    @thorough
    @given(documents, st.data())
    def test_a_document_comes_back_and_a_spoilt_one_is_refused_or_another(
        self, document: dict[str, Any], draw: st.DataObject
    ) -> None:
        """What we encode we read; one changed byte raises nothing else."""
        data = encode_bson(document)
        assert decode_bson(data, max_bytes=MOST * 16) == document
        answers(lambda: decode_bson(spoilt(data, draw), max_bytes=MOST * 16), Malformed, TooLarge)


class TestCursors:
    @thorough
    @given(st.text(max_size=60) | st.binary(max_size=40).map(lambda b: b.decode("latin-1")))
    def test_any_text_is_a_cursor_or_malformed(self, text: str) -> None:
        """Only what was given out is read."""
        found = answers(lambda: _read_cursor(text), Malformed)
        assert isinstance(found, dict | Malformed)

    @thorough
    @given(st.dictionaries(texts, integers, max_size=4), st.data())
    def test_a_cursor_comes_back(self, place: dict[str, int], draw: st.DataObject) -> None:
        """What is written is read; what is spoilt is another place or malformed."""
        cursor = _write_cursor(place)
        assert _read_cursor(cursor) == place
        answers(lambda: _read_cursor(spoilt(cursor.encode(), draw).decode("latin-1")), Malformed)


async def read(parts: list[bytes], encoding: bytes | None, most: int) -> bytes:
    """A body as the edge reads it."""
    load = Load(Limits())
    body = Body(load, most, None if encoding is None else INFLATERS[encoding])
    waiting = [*parts]

    async def receive() -> Mapping[str, Any]:
        part = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    task = asyncio.current_task()
    assert task is not None
    try:
        await body.read(receive, Deadline(task, asyncio.get_running_loop().time() + 15))
        return body.bytes
    finally:
        body.release()
        assert load.buffered == 0


class TestBodies:
    @thorough
    @given(
        st.lists(st.binary(max_size=40), max_size=5),
        st.sampled_from([None, b"gzip", b"zstd"]),
        st.binary(max_size=300),
        st.booleans(),
    )
    def test_any_body_is_read_or_refused(
        self, parts: list[bytes], encoding: bytes | None, content: bytes, honest: bool
    ) -> None:
        """Compressed or not, whole or in parts: the content, or malformed; and no room is lost."""
        if honest and encoding == b"gzip":
            data = gzip.compress(content)
            parts = [data[:7], data[7:], *(parts if len(content) % 2 else [])]
        found = answers(lambda: asyncio.run(read(parts, encoding, 2000)), Malformed, TooLarge, Busy)
        if honest and encoding == b"gzip" and not any(parts[2:]):
            assert found == content
        assert isinstance(found, bytes | Malformed | TooLarge)

    @thorough
    @given(st.integers(1, 60), st.integers(0, 9))
    def test_a_bomb_is_refused_at_its_limit(self, megabytes: int, level: int) -> None:
        """However much it would become, no more than the limit is kept."""
        bomb = zlib.compressobj(max(level, 1), wbits=31)
        data = bomb.compress(bytes(megabytes * 1000)) + bomb.flush()
        found = answers(lambda: asyncio.run(read([data], b"gzip", 900)), Malformed, TooLarge)
        assert isinstance(found, TooLarge)

    @thorough
    @given(
        st.none() | st.binary(max_size=12) | st.integers(0, 10**20).map(lambda n: b"%d" % n),
        st.none() | st.binary(max_size=20) | st.just(b"application/json; charset=utf-8"),
        st.none() | st.binary(max_size=12) | st.sampled_from([b"gzip", b"ZSTD ", b"br", b"identity"]),
    )
    def test_any_head_is_understood_or_refused(
        self, length: bytes | None, kind: bytes | None, encoding: bytes | None
    ) -> None:
        """Length, type and encoding in any bytes: a plan, or a documented refusal."""
        answers(
            lambda: check_head(length, kind, encoding, frozenset({"application/json"}), 1000),
            BadRequest,
            TooLarge,
            UnsupportedMedia,
        )
