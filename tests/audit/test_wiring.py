"""What is privileged is written down: at the start, by keys, by the app's servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lowtide import App, Text, me, owner
from lowtide.app import Lowtide
from lowtide.app import build as build_app
from lowtide.audit.store import Found, Search, search
from lowtide.audit.trail import Trail
from lowtide.audit.verify import verify
from lowtide.kernel.errors import StorageFull
from lowtide.kernel.http import Request
from lowtide.kernel.schema import Principal
from lowtide.settings import Settings, without_secrets
from lowtide.storage.db import Tx
from lowtide.sync import sync_routes
from lowtide.sync.grants import Grant, GrantTrail
from lowtide.sync.model import Transaction
from lowtide.sync.pull import PullRequest
from tests.api.client import Client
from tests.contract.shop import app as shop

pytestmark = pytest.mark.anyio


async def entries(lowtide: Lowtide, action: str) -> list[Found]:
    async def work(tx: Tx) -> list[Found]:
        return (await search(tx, Search(action=action))).entries

    return await lowtide.database.read(work)


@asynccontextmanager
async def running(path: Path, app: App = shop, **settings: Any) -> AsyncIterator[Lowtide]:
    """A whole backend on a SQLite file, started and stopped."""
    chosen = Settings(database=str(path), worker=False, **settings)
    lowtide = await asyncio.to_thread(build_app, chosen, app)
    await lowtide.start()
    try:
        yield lowtide
    finally:
        await lowtide.stop()


async def test_a_changed_setting_is_written_down_once(tmp_path: Path) -> None:
    """A start under other settings is an entry, a start under the same is none; no secret is in it."""
    path = tmp_path / "data.db"
    counts = []
    for port in (8420, 8420, 9000, 9000):
        async with running(path, port=port) as lowtide:
            counts.append(len(await entries(lowtide, "settings.change")))
    assert counts == [1, 1, 2, 2]


def test_settings_are_told_without_their_secrets() -> None:
    """Neither the key nor a password in an address is among what is hashed and shown."""
    shown = without_secrets(
        Settings(
            database="postgresql://app:hunter2@db/app",
            secret_key="master",
            smtp_url="smtp://mail:hunter3@mx:587",
            s3_secret="hunter4",
            sms_url="https://sms.example/send?api_key=hunter5&to=x",
            sms_authorization="Bearer hunter6",
            sms_body="To=$to&Body=$text&Token=hunter7",
        )
    )
    assert not [secret for secret in ("hunter", "master") if secret in repr(shown)]
    assert shown.sms_url == "https://sms.example/send?api_key=...&to=x"
    asked = without_secrets(Settings(database="postgresql:///app?user=app&password=hunter8"))
    assert asked.database == "postgresql:///app?user=app&password=..."
    assert "app:...@db/app" in shown.database


async def test_a_deployed_schema_is_written_down(tmp_path: Path) -> None:
    """The first schema and each other one is an entry with hashes; the same again is none."""
    path, found = tmp_path / "data.db", []
    for _ in range(2):
        async with running(path) as lowtide:
            found = await entries(lowtide, "schema.deploy")
    [entry] = found
    assert (entry.actor, entry.via, entry.before) == ("system", "start", None)
    assert entry.after is not None


async def test_a_change_of_keys_is_written_down(tmp_path: Path) -> None:
    """Who revokes a signing key stands in the log with the key; what a stop leaves is chained and whole."""
    async with running(tmp_path / "data.db") as lowtide:
        kid = lowtide.keys.current.kid
        await lowtide.keys.revoke(kid, "cli:ann", via="cli")
        [entry] = await entries(lowtide, "key.")
        assert (entry.action, entry.actor, entry.target) == ("key.revoke", "cli:ann", f"key:{kid}")
    async with running(tmp_path / "data.db") as lowtide:
        verdict = await verify(lowtide.database)
        assert (verdict.waiting, verdict.faults) == (0, [])
        assert verdict.entries >= 3


def trail_of(lowtide: Lowtide) -> Trail:
    return Trail(lowtide.audit, lowtide.database)


async def test_a_servers_read_over_rest_is_written_down(tmp_path: Path) -> None:
    """A record and a list are entries that name what was read; a user's are none."""
    async with running(tmp_path / "data.db") as lowtide:
        server = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('app', server=True)}"})
        user = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('ann')}"})
        made = {"id": "m1", "data": {"user_id": "ann", "team_id": "red"}}
        assert (await server.post("/v1/records/membership", json=made)).status == 201
        for client in (user, server):
            await client.get("/v1/records/membership/m1")
            await client.get("/v1/records/membership")
        found = [(e.action, e.actor, e.target) for e in await entries(lowtide, "record.")]
        assert sorted(found) == [
            ("record.list", "server:app", "model:membership"),
            ("record.read", "server:app", "record:membership/m1"),
        ]


async def test_a_servers_read_is_written_down(tmp_path: Path) -> None:
    """What the app's own server pulls is an entry before the answer; what a user pulls is none."""
    async with running(tmp_path / "data.db") as lowtide:
        pull = next(
            route
            for route in sync_routes(lowtide.sync, trail_of(lowtide), lambda _: None)
            if route.path == "/v1/sync/pull"
        )
        body = PullRequest()
        await pull.handler(Request(body=body, query=None, who=Principal(user="ann"), id="r1"))
        assert await entries(lowtide, "records.pull") == []
        server = Principal(user="app", server=True)
        await pull.handler(Request(body=body, query=None, who=server, id="r2", client="192.0.2.1"))
        [entry] = await entries(lowtide, "records.pull")
        assert (entry.actor, entry.via, entry.request) == ("server:app", "token", "r2")


async def test_what_cannot_be_written_down_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A privileged read fails closed: without its entry there is no answer."""
    async with running(tmp_path / "data.db") as lowtide:

        async def full(*_: object) -> str:
            raise StorageFull

        monkeypatch.setattr(lowtide.audit, "write_all", full)
        pull = next(
            route
            for route in sync_routes(lowtide.sync, trail_of(lowtide), lambda _: None)
            if route.path == "/v1/sync/pull"
        )
        with pytest.raises(StorageFull):
            await pull.handler(
                Request(body=PullRequest(), query=None, who=Principal(user="app", server=True))
            )


async def test_a_grant_is_written_down(tmp_path: Path) -> None:
    """Who lets whom into a team, moves or removes them, and by which request.

    What changes nobody's keys, or is refused, leaves no entry.
    """
    async with running(tmp_path / "data.db") as lowtide:
        server = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('app', server=True)}"})
        ann = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('ann')}"})
        at = "/v1/records/membership"
        made = {"id": "m1", "data": {"user_id": "ann", "team_id": "red"}}
        asked = [
            await server.post(at, json=made),
            await server.request("PATCH", f"{at}/m1", json={"data": {"team_id": "blue"}}),
            await server.request("DELETE", f"{at}/m1"),
        ]
        assert [answer.status for answer in asked] == [201, 200, 204]
        assert (await server.request("PATCH", f"{at}/m1", json={"data": {"team_id": "red"}})).status == 404
        assert (await ann.post(at, json={"data": {"user_id": "ann", "team_id": "red"}})).status == 403
        note = {"data": {"owner_id": "ann", "title": "no grant"}}
        assert (await ann.post("/v1/records/note", json=note)).status == 201
        found = await entries(lowtide, "grant.")
        first, second, third = (answer.headers["x-request-id"] for answer in asked)
        assert sorted((e.request, e.action, (e.personal or {})["key"]) for e in found) == sorted(
            [
                (first, "grant.give", "red"),
                (second, "grant.take", "red"),
                (second, "grant.give", "blue"),
                (third, "grant.take", "blue"),
            ]
        )
        assert {(e.actor, e.via, e.target) for e in found} == {("server:app", "token", "user:ann")}
        given = [e for e in found if e.action == "grant.give"]
        assert all(e.before is None and e.after is not None for e in given)


async def test_a_record_may_itself_be_the_key_that_it_grants(tmp_path: Path) -> None:
    """A team is its owner's by its id, where the stream says so: that is a grant, too, and no fault."""
    app = App("teams")

    @app.model
    class Team:
        owner_id = Text()
        name = Text(default="")
        write = owner("owner_id")

    mine = Team.where(owner_id=me).id  # type: ignore[attr-defined]
    app.stream("team", carries={Team: "id"}, keys=mine)
    async with running(tmp_path / "data.db", app) as lowtide:
        ann = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('ann')}"})
        at = "/v1/records/team"
        assert (await ann.post(at, json={"id": "t1", "data": {"owner_id": "ann"}})).status == 201
        assert (await ann.request("PATCH", f"{at}/t1", json={"data": {"name": "Reds"}})).status == 200
        assert (await ann.request("DELETE", f"{at}/t1")).status == 204
        found = await entries(lowtide, "grant.")
        assert sorted((e.action, e.target, (e.personal or {})["key"]) for e in found) == [
            ("grant.give", "user:ann", "t1"),
            ("grant.take", "user:ann", "t1"),
        ]


async def test_a_grant_of_a_device_or_a_function_names_its_user(tmp_path: Path) -> None:
    """An upload is its user's; what a function gives was asked for by whoever called it."""
    author = Transaction(principal=Principal(user="ann", session="s1"), client_id="phone", mutations=())
    called = msgspec.structs.replace(
        author,
        principal=Principal(user="ann", server=True),
        client_id="function:share",
        asked=author.principal,
    )
    grant = Grant(("main", "membership", "m1"), "ben", "red", True, author)
    async with running(tmp_path / "data.db") as lowtide:
        grants = [grant, msgspec.structs.replace(grant, author=called)]
        await lowtide.database.write(lambda tx: GrantTrail(lowtide.audit).told(tx, grants))
        found = await entries(lowtide, "grant.")
        assert sorted((e.actor, e.via, e.target) for e in found) == [
            ("user:ann", "function:share", "user:ben"),
            ("user:ann", "session:s1", "user:ben"),
        ]


async def test_a_grant_that_cannot_be_written_down_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry and the membership are one transaction."""
    async with running(tmp_path / "data.db") as lowtide:

        async def full(*_: object) -> str:
            raise StorageFull

        server = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('app', server=True)}"})
        made = {"id": "m1", "data": {"user_id": "ann", "team_id": "red"}}
        with monkeypatch.context() as patch:
            patch.setattr(lowtide.audit, "write_all", full)
            assert (await server.post("/v1/records/membership", json=made)).code == "storage_full"
        assert (await server.get("/v1/records/membership/m1")).status == 404
