"""What is small to send and large to take, at addresses that need no token."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import sys
import time
from collections.abc import Callable

import pytest

from lowtide.kernel.http import MIB
from tests.attacks.conftest import Besieged, read

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TARGETS = (
    "/v1/auth/anonymous",
    "/v1/auth/email/start",
    "/v1/auth/token/refresh",
    "/v1/auth/passkeys/sign-in",
)
LARGE = b'{"email": "' + b"a" * (12 * MIB) + b'"}'
"""Packed, it is below every limit."""


def nested(depth: int, opened: bytes = b"[", closed: bytes = b"]") -> bytes:
    return b'{"device": ' + opened * depth + closed * depth + b"}"


def gzipped() -> bytes:
    return gzip.compress(LARGE, 9)


def zstandard() -> bytes:
    return zstd.compress(LARGE, 19)


def wide_window() -> bytes:
    # A frame that asks for 1 GiB before its first byte: magic number, no size, window log 30.
    return b"\x28\xb5\x2f\xfd" + bytes([0x00, (30 - 10) << 3]) + b"\x01\x00\x00"


BOMBS: dict[str, tuple[str, Callable[[], bytes], int, str]] = {
    "gzip": ("gzip", gzipped, 413, "too_large"),
    "zstd": ("zstd", zstandard, 413, "too_large"),
    "gzip in gzip": ("gzip", lambda: gzip.compress(gzipped(), 9), 400, "malformed"),
    "many empty members": ("gzip", lambda: gzip.compress(b"") * 600, 400, "malformed"),
    "a window of a gigabyte": ("zstd", wide_window, 400, "malformed"),
    "a tail": ("gzip", lambda: gzip.compress(b"{}") + b"\0" * 8000, 400, "malformed"),
    "two codings": ("gzip, gzip", lambda: gzip.compress(gzip.compress(b"{}")), 415, "unsupported_media"),
    "another coding": ("br", lambda: b"\x8b\x00\x80{}\x03", 415, "unsupported_media"),
    "deep lists": ("", lambda: nested(7000), 400, "malformed"),
    "deep objects": ("", lambda: nested(2000, b'{"a":', b"}").replace(b":}", b":0}"), 400, "malformed"),
    "deep and unended": ("", lambda: b"[" * 15_000, 400, "malformed"),
    "deep when unpacked": ("gzip", lambda: gzip.compress(nested(7000)), 400, "malformed"),
    "a long number": ("", lambda: b'{"device": ' + b"9" * 15_000 + b"}", 400, "malformed"),
    "an exponent": ("", lambda: b'{"device": 1e999999999}', 400, "malformed"),
    "one name many times": ("", lambda: b"{" + b'"device":{},' * 1000 + b'"device":0}', 400, "malformed"),
    "too long": ("", lambda: json.dumps({"device": "x" * 200_000}).encode(), 413, "too_large"),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(besieged: Besieged, name: str, target: str) -> None:
    """By its size or shape, before it is unpacked or read as a whole, with a documented code."""
    coding, make, status, code = BOMBS[name]
    headers = {"content-type": "application/json"} | ({"content-encoding": coding} if coding else {})
    body = make()
    started = time.monotonic()
    answer = besieged.ask("POST", target, headers, body)
    assert not coding or len(body) < 16_000, "its length alone is refused"
    assert (answer.status, answer.code) == (status, code), answer.body
    assert time.monotonic() - started < 2


HEADS = {
    "many headers": "".join(f"X-{n}: 1\r\n" for n in range(5000)),
    "one large header": f"X: {'x' * 200_000}\r\n",
    "a large token": f"Authorization: Bearer {'x' * 100_000}\r\n",
    "many tokens": "Authorization: Bearer x\r\n" * 3000,
    "a long name": f"{'x' * 100_000}: 1\r\n",
    "a large cookie": f"Cookie: {'a=b; ' * 20_000}\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_flood_of_headers_is_refused(besieged: Besieged, name: str) -> None:
    """431 and the end of the connection, long before all of it has come."""
    with besieged.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(f"GET /v1/auth/me HTTP/1.1\r\nHost: localhost\r\n{HEADS[name]}\r\n".encode())
        replies, closed = read(connection)
    assert {(reply.status, reply.code) for reply in replies} <= {(431, "head_too_large")}
    assert closed


def test_slow_senders_are_ended_and_hold_nobody_up(besieged: Besieged) -> None:
    """Heads and bodies that dribble end at their times, with 408 or nothing; ann is answered all along."""
    head = b"POST /v1/auth/anonymous HTTP/1.1\r\nHost: localhost\r\n"
    body = head + b"Content-Type: application/json\r\nContent-Length: 9000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        open_: dict[socket.socket, bytes] = {}
        for first in [head] * 150 + [body] * 150:
            connection = stack.enter_context(besieged.connect())
            connection.sendall(first)
            open_[connection] = first
        started = time.monotonic()
        said: dict[bytes, set[bytes]] = {head: set(), body: set()}
        slowest = 0.0
        while open_ and time.monotonic() - started < 25:
            asked = time.monotonic()
            assert besieged.me(besieged.ann.token).status == 200
            slowest = max(slowest, time.monotonic() - asked)
            for connection, first in list(open_.items()):
                try:
                    connection.sendall(b"X: 1\r\n" if first is head else b" ")
                    connection.setblocking(False)
                    got = connection.recv(100)
                    said[first].add(got[:12])
                except BlockingIOError:
                    connection.setblocking(True)
                    continue
                except OSError:
                    said[first].add(b"")
                del open_[connection]
            time.sleep(0.5)
        assert open_ == {}, "somebody slow is still connected"
        assert said[head] == {b""}
        assert said[body] <= {b"HTTP/1.1 408", b""}
        assert b"HTTP/1.1 408" in said[body]
        assert slowest < 2
