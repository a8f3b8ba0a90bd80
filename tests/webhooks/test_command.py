"""Webhooks on the command line: what is set up, whether it works, and what to do when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from lowtide.app import Lowtide
from lowtide.cli.opened import with_backend
from lowtide.cli.project import open_project
from lowtide.webhooks import Endpoint, RecordChange, Tried, listed
from tests.conftest import Told


class Receiver(BaseHTTPRequestHandler):
    """Answers what it is told to, with characters that a terminal would obey."""

    status = 204
    heard: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Receiver.heard.append(dict(self.headers))
        self.send_response(Receiver.status)
        self.send_header("content-length", "9")
        self.end_headers()
        if Receiver.status != 204:
            self.wfile.write(b"no \x1b[31m!")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[int]:
    """The port of a receiver on this machine."""
    Receiver.heard, Receiver.status = [], 204
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def project(project: Path, receiver: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The app of 'lowtide new', which may send to the receiver."""
    monkeypatch.setenv("LOWTIDE_EGRESS_ALLOWED", f"127.0.0.1:{receiver}")
    return project


def add(port: int) -> Endpoint:
    """An endpoint that hears of all records, to which one message has died."""
    settings, app = open_project()

    async def work(lowtide: Lowtide) -> Endpoint:
        hooks = lowtide.webhooks

        async def write(tx: Any) -> Endpoint:
            made, _ = await hooks.add(
                tx, f"http://127.0.0.1:{port}/", ["user.*", "record.*"], ["*"], ["main"], data=True
            )
            await hooks.changed(tx, 1, [RecordChange("main", "task", "t", 1, None, {})])
            await hooks.enable(tx, made.id, False)
            return made

        return await lowtide.database.write(write)

    return with_backend(settings, app, work)


async def nothing(_: Lowtide) -> None:
    """The first start, which makes the database."""


async def switch_on(lowtide: Lowtide, id: str) -> None:
    """As an admin does over HTTP."""
    await lowtide.database.write(lambda tx: lowtide.webhooks.enable(tx, id, True))


async def fail(lowtide: Lowtide) -> None:
    """The message's try fails, with characters that a terminal would obey."""
    hooks = lowtide.webhooks
    (one,) = await lowtide.database.read(listed)
    tried = Tried(
        message="m",
        event="record.created",
        attempt=1,
        status=500,
        failure="It answered 500. \x1b[31m",
        took=1,
        at=1,
        op=1,
    )
    await lowtide.database.write(lambda tx: hooks._records._note(tx, one.id, [tried]))


def test_it_is_listed_tried_and_replayed(told: Told, receiver: int) -> None:
    """What it hears of, why it is off, what came back how soon, what to do; a replay is audited."""
    with_backend(*open_project(), nothing)
    code, out, _ = told("webhooks")
    assert (code, out) == (0, "There are no webhooks. Add one with POST /v1/admin/webhooks.\n")
    one = add(receiver)
    code, out, _ = told("webhooks")
    assert code == 0
    assert f"{one.id}  off  http://127.0.0.1:{receiver}/" in out
    assert "hears: user.*, record.* of * in main, with data" in out
    assert "records: 0 waiting, 1 dead" in out
    assert "off: by an admin" in out
    assert "whsec_" not in out
    code, out, _ = told("webhooks", "test", one.id)
    assert code == 0
    assert out.startswith("204 after ")
    assert out.endswith("It arrived.\n")
    assert Receiver.heard[0]["webhook-signature"].startswith("v1,")
    Receiver.status = 401
    code, out, _ = told("webhooks", "test", one.id)
    assert code == 1
    assert "\x1b" not in out
    assert "no ?[31m!" in out
    assert "this endpoint's secret" in out
    code, _, err = told("webhooks", "replay", one.id)
    assert (code, "Switch it on first." in err) == (1, True)
    assert "records: 0 waiting, 1 dead" in told("webhooks")[1]
    with_backend(*open_project(), lambda lowtide: switch_on(lowtide, one.id))
    assert told("webhooks", "replay", one.id)[:2] == (0, "1 messages wait to be sent again.\n")
    assert "records: 1 waiting, 0 dead" in told("webhooks")[1]
    assert "webhook.replay" in told("audit", "list")[1]
    with_backend(*open_project(), fail)
    out = told("webhooks")[1]
    assert "    waiting after try 1: record.created main/task/t: It answered 500. ?[31m\n" in out


def test_one_that_is_none_is_said(told: Told) -> None:
    """No traceback, and nothing sent."""
    for command in ("test", "replay"):
        code, _, err = told("webhooks", command, "none")
        assert code == 1
        assert "There is no such webhook." in err
    assert Receiver.heard == []
