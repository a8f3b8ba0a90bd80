"""Request smuggling: two readers of one connection that disagree where a request ends.

Every probe goes out as a proxy would pass it on: the attacker's bytes, which hide a request of bob's, and
behind them a request of ann's. Either the connection ends before anything that is hidden or follows, or
each answer is to the request at its place.
"""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.attacks.conftest import Besieged, Person, Reply, read

POST = "POST /v1/auth/email/finish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = "GET /v1/auth/me HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def asking(person: Person, more: str = "") -> str:
    """A request for the account of ``person``."""
    return f"{GET}Authorization: Bearer {person.token}\r\n{more}\r\n"


def hidden(besieged: Besieged) -> str:
    """The poison: a request of bob's whose last header swallows the next request's first line."""
    return asking(besieged.bob)[:-2] + "X: "


# {n}: the length of what is hidden, {hex} the same, {hidden}: the poison.
AMBIGUOUS = {
    "length and chunks": POST + "Content-Length: {n}\r\n" + CHUNKED + "\r\n0\r\n\r\n{hidden}",
    "chunks and length": POST + CHUNKED + "Content-Length: 4\r\n\r\n{hex}\r\n{hidden}\r\n0\r\n\r\n",
    "none and a length": POST + "Content-Length: 0\r\nContent-Length: {n}\r\n\r\n{hidden}",
    "a length and none": POST + "Content-Length: {n}\r\nContent-Length: 0\r\n\r\n{hidden}",
    "the same length twice": POST + "Content-Length: {n}\r\nContent-Length: {n}\r\n\r\n{hidden}",
    "a list of lengths": POST + "Content-Length: 0, {n}\r\n\r\n{hidden}",
    "a length with a plus": POST + "Content-Length: +{n}\r\n\r\n{hidden}",
    "a length below nothing": POST + "Content-Length: -1\r\n\r\n{hidden}",
    "a length with a gap": POST + "Content-Length: 1 2\r\n\r\n{hidden}",
    "a length of nothing": POST + "Content-Length:\r\n\r\n{hidden}",
    "a hexadecimal length": POST + "Content-Length: 0x{hex}\r\n\r\n{hidden}",
    "a length with a line": POST + "Content-Length: 1_0\r\n\r\n{hidden}",
    "a length with a fraction": POST + "Content-Length: {n}.0\r\n\r\n{hidden}",
    "a length behind a tabulator": POST + "Content-Length:\x0b{n}\r\n\r\n{hidden}",
    "a space before the colon": POST + "Content-Length : {n}\r\n\r\n{hidden}",
    "a folded length": POST + "Content-Length:\r\n {n}\r\n\r\n{hidden}",
    "a folded coding": POST + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a coding in a fold": POST + "X: 1\r\n Transfer-Encoding: chunked\r\n\r\n{hidden}",
    "a fold before all headers": "GET /v1/auth/me HTTP/1.1\r\n X: 1\r\nHost: localhost\r\n\r\n{hidden}",
    "a coding before a space": POST + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}",
    "another coding": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}",
    "a quoted coding": POST + 'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n{hidden}',
    "a coding behind a tabulator": POST + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{hidden}",
    "a coding before a NUL": POST + "Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n{hidden}",
    "a coding of nothing": POST + "Transfer-Encoding:\r\nContent-Length: {n}\r\n\r\n{hidden}",
    "identity and a length": POST + "Transfer-Encoding: identity\r\nContent-Length: {n}\r\n\r\n{hidden}",
    "a coding with a parameter": POST + "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n{hidden}",
    "a coding twice": POST + CHUNKED + CHUNKED + "\r\n0\r\n\r\n{hidden}",
    "a coding, then another": POST + CHUNKED + "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}",
    "another, then a coding": POST + "Transfer-Encoding: identity\r\n" + CHUNKED + "\r\n0\r\n\r\n{hidden}",
    "a list that ends in chunks": POST + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{hidden}",
    "compressed chunks": POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a list that begins with nothing": POST + "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a list of chunks": POST + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a bare line feed in the head": POST + "X: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a bare line feed behind the head": POST + "Content-Length: 0\r\n\n{hidden}",
    "bare line feeds": POST + "Content-Length: 0\n\n{hidden}",
    "a bare line feed in the first line": "GET /v1/auth/me HTTP/1.1\nHost: localhost\r\n\r\n{hidden}",
    "a bare carriage return": POST + "X: 1\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a header without a name": POST + ": x\r\nContent-Length: 0\r\n\r\n{hidden}",
    "chunks with line feeds": POST + CHUNKED + "\r\n0\n\n{hidden}",
    "a chunk's size before a line feed": POST + CHUNKED + "\r\n2\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk before a line feed": POST + CHUNKED + "\r\n2\r\n{{}}\n0\r\n\r\n{hidden}",
    "a chunk that is longer": POST + CHUNKED + "\r\n2\r\n{{}}xx\r\n0\r\n\r\n{hidden}",
    "a chunk's extension before a line feed": POST + CHUNKED + "\r\n2;a\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk's size with 0x": POST + CHUNKED + "\r\n0x2\r\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk's size with a plus": POST + CHUNKED + "\r\n+2\r\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk's size behind a space": POST + CHUNKED + "\r\n 2\r\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk's size before a space": POST + CHUNKED + "\r\n2 \r\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk's size with a line": POST + CHUNKED + "\r\n0_2\r\n{{}}\r\n0\r\n\r\n{hidden}",
    "a chunk beyond 64 bits": POST + CHUNKED + "\r\n10000000000000002\r\n{{}}\r\n0\r\n\r\n{hidden}",
    "a request without a version": "GET /v1/auth/me\r\n{hidden}",
    "a body with an upgrade": POST + UPGRADE + "Content-Length: {n}\r\n\r\n{hidden}",
    "chunks with an upgrade": POST + UPGRADE + CHUNKED + "\r\n{hex}\r\n{hidden}\r\n0\r\n\r\n",
    "another protocol's beginning": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}",
}

PLAIN = {
    "a body that looks like a request": (POST + "Content-Length: {n}\r\n\r\n{hidden}", 400, "malformed"),
    "a chunk that looks like one": (
        POST + CHUNKED + "\r\n{hex}\r\n{hidden}\r\n0\r\n\r\n",
        400,
        "malformed",
    ),
    "an expected body": (
        POST + "Expect: 100-continue\r\nContent-Length: {n}\r\n\r\n{hidden}",
        400,
        "malformed",
    ),
    "a body that nobody reads": (GET + "Content-Length: {n}\r\n\r\n{hidden}", 401, "unauthorized"),
    "chunks that nobody reads": (
        GET + CHUNKED + "\r\n{hex}\r\n{hidden}\r\n0\r\n\r\n",
        401,
        "unauthorized",
    ),
    "a body for no address": (
        "POST /v1/none HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{hidden}",
        404,
        "not_found",
    ),
    "no body with an upgrade": (GET + UPGRADE + "Content-Length: 0\r\n\r\n", 401, "unauthorized"),
    "identity behind the body": (
        GET + CHUNKED + "\r\n0\r\nAuthorization: Bearer {token}\r\nHost: evil\r\n\r\n",
        401,
        "unauthorized",
    ),
    "an address with line ends": (
        "GET /v1/auth/me%0d%0aHost:%20evil HTTP/1.1\r\nHost: localhost\r\n\r\n",
        404,
        "not_found",
    ),
    "two identities": (
        GET + "Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n\r\n",
        400,
        "bad_request",
    ),
}


def filled(besieged: Besieged, probe: str) -> bytes:
    """The probe with its poison, and ann's request behind it."""
    poison = hidden(besieged)
    made = probe.format(n=len(poison), hex=f"{len(poison):x}", hidden=poison, token=besieged.bob.token)
    return (made + asking(besieged.ann)).encode("latin-1")


def is_anns(besieged: Besieged, reply: Reply) -> bool:
    return reply.status == 200 and reply.json()["id"] == besieged.ann.id


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_two_could_read_differently_ends_the_connection(besieged: Besieged, name: str) -> None:
    """One 400, and nothing behind it is answered, neither what is hidden nor what follows."""
    replies, closed = besieged.raw(filled(besieged, AMBIGUOUS[name]))
    assert [(reply.status, reply.code) for reply in replies] == [(400, "bad_request")]
    assert closed


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_hidden_in_a_body_is_no_request(besieged: Besieged, name: str) -> None:
    """The attacker's request has one answer, and ann's the next, with her account and not bob's."""
    probe, status, code = PLAIN[name]
    replies, closed = besieged.raw(filled(besieged, probe))
    first, second = replies
    assert (first.status, first.code) == (status, code)
    assert is_anns(besieged, second)
    assert not closed


def test_no_packet_is_a_request_by_itself(besieged: Besieged) -> None:
    """A body that comes in a packet of its own, after a head that asks for an upgrade, is refused too."""
    poison = asking(besieged.bob).encode()
    with besieged.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"{POST}{UPGRADE}Content-Length: {len(poison)}\r\n\r\n".encode())
        first, _ = read(connection)
        with contextlib.suppress(OSError):
            connection.sendall(poison)
        second, closed = read(connection)
    assert [(reply.status, reply.code) for reply in first + second] == [(400, "bad_request")]
    assert closed


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_end_of_the_connection_is_one(besieged: Besieged, version: str) -> None:
    """Behind a request that ends the connection nothing is answered."""
    first = asking(besieged.bob, "Connection: close\r\n").replace("HTTP/1.1", f"HTTP/{version}")
    replies, closed = besieged.raw((first + asking(besieged.ann)).encode())
    assert [reply.json()["id"] for reply in replies] == [besieged.bob.id]
    assert closed


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_what_stands_behind_an_upgrade_is_not_lost(besieged: Besieged, cut: int) -> None:
    """No answer moves up to another's place, wherever the packets end."""
    first = asking(besieged.bob, UPGRADE).encode()
    second, third = asking(besieged.ann).encode(), asking(besieged.bob).encode()
    with besieged.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(first + second[:cut])
        read(connection, 0.1)
        connection.sendall(second[cut:] + third)
        replies, closed = read(connection)
    ids = [reply.json()["id"] for reply in replies]
    assert ids == [besieged.ann.id, besieged.bob.id]
    assert not closed


def test_each_of_many_in_a_row_is_answered_as_who_asked(besieged: Besieged) -> None:
    """Pipelined requests of two people, with upgrades and refusals between them, keep their places."""
    ann, bob = besieged.ann, besieged.bob
    asked, expected = "", []
    for n in range(120):
        who = (ann, bob)[n % 2]
        if n % 5 == 4:
            asked += GET + "\r\n"
            expected.append("unauthorized")
        else:
            asked += asking(who, UPGRADE if n % 3 == 0 else "")
            expected.append(who.id)
    replies, closed = besieged.raw(asked.encode())
    assert [reply.code or reply.json()["id"] for reply in replies] == expected
    assert not closed
