"""An answer on its way out: in one write, with a head that is none of anybody's making."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from lowtide.api.reply import Reply

pytestmark = pytest.mark.anyio


class Wire:
    """What was written, a write at a time."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.writes.append(b"".join(parts))

    def close(self) -> None:
        self.closed = True


def reply(wire: Wire, method: str = "GET", *, keep_alive: bool = True) -> Reply:
    transport: Any = wire
    unused: Any = None
    return Reply(
        scope={"type": "http", "method": method},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=unused,
        access_logger=unused,
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


async def start(answer: Reply, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    await answer.send({"type": "http.response.start", "status": status, "headers": headers})


async def body(answer: Reply, data: bytes, *, more: bool = False) -> None:
    await answer.send({"type": "http.response.body", "body": data, "more_body": more})


async def test_an_answer_of_known_length_leaves_in_one_write() -> None:
    """Head and body go out together, and nothing before the body is there."""
    wire = Wire()
    answer = reply(wire)
    await start(answer, (b"Content-Length", b"2"))
    assert wire.writes == []
    await body(answer, b"ok")
    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\nok"]
    assert answer.response_complete
    assert not wire.closed


async def test_a_stream_s_head_does_not_wait_for_its_first_line() -> None:
    """Without a length the head is written at once, and each piece as a chunk of its own."""
    wire = Wire()
    answer = reply(wire)
    await start(answer)
    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: now\r\ntransfer-encoding: chunked\r\n\r\n"]
    await body(answer, b"line\n", more=True)
    await body(answer, b"")
    assert wire.writes[1:] == [b"5\r\nline\n\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize(
    "header",
    [
        (b"location", b"/a\r\nset-cookie: b=c"),
        (b"location", b"/a\nb"),
        (b"x", b"a\0"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
    ],
)
async def test_a_header_ends_no_line_but_its_own(header: tuple[bytes, bytes]) -> None:
    """A value or name that would split the head is refused, and nothing of it is written."""
    wire = Wire()
    answer = reply(wire)
    with pytest.raises(RuntimeError, match="header"):
        await start(answer, (b"content-length", b"0"), header)
    assert wire.writes == []


@pytest.mark.parametrize(("data", "complaint"), [(b"abc", "longer"), (b"a", "shorter")])
async def test_a_body_has_the_length_that_was_said(data: bytes, complaint: str) -> None:
    """Anything else would be taken for the next answer's beginning."""
    answer = reply(Wire())
    await start(answer, (b"content-length", b"2"))
    with pytest.raises(RuntimeError, match=complaint):
        await body(answer, data)
    assert not answer.response_complete


async def test_an_answer_to_head_has_no_body_and_its_length() -> None:
    """HEAD is told the length, and not one byte of the body."""
    wire = Wire()
    answer = reply(wire, "HEAD", keep_alive=False)
    await start(answer, (b"content-length", b"900"))
    await body(answer, b"")
    assert wire.writes == [
        b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 900\r\nconnection: close\r\n\r\n"
    ]
    assert wire.closed
