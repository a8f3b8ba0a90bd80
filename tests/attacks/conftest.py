"""A real server in a process of its own, two people who are signed in to it, and whoever attacks it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import msgspec
import pytest

from tests.acceptance.scenarios import APPS
from tests.server_process import ServerProcess

ORIGIN = "https://app.example.com"


class Reply(msgspec.Struct, frozen=True):
    """One answer on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code; None for an answer that is no problem."""
        problem = self.headers.get("content-type") == "application/problem+json"
        return str(self.json()["code"]) if problem else None


class Person(msgspec.Struct, frozen=True):
    """Somebody with an account."""

    id: str
    token: str
    signed: dict[str, Any]


class Besieged:
    """The server, seen from outside."""

    def __init__(self, server: ServerProcess):
        self.server = server
        self.port = server.port
        self.ann = self.person()
        self.bob = self.person()

    def person(self) -> Person:
        """Somebody new."""
        signed = self.ask("POST", "/v1/auth/anonymous", {"content-type": "application/json"}, b"{}").json()
        return Person(signed["user"]["id"], signed["access_token"], signed)

    def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """One well-formed request, on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, fields, answer.read())
        finally:
            connection.close()

    def me(self, token: str) -> Reply:
        """Who ``token`` stands for."""
        return self.ask("GET", "/v1/auth/me", {"authorization": f"Bearer {token}"})

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def raw(self, data: bytes) -> tuple[list[Reply], bool]:
        """The answers to exactly these bytes, and whether the server closed the connection of itself."""
        with self.connect() as connection:
            connection.sendall(data)
            return read(connection)


def read(connection: socket.socket, quiet: float = 0.25) -> tuple[list[Reply], bool]:
    """All answers until the server closes the connection, or has said nothing for ``quiet`` seconds."""
    got, closed = b"", False
    connection.settimeout(5)
    while not closed:
        try:
            part = connection.recv(65536)
        except TimeoutError:
            break
        except ConnectionResetError:
            closed = True
            break
        closed = part == b""
        got += part
        connection.settimeout(quiet)
    return list(_replies(got)), closed


def _replies(data: bytes) -> Iterator[Reply]:
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status = first.split(" ")[:2]
        assert version == "HTTP/1.1", head
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers.get("content-length", "0"))
        assert len(data) >= size, "an answer was cut"
        if int(status) >= 200:
            yield Reply(int(status), headers, data[:size])
        data = data[size:]


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    settings = {"cors_origins": f"{ORIGIN},http://localhost:*"}
    folder = tmp_path_factory.mktemp("besieged")
    with ServerProcess(folder, APPS["crew"], "crew", settings=settings) as server:
        yield Besieged(server)
        assert server.stop() == 0, server.log()[-4000:]


@pytest.fixture
def besieged(_server: Besieged) -> Iterator[Besieged]:
    """The server; afterwards it still answers its owner, as its owner, at once, and has logged no fault."""
    known = len(_server.server.faults())
    yield _server
    started = time.monotonic()
    answer = _server.me(_server.ann.token)
    assert (answer.status, answer.json()["id"]) == (200, _server.ann.id)
    assert time.monotonic() - started < 5
    assert _server.server.faults()[known:] == []
