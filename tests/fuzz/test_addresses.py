"""Parsers of what stands around a body, given anything: paths, queries, headers, entity tags, origins."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.api.contract import matches
from lowtide.api.origins import Hosts, Origins
from lowtide.api.repeats import LEAST_UNKNOWN, read_key
from lowtide.api.table import QueryReader, Table
from lowtide.api.versions import read_versions
from lowtide.kernel.errors import AppTooOld, Malformed, MethodNotAllowed, NotFound, UnknownParameter
from lowtide.kernel.http import Request, Route
from lowtide.records.tags import etag, is_known, wanted_ops
from tests.fuzz.bounds import answers, is_linear, thorough


class Asked(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    ratio: float = 1.0
    deep: bool = False
    tag: list[str] = []
    after: str | None = None


async def nothing(_: Request[None, None]) -> None:
    """Nothing."""


TABLE = Table(
    Route("GET", path, nothing)
    for path in ("/", "/a", "/a/{x}", "/a/{x}/b/{y}", "/a/b/{z}", "/files/{path:rest}", "/{any}/{other}/c")
)
pieces = st.sampled_from(
    ["a", "b", "c", "files", "", ".", "..", "%", "%2F", "%00", "%ff", "%C3%A9", "{x}", "é"]
)
paths = st.text(max_size=30) | st.lists(pieces | st.text(max_size=4), max_size=8).map(
    lambda p: "/" + "/".join(p)
)


class TestPaths:
    @thorough
    @given(paths)
    def test_any_path_is_found_or_not(self, path: str) -> None:
        """No path raises anything else; a parameter holds no control character."""
        found = answers(lambda: TABLE.find("GET", path), NotFound, MethodNotAllowed, Malformed)
        if isinstance(found, tuple):
            assert not any(ord(c) < 32 or ord(c) == 127 for value in found[1].values() for c in value)

    @thorough
    @given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
    def test_a_parameter_comes_through(self, value: str) -> None:
        """Percent-encoded, any printable text is what the handler is told; a slash stays inside it."""
        if value in (".", ".."):
            return
        served, params = TABLE.find("GET", f"/a/{quote(value, safe='')}")
        assert (served.route.path, params) == ("/a/{x}", {"x": value})

    @pytest.mark.parametrize("segment", ["/a", "/a/b", "/%41", "//"])
    def test_a_long_path_costs_its_length(self, segment: str) -> None:
        """Steps grow with the path, not with its square."""
        assert is_linear(lambda n: lambda: TABLE.find("GET", segment * n), 300)


class TestQueries:
    @thorough
    @given(
        st.binary(max_size=60)
        | st.lists(
            st.tuples(
                st.sampled_from(["limit", "ratio", "deep", "tag", "after", "other", ""]),
                st.sampled_from(
                    ["", "1", "0", "x", "1e999", "nan", "true", "9" * 30, "%00", "%ff", "+", "%"]
                ),
            ),
            max_size=6,
        ).map(lambda pairs: "&".join(f"{n}={v}" for n, v in pairs).encode())
    )
    def test_any_query_is_read_or_refused(self, raw: bytes) -> None:
        """A value of the type, malformed, or an unknown name."""
        found = answers(lambda: QueryReader(Asked).read(raw), Malformed, UnknownParameter)
        if isinstance(found, Asked):
            assert 1 <= found.limit <= 100
            assert found.ratio == found.ratio, "not NaN"
            assert abs(found.ratio) != float("inf")

    @pytest.mark.parametrize("part", [b"tag=x&", b"&", b"=", b"%", b"tag=%41&"])
    def test_a_long_query_costs_its_length(self, part: bytes) -> None:
        """Steps grow with the query, not with its square."""
        assert is_linear(lambda n: lambda: QueryReader(Asked).read(part * n), 30)


tokens = st.text(st.characters(max_codepoint=255), max_size=40)
tags = st.lists(
    st.sampled_from(['"1"', 'W/"1"', '""', '"', "*", ",", " ", "W/", '"' + "9" * 30 + '"', "é"]), max_size=8
)


letters = [
    b"example.com",
    b"localhost",
    b"http://",
    b"https://",
    b".",
    b":",
    b"80",
    b"evil",
    b"@",
    b" ",
    b",",
]
names = st.lists(st.sampled_from(letters), max_size=6).map(b"".join)
keys = st.binary(max_size=300) | st.text('k"\\, ;=é', max_size=300).map(str.encode)
versions = st.text("ios/.0129v-+() ", max_size=80).map(lambda version: f"ios/{version}".encode())
VERSIONS = read_versions(["ios 2.1"])


class TestHeaders:
    @thorough
    @given(keys, st.booleans())
    def test_idempotency_keys(self, header: bytes, known: bool) -> None:
        """Any key is visible characters within its bound, or malformed; quotes around it mean nothing."""
        found = answers(lambda: read_key(header, needed=False, known=known), Malformed)
        if isinstance(found, str):
            assert re.fullmatch(r"[!-~]{1,255}", found)
            assert known or len(found) >= LEAST_UNKNOWN
            if "\\" not in found:
                assert read_key(f'"{found}"'.encode(), needed=True, known=known) == found

    @thorough
    @given(versions | st.binary(max_size=80))
    def test_versions_of_apps(self, header: bytes) -> None:
        """Any version passes or is too old; what is refused is of this platform, and below the oldest."""
        found = answers(lambda: VERSIONS.check(header), AppTooOld)
        if isinstance(found, AppTooOld):
            refused = re.match(rb"ios/v?(\d+)(?:\.(\d+))?", header.lower())
            assert refused is not None
            assert (int(refused[1]), int(refused[2] or 0)) < (2, 1)

    @thorough
    @given(tokens | tags.map("".join))
    def test_entity_tags(self, header: str) -> None:
        """Any If-Match and If-None-Match is a list of tags or malformed, and never an op beyond 64 bits."""
        found = answers(lambda: wanted_ops(header), Malformed)
        assert isinstance(found, tuple | Malformed | None)
        assert isinstance(answers(lambda: is_known(header, 1), Malformed), bool | Malformed)
        matches(header, '"1"')

    @thorough
    @given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5))
    def test_tags_that_were_given_out_are_known(self, ops: list[int]) -> None:
        """Whatever the list, a tag in it is found."""
        header = ", ".join(map(etag, ops))
        assert wanted_ops(header) == tuple(ops)
        assert all(is_known(header, op) and matches(header, etag(op)) for op in ops)

    @thorough
    @given(tokens)
    def test_accept_encoding(self, header: str) -> None:
        """Any Accept-Encoding chooses one of the offers or none."""
        request = Request(body=None, query=None, headers=[(b"accept-encoding", header.encode("latin-1"))])
        assert request.accepts_encoding("zstd", "gzip") in ("zstd", "gzip", None)

    @thorough
    @given(st.binary(max_size=60) | names, st.none() | st.binary(max_size=60))
    def test_hosts_and_origins(self, name: bytes, wanted: bytes | None) -> None:
        """Any Host is ours or not; an origin is let in only as it was listed; no header gets a line break."""
        if Hosts(["example.com"]).allow(name):
            assert re.fullmatch(rb"example\.com\.*(:\d{1,5})?", name)
        origins = Origins(["https://example.com", "http://localhost:*"])
        if origins.allow(name):
            assert re.fullmatch(rb"https://example\.com|http://localhost(:\d*)?", name)
        for _, value in [*origins.headers(name), *Origins(["*"]).preflight(b"x", wanted, ["GET"])]:
            assert b"\n" not in value
            assert b"\r" not in value
