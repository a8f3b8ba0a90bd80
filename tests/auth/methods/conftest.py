"""A whole backend as ``lowtide dev`` serves it, on both databases, with a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lowtide import App
from lowtide.api.exchange import Receive, Send
from lowtide.app import Lowtide
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from lowtide.storage.db import Dialect, Query, Row
from tests.api.client import Answer, Client

KEY = "A" * 43
LINK = re.compile(r"http\S+")


class House:
    """The backend, and what a phone, a person and an operator do with it."""

    def __init__(self, lowtide: Lowtide, clock: ManualClock):
        self.lowtide = lowtide
        self.clock = clock
        self.client = self.at("203.0.113.7")
        self._seen = 0

    def at(self, ip: str) -> Client:
        """A client in another network."""

        async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
            await self.lowtide.asgi({**scope, "client": (ip, 50_000)}, receive, send)

        return Client(app)

    async def post(self, path: str, token: str | None = None, **body: Any) -> Answer:
        """A JSON request of the phone, a moment after the one before."""
        self.clock.advance(0.001)
        return await self.client.post(f"/v1/auth/{path}", json=body, token=token)

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """The next ``count`` messages that are sent, the oldest first."""
        async with asyncio.timeout(20):
            while True:
                sent = (await self.client.get("/dev/outbox.json")).json()["messages"]
                if len(sent) >= self._seen + count:
                    new = sent[: len(sent) - self._seen]
                    self._seen += count
                    assert len(new) == count, new
                    return list(reversed(new))
                await asyncio.sleep(0.01)

    async def code(self) -> str:
        """The code in the next mail."""
        (sent,) = await self.messages(1)
        found = re.search(r"\d{4} \d{4}", sent["text"])
        assert found is not None
        return found[0]

    async def link(self) -> str:
        """Where the link of the next mail leads, without the host."""
        (sent,) = await self.messages(1)
        found = LINK.search(sent["text"])
        assert found is not None
        return found[0].removeprefix("http://localhost")

    async def sign_in(self, email: str = "ann@example.com", **more: Any) -> dict[str, Any]:
        """A session by a code from a mail."""
        flow = (await self.post("email/start", email=email)).json()
        code = await self.code()
        answer = await self.post("email/finish", flow_id=flow["flow_id"], code=code, **more)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    async def rows(self, sql: str) -> list[Row]:
        """What the database holds."""
        query = Query("test", sql, sql)
        return await self.lowtide.database.read(lambda tx: tx.fetch(query))

    async def write(self, sql: str, *params: Any) -> None:
        """Change what the database holds."""
        query = Query("test", re.sub(r"\$(\d)", r"?\1", sql), sql)
        await self.lowtide.database.write(lambda tx: tx.execute(query, *params))

    async def ended(self, session: str) -> bool:
        """Is a session over?"""
        found = await self.lowtide.database.read(lambda tx: self.lowtide.accounts.sessions.find(tx, session))
        assert found is not None
        return found.ended_at is not None

    async def refreshed(self, session: dict[str, Any]) -> str:
        """A new access token of a session."""
        signed = await self.lowtide.accounts.sessions.refresh(session["refresh_token"])
        return signed.access_token

    async def audited(self, action: str) -> int:
        """How many entries of the audit log say this."""
        return len([row for row in await self.rows("SELECT action FROM audit_entry") if row[0] == action])


@asynccontextmanager
async def housed(place: str, app: App) -> AsyncIterator[House]:
    """A backend for ``app`` with an outbox, started."""
    clock = ManualClock()
    settings = Settings(database=place, secret_key=KEY)
    made = partial(Lowtide, settings, app, clock, SystemIds(clock), dev=True)
    lowtide = await asyncio.to_thread(made)  # makes a folder
    await lowtide.start()
    yield House(lowtide, clock)
    await lowtide.stop()


@pytest.fixture
async def house(
    anyio_backend: object, dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[House]:
    """A backend without hooks."""
    place = str(tmp_path / "data.db") if dialect == "sqlite" else request.getfixturevalue("postgres_dsn")
    async with housed(place, App("notes")) as house:
        yield house
