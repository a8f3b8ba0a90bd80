"""What admins and the app's servers change, and look at, is written down: the whole table of routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.audit.store import Found, Search, search
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import StorageFull
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from lowtide.storage.db import Query, Tx
from tests.contract.conftest import Whole, running
from tests.contract.matrix import ROWS, Sample
from tests.contract.people import SECRET, People
from tests.contract.shop import app
from tests.server_process import SECRET_KEY

pytestmark = pytest.mark.anyio

Address = tuple[str, str]
ACTORS = {"admin": "user:root", "server": "server:app"}
TABLES = Query(
    "tables",
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'audit%'",
    "",
)

WRITTEN: dict[Address, str] = {
    ("POST", "/v1/admin/users"): "user.create",
    ("PATCH", "/v1/admin/users/{id}"): "user.change",
    ("DELETE", "/v1/admin/users/{id}"): "user.delete",
    ("POST", "/v1/admin/users/{id}/end-sessions"): "session.end_all",
    ("PUT", "/v1/admin/users/{id}/spaces/{space}"): "member.set",
    ("DELETE", "/v1/admin/users/{id}/spaces/{space}"): "member.remove",
    ("DELETE", "/v1/admin/users/{id}/second-factor"): "second_factor.remove",
    ("DELETE", "/v1/admin/users/{id}/passkeys/{passkey}"): "user.remove_passkey",
    ("POST", "/v1/admin/keys/rotate"): "key.rotate",
    ("DELETE", "/v1/admin/keys/{kid}"): "key.revoke",
    ("PUT", "/v1/admin/clients/{client}"): "client.put",
    ("DELETE", "/v1/admin/clients/{client}"): "client.delete",
    ("POST", "/v1/admin/webhooks"): "webhook.create",
    ("PATCH", "/v1/admin/webhooks/{id}"): "webhook.switch",
    ("DELETE", "/v1/admin/webhooks/{id}"): "webhook.delete",
    ("POST", "/v1/admin/webhooks/{id}/secret"): "webhook.rotate",
    ("POST", "/v1/admin/webhooks/{id}/test"): "webhook.test",
    ("POST", "/v1/admin/webhooks/{id}/replay"): "webhook.replay",
    ("POST", "/v1/sync/devices/{client_id}/resync"): "device.resync",
    ("POST", "/v1/sync/conflicts/{id}/restore"): "conflict.restore",
    ("POST", "/v1/sync/pull"): "records.pull",
}
"""What stands in the log after each change of an admin or of an app's server, with the id of its request."""

LOOKED: dict[Address, str] = {
    ("GET", "/v1/admin/audit"): "audit.read",
    ("GET", "/v1/admin/audit/checkpoint"): "audit.checkpoint",
    ("GET", "/v1/admin/clients"): "client.list",
    ("GET", "/v1/admin/keys"): "key.list",
    ("GET", "/v1/admin/users"): "user.list",
    ("GET", "/v1/admin/users/{id}"): "user.read",
    ("GET", "/v1/admin/users/{id}/ways-in"): "user.read_ways_in",
    ("GET", "/v1/admin/webhooks"): "webhook.list",
    ("GET", "/v1/admin/webhooks/{id}/tries"): "webhook.read",
    ("GET", "/v1/records/{model}"): "record.list",
    ("GET", "/v1/records/{model}/{id}"): "record.read",
    ("GET", "/v1/sync/conflicts"): "conflict.read",
    ("GET", "/v1/sync/devices/{client_id}"): "device.read",
}
"""What stands in the log before an admin or an app's server is shown what others are not."""

NOT_LOOKED: dict[Address, str] = {
    ("GET", "/write-checkpoint2.json"): "a device of its own",
}
"""What a server may read that leaves no entry, and why."""

NOT_WRITTEN: dict[Address, str] = {
    ("POST", "/v1/functions/{name}"): "what it writes are records, with their history",
    ("POST", "/v1/records"): "records; a grant among them has its entry",
    ("POST", "/v1/records/{model}"): "records; a grant among them has its entry",
    ("PATCH", "/v1/records/{model}/{id}"): "records; a grant among them has its entry",
    ("DELETE", "/v1/records/{model}/{id}"): "records; a grant among them has its entry",
    ("POST", "/v1/sync/batches"): "records; a grant among them has its entry",
    ("POST", "/v1/sync/audit"): "a device of its own",
    ("POST", "/sync/checkpoint-request"): "a device of its own",
    ("POST", "/sync/stream"): "a device of its own",
    ("POST", "/v1/oauth/introspect"): "it changes nothing",
}
"""What a server may ask that leaves no entry, and why."""


class Shop:
    """The shop at work, and what must be there before a change can succeed."""

    def __init__(self, lowtide: Lowtide, clock: ManualClock, people: People):
        self.lowtide, self._clock, self._people = lowtide, clock, people
        self._webhooks = 0

    async def sample(self, address: Address) -> Sample:
        """A request that succeeds."""
        method, path = address
        if path.startswith("/v1/admin/webhooks/"):
            return await self._of_webhook(method, path)
        if address == ("DELETE", "/v1/admin/keys/{kid}"):
            keys = (await self.send("GET", Sample(target="/v1/admin/keys"))).json()["keys"]
            return Sample(target=f"/v1/admin/keys/{keys[-1]['kid']}")
        if address == ("POST", "/v1/admin/keys/rotate"):
            self._clock.advance(1_000)  # by now every node knows the next key
        if address in (
            ("DELETE", "/v1/admin/clients/{client}"),
            ("DELETE", "/v1/admin/users/{id}/spaces/{space}"),
        ):
            made = await self._row("PUT", path)
            assert (await self.send("PUT", made)).status in (200, 204)
            return Sample(target=made.target)
        return await self._row(method, path)

    async def send(self, method: str, sample: Sample, who: str = "admin") -> Any:
        """The answer."""
        return await self._people.client.request(
            method,
            sample.target,
            json=sample.json,
            body=sample.body,
            headers=sample.headers,
            token=self._people.token(who),
        )

    async def _row(self, method: str, path: str) -> Sample:
        [row] = [row for row in ROWS if (row.method, row.path) == (method, path)]
        return await row.sample(self._people)

    async def _of_webhook(self, method: str, path: str) -> Sample:
        self._webhooks += 1
        body = {"url": f"https://{self._webhooks}.example.com/hook", "events": ["*"]}
        answer = await self.send("POST", Sample(target="/v1/admin/webhooks", json=body))
        target = path.replace("{id}", answer.json()["webhook"]["id"])
        return Sample(target=target, json={"enabled": False} if method == "PATCH" else None)

    async def entries(self, request: str) -> list[Found]:
        """What stands in the log of one request."""
        return (await self.lowtide.database.read(lambda tx: search(tx, Search(request=request)))).entries

    async def content(self) -> dict[str, list[Any]]:
        """Every table but the log."""

        async def read(tx: Tx) -> dict[str, list[Any]]:
            names = [name for (name,) in await tx.fetch(TABLES)]
            tables = {name: await tx.fetch(Query(name, f"SELECT * FROM {name}", "")) for name in names}
            return {name: sorted(repr(tuple(row)) for row in rows) for name, rows in tables.items()}

        return await self.lowtide.database.read(read)


@pytest.fixture(scope="module")
def clock() -> ManualClock:
    return ManualClock(SystemClock().now())


@pytest.fixture(scope="module")
def lowtide(tmp_path_factory: pytest.TempPathFactory, clock: ManualClock) -> Lowtide:
    """The shop, not started."""
    database = str(tmp_path_factory.mktemp("audit") / "data.db")
    settings = Settings(database=database, secret_key=SECRET_KEY, rate_limits=0, worker=False)
    return Lowtide(settings, app, clock, SystemIds(clock))


@pytest.fixture(scope="module")
async def shop(lowtide: Lowtide, clock: ManualClock) -> AsyncIterator[Shop]:
    """With everybody in it."""
    async with running(lowtide):
        people = People(lowtide)
        await people.join()
        yield Shop(lowtide, clock, people)


def addresses(whole: Whole) -> Iterator[Address]:
    """Every address at which the token of an admin or a server may change what nobody else may."""
    for route in whole.routes:
        [row] = [row for row in ROWS if (row.method, row.path) == (route.method, route.path)]
        server, anonymous = row.cells["server"], row.cells["anonymous"]
        if route.method != "GET" and (
            route.auth in ("admin", "server") or (server[0] == "2" and anonymous[0] != "2")
        ):
            yield route.method, route.path


def shown(whole: Whole) -> Iterator[Address]:
    """Every address that shows admins or servers what it does not show to anybody."""
    for route in whole.routes:
        [row] = [row for row in ROWS if (row.method, row.path) == (route.method, route.path)]
        server, anonymous = row.cells["server"], row.cells["anonymous"]
        if route.method == "GET" and (
            route.auth in ("admin", "server") or (server[0] == "2" and anonymous[0] != "2")
        ):
            yield route.method, route.path


def who_may(whole: Whole, address: Address) -> list[str]:
    [route] = [route for route in whole.routes if (route.method, route.path) == address]
    return ["admin", "server"] if route.auth == "admin" else ["server"]


def test_whatever_admins_and_servers_may_change_is_in_a_table(whole: Whole) -> None:
    """A new address fails here until somebody has said what it writes into the log, or why nothing."""
    assert sorted(addresses(whole)) == sorted([*WRITTEN, *NOT_WRITTEN])
    assert not [path for _, path in NOT_WRITTEN if "/admin/" in path], "what admins change is written down"


def test_whatever_admins_and_servers_are_shown_is_in_a_table(whole: Whole) -> None:
    """A new address fails here until somebody has said what looking at it leaves in the log."""
    assert sorted(shown(whole)) == sorted([*LOOKED, *NOT_LOOKED])
    assert not [path for _, path in NOT_LOOKED if "/admin/" in path], "what admins look at is written down"


@pytest.mark.parametrize("address", LOOKED, ids=" ".join)
async def test_each_look_is_written_down_or_refused(
    whole: Whole, shop: Shop, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is there before the answer: without it there is none."""

    async def full(*_: object) -> str:
        raise StorageFull

    for who in who_may(whole, address):
        sample = await shop.sample(address)
        answer = await shop.send(address[0], sample, who)
        assert answer.status == 200, answer.body
        [entry] = await shop.entries(answer.headers["x-request-id"])
        assert (entry.action, entry.actor) == (LOOKED[address], ACTORS[who])
        assert SECRET not in repr(entry)
        with monkeypatch.context() as patch:
            patch.setattr(shop.lowtide.audit, "write", full)
            answer = await shop.send(address[0], sample, who)
        assert (answer.status, answer.json()["code"]) == (503, "storage_full")


@pytest.mark.parametrize("address", WRITTEN, ids=" ".join)
async def test_each_change_is_written_down(whole: Whole, shop: Shop, address: Address) -> None:
    """The entry names who did it, carries the id of the request, and holds no content."""
    for who in who_may(whole, address):
        answer = await shop.send(address[0], await shop.sample(address), who)
        assert answer.status // 100 == 2, answer.body
        [entry] = await shop.entries(answer.headers["x-request-id"])
        assert (entry.action, entry.actor) == (WRITTEN[address], ACTORS[who])
        assert entry.target or address[1] == "/v1/sync/pull"
        assert SECRET not in repr(entry)


@pytest.mark.parametrize("address", WRITTEN, ids=" ".join)
async def test_what_cannot_be_written_down_is_not_done(
    whole: Whole, shop: Shop, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is in the transaction of the change: without it nothing in the database is another."""
    sample = await shop.sample(address)

    async def full(*_: object) -> str:
        raise StorageFull

    for who in who_may(whole, address):
        before = await shop.content()
        with monkeypatch.context() as patch:
            patch.setattr(shop.lowtide.audit, "write", full)
            answer = await shop.send(address[0], sample, who)
        assert (answer.status, answer.json()["code"]) == (503, "storage_full")
        after = await shop.content()
        assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.parametrize("address", [one for one in NOT_WRITTEN if one[1] != "/sync/stream"], ids=" ".join)
async def test_what_is_said_to_leave_no_entry_leaves_none(shop: Shop, address: Address) -> None:
    """An address that begins to write entries moves to the other table."""
    answer = await shop.send(address[0], await shop.sample(address), "server")
    assert answer.status // 100 == 2, answer.body
    assert await shop.entries(answer.headers["x-request-id"]) == []
