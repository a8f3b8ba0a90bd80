"""Whatever is sent, the answer is a refusal or a success, and never a fault of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.api.edge import Edge
from tests.api.client import Answer, Client
from tests.api.edges import Handlers, build

NASTY = [
    "%",
    "%00",
    "%FF",
    "%2F",
    "..",
    "//",
    "\\",
    "{",
    "}",
    "é",
    " ",
    "\t",
    ";",
    "?",
    "&",
    "=",
    "#",
    "a" * 300,
]
PATHS = [
    "/notes",
    "/files/",
    "/any",
    "/raw",
    "/open",
    "/internal",
    "/problems/",
    "/health/ready",
    "/ticks2",
    "",
]
VALUES = [
    "gzip",
    "zstd",
    "application/json",
    "*/*",
    "Bearer ann",
    "Token app",
    "Bearer",
    "localhost",
    "0",
    "5",
    "",
]
NAMES = [
    "host",
    "authorization",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "origin",
    "accept-encoding",
    "access-control-request-method",
    "access-control-request-headers",
    "expect",
    "x",
]

text = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=20)
header = st.tuples(st.sampled_from(NAMES), st.one_of(st.sampled_from(VALUES), text))
target = st.builds(
    lambda path, parts: path + "".join(parts),
    st.sampled_from(PATHS),
    st.lists(st.one_of(st.sampled_from(NASTY), text), max_size=4),
).map(lambda made: made.encode("latin-1", "replace").decode("latin-1"))
body = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.lists(inner),
        max_leaves=9,
    ).map(lambda value: repr(value).replace("'", '"').encode("utf-8", "surrogatepass")),
)


@pytest.fixture(scope="module")
def edge() -> Edge:
    return build(Handlers(), origins=["*"])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("lowtide.access").setLevel(logging.WARNING)
    yield
    logging.getLogger("lowtide.access").setLevel(logging.NOTSET)


@settings(max_examples=400, deadline=None)
@given(
    method=st.one_of(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT"]), text),
    target=target,
    headers=st.lists(header, max_size=6),
    body=body,
    good=st.booleans(),
)
def test_nothing_that_is_sent_is_a_fault(
    edge: Edge, method: str, target: str, headers: list[tuple[str, str]], body: bytes, good: bool
) -> None:
    """Any method, address, headers and body: a status below 500, and nothing stays behind."""
    usual = {"authorization": "Bearer ann", "content-type": "application/json"} if good else {}
    client = Client(edge, usual)

    async def ask() -> Answer:
        return await client.request(method, target, headers=headers, body=[body])

    answer: Any = asyncio.run(ask())
    assert 200 <= answer.status < 500, answer.body
    assert answer.complete
    if answer.status >= 400 and method != "HEAD":
        assert answer.code is not None
    assert (edge.load.requests, edge.load.streams, edge.load.buffered) == (0, 0, 0)
